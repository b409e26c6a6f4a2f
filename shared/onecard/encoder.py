"""What the two encoder services share: inputs → token ids → batches → results. Needs the `encoder` extra."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.types import Scope
from transformers.utils.logging import disable_progress_bar

from onecard import logs, model_files
from onecard.batching.batcher import Batcher, Bounds
from onecard.batching.budget import Limit
from onecard.batching.metrics import BatchMetrics
from onecard.batching.thread import DeviceThread
from onecard.edge import Gate, state_of
from onecard.errors import InvalidRequest, ModelNotFound
from onecard.gpu.claim import claim
from onecard.gpu.device import Device, choose
from onecard.gpu.measured import memory_metrics
from onecard.health import Part, Readiness, Status
from onecard.lanes import Terms, terms
from onecard.leaving import while_connected
from onecard.models import Kind, ModelFolder, find
from onecard.settings import EncoderSettings
from onecard.texts import TextReader
from onecard.warm_up import LoadedEngine, Warm, warm_up

Result = TypeVar("Result")
Inputs = Sequence[str] | Sequence[Sequence[int]]
"""Texts, or token ids that the client made itself."""

Loader = Callable[[ModelFolder, Device], LoadedEngine[Result]]

INLINE_CHARACTERS = 2_000
"""Shorter inputs are tokenised on the event loop. Measured: 0.01 ms for one review, 1.4 ms for as many as this; the way
to a thread and back takes 0.1 ms, on an idle loop."""

log = logs.logger()


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
    settings: EncoderSettings
    reader: TextReader
    reading: asyncio.Semaphore
    """Held while a thread tokenises: the tokenizer uses several cores itself, and they are the model's."""
    batcher: Batcher[Result]

    async def answer(self, inputs: Inputs, *, truncate: bool, request: Request) -> Answered[Result]:
        """Run the model on every input; give up when the client leaves.

        Raises:
            InvalidRequest, InputTooLong: no input, too many, an empty one, one over the window.
            TooBusy, DeadlineExceeded, InternalError, Unavailable: as `Batcher.submit`.
            ClientGone: nobody waits for the answer any more.
        """
        check_inputs(inputs, self.settings.max_inputs)
        agreed = terms(request.headers, len(inputs), self.settings)
        timings: dict[str, float] = state_of(request.scope)["timings"]
        return await while_connected(self._work(inputs, truncate, agreed, timings), request.receive)

    async def _work(self, inputs: Inputs, truncate: bool, agreed: Terms, timings: dict[str, float]) -> Answered[Result]:
        started = time.monotonic()
        ids = await self._read(inputs, truncate, agreed)
        read = time.monotonic() - started
        left = max(0.0, agreed.timeout_seconds - read)
        outcome = await self.batcher.submit(ids, lane=agreed.lane, timeout_seconds=left)
        timings["tokenize"] = read * 1000
        timings["queue"] = outcome.queue_seconds * 1000
        timings["inference"] = outcome.inference_seconds * 1000
        return Answered(outcome.results, sum(map(len, ids)))

    async def _read(self, inputs: Inputs, truncate: bool, agreed: Terms) -> list[list[int]]:
        read: Any = self.reader.read if isinstance(inputs[0], str) else self.reader.check_ids
        if sum(map(len, inputs)) <= INLINE_CHARACTERS:
            return list(read(inputs, truncate=truncate))
        async with self.reading:
            # One that would be refused afterwards is refused now, before it costs the tokenizer's time.
            self.batcher.check_room(agreed.lane, len(inputs), agreed.timeout_seconds)
            return list(await asyncio.to_thread(read, inputs, truncate=truncate))

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


@asynccontextmanager
async def open_encoder(
    app: FastAPI, kind: Kind, model: str, settings: EncoderSettings, load: Loader[Result]
) -> AsyncIterator[None]:
    """The lifespan of an encoder service: its state is made, put into `app.state.service`, and closed at the end.

    Raises:
        SystemExit: the model is not there, is broken, or does not fit.
    """
    folder = find(kind, model, settings.model_cache_path)
    if fault := model_files.fault(folder.path):
        raise SystemExit(f"model {folder.name}: {fault}. Remove its folder, and run 'make models' again.")
    device = choose(settings)
    claimed = claim(kind, settings, device, batch_texts=settings.batch_texts, batch_tokens=settings.batch_tokens)
    memory_metrics(app.state.registry, claimed, device)
    thread = DeviceThread()
    most = Limit(claimed.batch_texts, claimed.batch_tokens)
    engine, reader, warm = await thread.call(lambda: _load(folder, device, most, load))
    bounds = Bounds(
        most=warm.most,
        tokens_per_second=warm.tokens_per_second,
        queue_tokens=settings.queue_tokens,
        hang_seconds=settings.batch_hang_seconds,
        width_multiple=device.width_multiple,
    )
    batcher = Batcher(engine, bounds, thread=thread, metrics=BatchMetrics(app.state.registry), on_lost=_end_process)
    app.state.service = Encoder(folder, device, settings, reader, asyncio.Semaphore(1), batcher)
    try:
        yield
    finally:
        await batcher.close()


def _load(
    folder: ModelFolder, device: Device, most: Limit, load: Loader[Result]
) -> tuple[LoadedEngine[Result], TextReader, Warm]:
    disable_progress_bar()  # It would write control characters into the JSON log.
    device.enter()
    started = time.perf_counter()
    log.info("loading", model=folder.name, device=device.name, precision=device.precision, attention="sdpa")
    try:
        engine = load(folder, device)
        reader = TextReader.load(folder.path, engine.window, engine.vocabulary)
        warm = warm_up(engine, reader, most, device.width_multiple)
    except Exception as error:
        log.exception("model does not load", model=folder.name)
        raise SystemExit(
            f"model {folder.name} does not load ({type(error).__name__}); the log has the place."
        ) from None
    log.info(
        "ready",
        model=folder.name,
        seconds=round(time.perf_counter() - started, 1),
        batch_tokens=warm.most.tokens,
        tokens_per_second=round(warm.tokens_per_second),
    )
    return engine, reader, warm


def _end_process() -> None:
    """Stop serving, so that whoever supervises this process starts it anew."""
    os.kill(os.getpid(), signal.SIGTERM)


def gate(path: str) -> Callable[[FastAPI], Gate]:
    """Refuses requests for `path` while too much waits for even one more token of theirs.

    It leaves the processor to those who were let in: of a request that its route refused, the route and what FastAPI
    does before it were 59 % of the time.
    """

    def of(app: FastAPI) -> Gate:
        def check(scope: Scope) -> None:
            encoder: Encoder[Any] = app.state.service
            least = terms(Headers(scope=scope), 1, encoder.settings)
            encoder.batcher.check_room(least.lane, 1, least.timeout_seconds)

        return Gate(frozenset({path}), check)

    return of


def state(request: Request) -> Encoder[Any]:
    """The encoder that the lifespan built."""
    encoder: Encoder[Any] = request.app.state.service
    return encoder


async def ready(request: Request) -> Readiness:
    """A service listens only once its model is loaded and warm, so it is ready unless it has lost its device."""
    encoder = state(request)
    status: Status = "ok" if encoder.batcher.alive else "down"
    return Readiness(status=status, parts={encoder.model.name: Part(status=status)})
