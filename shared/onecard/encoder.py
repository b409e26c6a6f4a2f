"""What the two encoder services share: inputs → token ids → batches → results. Needs the `encoder` extra."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from fastapi import Request
from transformers.utils.logging import disable_progress_bar

from onecard import logs, model_files
from onecard.batching.batcher import Batcher, Engine
from onecard.errors import InvalidRequest, ModelNotFound
from onecard.gpu.device import Device, choose
from onecard.health import Part, Readiness
from onecard.models import Kind, ModelFolder, find
from onecard.settings import EncoderSettings
from onecard.texts import TextReader

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
Inputs = Sequence[str] | Sequence[Sequence[int]]
"""Texts, or token ids that the client made itself."""

log = logs.logger()


class LoadedEngine(Engine[Result_co], Protocol[Result_co]):
    """An engine that knows its model's window."""

    @property
    def window(self) -> int:
        """Most tokens of one text, special tokens included."""


Loader = Callable[[ModelFolder, Device], LoadedEngine[Result]]


@dataclass(frozen=True)
class Answered(Generic[Result]):
    """Results of one request, in the order of its inputs."""

    results: list[Result]
    tokens: int
    """Tokens that the model read."""


@dataclass(frozen=True)
class Encoder(Generic[Result]):
    """A service's state: one model, ready to answer."""

    model: ModelFolder
    device: Device
    max_inputs: int
    reader: TextReader
    batcher: Batcher[Result]

    async def answer(self, inputs: Inputs, *, truncate: bool, timings: dict[str, float]) -> Answered[Result]:
        """Run the model on every input.

        Args:
            timings: milliseconds of `tokenize` and `inference` are added to it.

        Raises:
            InvalidRequest, InputTooLong: no input, too many, an empty one, one over the window.
        """
        check_inputs(inputs, self.max_inputs)
        started = time.perf_counter()
        ids = await asyncio.to_thread(self._read, inputs, truncate)
        read = time.perf_counter()
        results = await self.batcher.submit(ids)
        timings["tokenize"] = (read - started) * 1000
        timings["inference"] = (time.perf_counter() - read) * 1000
        return Answered(results, sum(map(len, ids)))

    def _read(self, inputs: Inputs, truncate: bool) -> list[list[int]]:
        if isinstance(inputs[0], str):
            return self.reader.read(inputs, truncate=truncate)  # type: ignore[arg-type]
        return self.reader.check_ids(inputs, truncate=truncate)  # type: ignore[arg-type]

    def check_model(self, name: str | None) -> None:
        """Accept the model's names.

        Raises:
            ModelNotFound: a request names another model.
        """
        if name is not None and name not in self.model.accepted_names:
            raise ModelNotFound(f"No such model here. This service has '{self.model.name}'.", param="model")

    def describe(self) -> dict[str, Any]:
        """The service's `GET /v1/models`."""
        card = {
            "id": self.model.name,
            "object": "model",
            "created": 0,
            "owned_by": "onecard",
            "engine": f"torch {self.device.precision} on {self.device.name.partition(':')[0]}",
            "stand_in_for": self.model.stand_in_for,
        }
        return {"object": "list", "data": [card]}


def check_inputs(inputs: Inputs, most: int) -> None:
    """The limits on a request's inputs.

    Raises:
        InvalidRequest: no input, more than `most`, or an empty one.
    """
    if not inputs:
        raise InvalidRequest("'input' is empty. Send at least one text.", param="input")
    if len(inputs) > most:
        raise InvalidRequest(f"'input' has {len(inputs)} texts; the limit is {most}. Split the request.", param="input")
    for index, item in enumerate(inputs):
        if not item or (isinstance(item, str) and not item.strip()):
            raise InvalidRequest(f"input[{index}] is empty. Remove it.", param="input")


@contextmanager
def open_encoder(kind: Kind, model: str, settings: EncoderSettings, load: Loader[Result]) -> Iterator[Encoder[Result]]:
    """Find, load and warm up a model; close its batcher at the end.

    Raises:
        SystemExit: the model is not there or is broken.
    """
    folder = find(kind, model, settings.model_cache_path)
    if fault := model_files.fault(folder.path):
        raise SystemExit(f"model {folder.name}: {fault}. Remove its folder, and run 'make models' again.")
    device = choose(settings)
    disable_progress_bar()  # It would write control characters into the JSON log.
    started = time.perf_counter()
    log.info("loading", model=folder.name, device=device.name, precision=device.precision)
    try:
        engine = load(folder, device)
        reader = TextReader.load(folder.path, engine.window)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        log.exception("model does not load", model=folder.name)
        raise SystemExit(
            f"model {folder.name} does not load ({type(error).__name__}); the log has the place."
        ) from None
    longest = min(engine.window, settings.batch_tokens)
    filler = reader.read(["가 " * longest], truncate=True)[0]
    engine.run([filler] * min(settings.batch_texts, settings.batch_tokens // longest))
    log.info("ready", model=folder.name, seconds=round(time.perf_counter() - started, 1))
    batcher = Batcher(engine, max_texts=settings.batch_texts, max_tokens=settings.batch_tokens)
    try:
        yield Encoder(folder, device, settings.max_inputs, reader, batcher)
    finally:
        batcher.close()


def state(request: Request) -> Encoder[Any]:
    """The encoder that the lifespan built."""
    encoder: Encoder[Any] = request.app.state.service
    return encoder


async def ready(request: Request) -> Readiness:
    """A service listens only once its model is loaded and warm, so a process that answers is ready."""
    return Readiness(status="ok", parts={state(request).model.name: Part(status="ok")})
