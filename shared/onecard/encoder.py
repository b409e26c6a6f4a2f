"""What the two encoder services share: the state of a service, and its life. Needs the `encoder` extra."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Generic, Literal, TypeVar

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Scope
from transformers.utils.logging import disable_progress_bar

from onecard import __version__, logs, model_files
from onecard.answers import Answered, Answers, Inputs, Query, Reading, Shelf
from onecard.batching.batcher import Batcher, Bounds
from onecard.batching.budget import Limit
from onecard.batching.metrics import BatchMetrics
from onecard.batching.thread import DeviceThread
from onecard.cache import control
from onecard.cache.control import CachePolicy
from onecard.cache.identity import Identity
from onecard.cache.keys import Facts, Keyspace, fingerprint
from onecard.cache.tiers import Cache, Store, open_cache
from onecard.cache.values import CountedCodec
from onecard.edge import Gate, state_of
from onecard.encoder_settings import EncoderSettings
from onecard.errors import InvalidRequest, ModelNotFound, OnecardError
from onecard.gpu.claim import claim
from onecard.gpu.device import Device, choose
from onecard.gpu.measured import memory_metrics
from onecard.health import Part, Readiness, worst
from onecard.identity_header import TellsModel
from onecard.known_bodies import KnownBodies
from onecard.lanes import most_texts, terms
from onecard.leaving import while_connected
from onecard.models import ModelFolder, find
from onecard.texts import Cutting, TextReader
from onecard.timings import Timing
from onecard.warm_up import SAMPLES, LoadedEngine, Warm, warm_up

Result = TypeVar("Result")

EncoderKind = Literal["sentiment", "embedding"]
Loader = Callable[[ModelFolder, Device], LoadedEngine[Result]]

SAMPLE_SECONDS = 1.0
"""How long a readiness check waits for the sample's result."""

log = logs.logger()


@dataclass(frozen=True)
class Encoder(Generic[Result]):
    """A service's state: one model, ready to answer."""

    model: ModelFolder
    device: Device
    settings: EncoderSettings
    batcher: Batcher[Result]
    cache: Cache
    answers: Answers[Result]
    known: KnownBodies
    """What can be answered from the cache, most likely."""
    identity: Identity
    """Whose answers these are."""

    reader: TextReader

    async def sound(self) -> bool:
        """Whether the model gives finite numbers. One that has just failed to is asked for its sample's."""
        if self.batcher.doubtful:
            sample = self.reader.read(SAMPLES[:1], truncate=True)
            with suppress(OnecardError):
                await self.batcher.submit(sample, lane="interactive", timeout_seconds=SAMPLE_SECONDS)
        return not self.batcher.doubtful

    async def cut(self, inputs: Inputs, cutting: Cutting) -> Inputs:
        """Token ids of inputs, as a request wants them cut.

        Raises:
            InvalidRequest: as `check_inputs`; a token id that the model does not know; nothing is left of a text.
        """
        check_inputs(inputs, self.settings.max_inputs)
        self.reader.check_ids(inputs)
        return await asyncio.to_thread(self.reader.shorten, inputs, cutting)

    async def answer(
        self, inputs: Inputs, *, truncate: bool, request: Request, private: bool = False
    ) -> Answered[Result]:
        """The model's result for every input; given up when the client leaves.

        Args:
            private: no cache, and nothing shared with other requests.

        Raises:
            InvalidRequest, InputTooLong: no input, too many, an empty one, one over the window.
            TooBusy, DeadlineExceeded, InternalError, Unavailable: as `Batcher.submit`.
            ClientGone: nobody waits for the answer any more.
        """
        check_inputs(inputs, self.settings.max_inputs)
        agreed = terms(request.headers, len(inputs), self.settings)
        policy = CachePolicy(read=False, store=False) if private else _policy(request.headers)
        query = Query(inputs, truncate, agreed, policy)
        timings: dict[str, Timing] = state_of(request.scope)["timings"]
        answered = await while_connected(self.answers.answer(query, timings), request.receive)
        if answered.cache != "bypass":
            self.known.add(await request.body())
        return answered

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
    app: FastAPI, kind: EncoderKind, model: str, settings: EncoderSettings, load: Loader[Result]
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
    async with open_cache(settings, app.state.registry) as cache:
        metrics = BatchMetrics(app.state.registry)
        batcher = Batcher(engine, bounds, thread=thread, metrics=metrics, on_lost=_end_process, sound=engine.sound)
        facts = _facts(folder, device, engine.window)
        shelf = _shelf(cache, settings, kind, folder, facts, engine) if cache.enabled else None
        answering = Answers(Reading(reader, batcher), batcher, shelf)
        identity = Identity(folder.name, folder.revision, fingerprint(facts[True]))
        known = KnownBodies()
        app.state.service = Encoder(folder, device, settings, batcher, cache, answering, known, identity, reader)
        try:
            yield
        finally:
            await batcher.close()


def _facts(folder: ModelFolder, device: Device, window: int) -> dict[bool, Facts]:
    """What decides a result of this very model, in this precision and by these libraries, where texts over the window
    are cut and where they are refused."""
    files = model_files.digest(folder.path)
    details = (
        ("device", device.name.partition(":")[0]),
        ("service", __version__),
        *((library, version(library)) for library in ("tokenizers", "transformers")),
    )
    return {
        truncate: Facts(
            tokenizer=files,
            precision=device.precision,
            engine=f"torch {version('torch')}",
            window=window,
            truncation="right" if truncate else "refuse",
            details=details,
        )
        for truncate in (True, False)
    }


def _shelf(
    cache: Cache,
    settings: EncoderSettings,
    kind: EncoderKind,
    folder: ModelFolder,
    facts: Mapping[bool, Facts],
    engine: LoadedEngine[Result],
) -> Shelf[Result]:
    """Where its results are kept."""
    keyspaces = {truncate: Keyspace(kind, folder.name, folder.revision, facts[truncate]) for truncate in facts}
    store = Store(cache, kind, CountedCodec(engine.codec), settings.ttl_seconds(kind))
    return Shelf(kind, store, keyspaces, cache.metrics)


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
    """Refuses requests for `path` while too much waits for even one more token of theirs, unless it knows their body.

    It judges each in its lane: one that may have enough texts for the bulk lane as a bulk request. Where that was too
    kind, the batcher refuses it.

    It leaves the processor to those who were let in: of a request that its route refused, the route and what FastAPI
    does before it were 59 % of the time. A body that was answered before costs the device nothing, most likely; when
    the cache has lost it, the batcher refuses it.
    """

    def of(app: FastAPI) -> Gate:
        def check(scope: Scope, body: bytes) -> None:
            encoder: Encoder[Any] = app.state.service
            headers = Headers(scope=scope)
            least = terms(headers, most_texts(body), encoder.settings)
            if body not in encoder.known or not _policy(headers).read:
                encoder.batcher.check_room(least.lane, 1, least.timeout_seconds)

        return Gate(frozenset({path}), check)

    return of


def tells_model(app: ASGIApp) -> TellsModel:
    """The layer round an encoder's routes by which the gateway learns whose answers it may keep."""
    return TellsModel(app, lambda scope: scope["app"].state.service.identity)


def _policy(headers: Headers) -> CachePolicy:
    return control.read(",".join(headers.getlist("cache-control")))


def state(request: Request) -> Encoder[Any]:
    """The encoder that the lifespan built."""
    encoder: Encoder[Any] = request.app.state.service
    return encoder


async def ready(request: Request) -> Readiness:
    """A service listens only once its model is loaded and warm, so it is down only when it has lost its device, or when
    that gives no numbers."""
    encoder = state(request)
    well = encoder.batcher.alive and await encoder.sound()
    parts = {encoder.model.name: Part(status="ok" if well else "down")}
    if encoder.cache.enabled:
        parts["cache"] = Part(status=encoder.cache.status(), detail=encoder.cache.detail())
    return Readiness(status=worst(parts), parts=parts)
