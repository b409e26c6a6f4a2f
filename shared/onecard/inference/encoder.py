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

from onecard import __version__, logs
from onecard.batching.batch_limit import BatchLimit
from onecard.batching.batcher import Batcher, BatcherConfig
from onecard.batching.device_thread import DeviceThread
from onecard.batching.metrics import BatchMetrics
from onecard.cache import directives
from onecard.cache.directives import CachePolicy
from onecard.cache.keys import Keyspace, ServingConfig, fingerprint
from onecard.cache.serialization import CountedResultCodec
from onecard.cache.tiers import Cache, TypedCache, open_cache
from onecard.errors import InvalidRequest, ModelNotFound, OnecardError
from onecard.gpu.device import Device, select_device
from onecard.gpu.metrics import memory_metrics
from onecard.gpu.reservation import reserve_memory
from onecard.inference.cached_inference import (
    CachedInference,
    InferenceRequest,
    InferenceResult,
    Inputs,
    ResultCache,
    Tokenization,
)
from onecard.inference.scheduling import max_text_count, scheduling_params
from onecard.inference.settings import EncoderSettings
from onecard.inference.tokenization import TextTokenizer, Truncation
from onecard.inference.warm_up import SAMPLE_TEXTS, LoadedEngine, WarmUpResult, warm_up
from onecard.models import model_files
from onecard.models.folders import ModelFolder, find
from onecard.models.identity import ModelIdentity
from onecard.web.disconnect import run_until_disconnect
from onecard.web.health import ComponentHealth, Readiness, worst_status
from onecard.web.middleware import LoadShedder, request_state
from onecard.web.model_identity_middleware import ModelIdentityMiddleware
from onecard.web.recent_bodies import RecentBodies
from onecard.web.server_timing import Timing

Result = TypeVar("Result")

EncoderKind = Literal["sentiment", "embedding"]
EngineLoader = Callable[[ModelFolder, Device], LoadedEngine[Result]]

SELF_TEST_TIMEOUT_SECONDS = 1.0
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
    inference: CachedInference[Result]
    recent_bodies: RecentBodies
    """What can be answered from the cache, most likely."""
    identity: ModelIdentity
    """Whose answers these are."""

    tokenizer: TextTokenizer

    async def self_test(self) -> bool:
        """Whether the model gives finite numbers. One that has just failed to is asked for its sample's."""
        if self.batcher.last_batch_invalid:
            sample = self.tokenizer.tokenize(SAMPLE_TEXTS[:1], truncate=True)
            with suppress(OnecardError):
                await self.batcher.submit(sample, lane="interactive", timeout_seconds=SELF_TEST_TIMEOUT_SECONDS)
        return not self.batcher.last_batch_invalid

    async def truncate(self, inputs: Inputs, cutting: Truncation) -> Inputs:
        """Token ids of inputs, as a request wants them cut.

        Raises:
            InvalidRequest: as `check_inputs`; a token id that the model does not know; nothing is left of a text.
        """
        check_inputs(inputs, self.settings.max_inputs)
        self.tokenizer.check_token_ids(inputs)
        return await asyncio.to_thread(self.tokenizer.tokenize_truncated, inputs, cutting)

    async def infer(
        self, inputs: Inputs, *, truncate: bool, request: Request, private: bool = False
    ) -> InferenceResult[Result]:
        """The model's result for every input; given up when the client leaves.

        Args:
            private: no cache, and nothing shared with other requests.

        Raises:
            InvalidRequest, InputTooLong: no input, too many, an empty one, one over the window.
            TooBusy, DeadlineExceeded, InternalError, Unavailable: as `Batcher.submit`.
            ClientGone: nobody waits for the answer any more.
        """
        check_inputs(inputs, self.settings.max_inputs)
        agreed = scheduling_params(request.headers, len(inputs), self.settings)
        policy = CachePolicy(read=False, store=False) if private else _cache_policy(request.headers)
        query = InferenceRequest(inputs, truncate, agreed, policy)
        timings: dict[str, Timing] = request_state(request.scope)["timings"]
        answered = await run_until_disconnect(self.inference.infer(query, timings), request.receive)
        if answered.cache_status != "bypass":
            self.recent_bodies.add(await request.body())
        return answered

    def check_model(self, name: str | None) -> None:
        """Accept the model's names.

        Raises:
            ModelNotFound: a request names another model.
        """
        if name is not None and name not in self.model.accepted_names:
            raise ModelNotFound(f"No such model here. This service has '{self.model.name}'.", param="model")

    def list_models(self) -> dict[str, Any]:
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
    app: FastAPI, kind: EncoderKind, model: str, settings: EncoderSettings, load: EngineLoader[Result]
) -> AsyncIterator[None]:
    """The lifespan of an encoder service: its state is made, put into `app.state.service`, and closed at the end.

    Raises:
        SystemExit: the model is not there, is broken, or does not fit.
    """
    folder = find(kind, model, settings.model_cache_path)
    if fault := model_files.integrity_error(folder.path):
        raise SystemExit(f"model {folder.name}: {fault}. Remove its folder, and run 'make models' again.")
    device = select_device(settings)
    claimed = reserve_memory(
        kind, settings, device, batch_texts=settings.batch_texts, batch_tokens=settings.batch_tokens
    )
    memory_metrics(app.state.registry, claimed, device)
    thread = DeviceThread()
    most = BatchLimit(claimed.batch_texts, claimed.batch_tokens)
    engine, reader, warm = await thread.call(lambda: _load(folder, device, most, load))
    bounds = BatcherConfig(
        max_batch=warm.max_batch,
        tokens_per_second=warm.tokens_per_second,
        queue_tokens=settings.queue_tokens,
        hang_timeout_seconds=settings.batch_hang_seconds,
        width_multiple=device.width_multiple,
    )
    async with open_cache(settings, app.state.registry) as cache:
        metrics = BatchMetrics(app.state.registry)
        batcher = Batcher(engine, bounds, thread=thread, metrics=metrics, on_lost=_terminate, sound=engine.is_finite)
        facts = _serving_configs(folder, device, engine.window)
        shelf = _result_cache(cache, settings, kind, folder, facts, engine) if cache.enabled else None
        answering = CachedInference(Tokenization(reader, batcher), batcher, shelf)
        identity = ModelIdentity(folder.name, folder.revision, fingerprint(facts[True]))
        known = RecentBodies()
        app.state.service = Encoder(folder, device, settings, batcher, cache, answering, known, identity, reader)
        try:
            yield
        finally:
            await batcher.close()


def _serving_configs(folder: ModelFolder, device: Device, window: int) -> dict[bool, ServingConfig]:
    """What decides a result of this very model, in this precision and by these libraries, where texts over the window
    are cut and where they are refused."""
    files = model_files.digest(folder.path)
    details = (
        ("device", device.name.partition(":")[0]),
        ("service", __version__),
        *((library, version(library)) for library in ("tokenizers", "transformers")),
    )
    return {
        truncate: ServingConfig(
            tokenizer=files,
            precision=device.precision,
            engine=f"torch {version('torch')}",
            window=window,
            truncation="right" if truncate else "refuse",
            details=details,
        )
        for truncate in (True, False)
    }


def _result_cache(
    cache: Cache,
    settings: EncoderSettings,
    kind: EncoderKind,
    folder: ModelFolder,
    facts: Mapping[bool, ServingConfig],
    engine: LoadedEngine[Result],
) -> ResultCache[Result]:
    """Where its results are kept."""
    keyspaces = {truncate: Keyspace(kind, folder.name, folder.revision, facts[truncate]) for truncate in facts}
    store = TypedCache(cache, kind, CountedResultCodec(engine.codec), settings.ttl_seconds(kind))
    return ResultCache(kind, store, keyspaces, cache.metrics)


def _load(
    folder: ModelFolder, device: Device, most: BatchLimit, load: EngineLoader[Result]
) -> tuple[LoadedEngine[Result], TextTokenizer, WarmUpResult]:
    disable_progress_bar()  # It would write control characters into the JSON log.
    device.make_current()
    started = time.perf_counter()
    log.info("loading", model=folder.name, device=device.name, precision=device.precision, attention="sdpa")
    try:
        engine = load(folder, device)
        reader = TextTokenizer.load(folder.path, engine.window, engine.vocab_size)
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
        batch_tokens=warm.max_batch.tokens,
        tokens_per_second=round(warm.tokens_per_second),
    )
    return engine, reader, warm


def _terminate() -> None:
    """Stop serving, so that whoever supervises this process starts it anew."""
    os.kill(os.getpid(), signal.SIGTERM)


def load_shedder(path: str) -> Callable[[FastAPI], LoadShedder]:
    """Refuses requests for `path` while too much waits for even one more token of theirs, unless it knows their body.

    It judges each in its lane: one that may have enough texts for the bulk lane as a bulk request. Where that was too
    kind, the batcher refuses it.

    It leaves the processor to those who were let in: of a request that its route refused, the route and what FastAPI
    does before it were 59 % of the time. A body that was answered before costs the device nothing, most likely; when
    the cache has lost it, the batcher refuses it.
    """

    def of(app: FastAPI) -> LoadShedder:
        def check(scope: Scope, body: bytes) -> None:
            encoder: Encoder[Any] = app.state.service
            headers = Headers(scope=scope)
            least = scheduling_params(headers, max_text_count(body), encoder.settings)
            if body not in encoder.recent_bodies or not _cache_policy(headers).read:
                encoder.batcher.check_capacity(least.lane, 1, least.timeout_seconds)

        return LoadShedder(frozenset({path}), check)

    return of


def add_model_identity(app: ASGIApp) -> ModelIdentityMiddleware:
    """The layer round an encoder's routes by which the gateway learns whose answers it may keep."""
    return ModelIdentityMiddleware(app, lambda scope: scope["app"].state.service.identity)


def _cache_policy(headers: Headers) -> CachePolicy:
    return directives.parse(",".join(headers.getlist("cache-control")))


def encoder_state(request: Request) -> Encoder[Any]:
    """The encoder that the lifespan built."""
    encoder: Encoder[Any] = request.app.state.service
    return encoder


async def ready(request: Request) -> Readiness:
    """A service listens only once its model is loaded and warm, so it is down only when it has lost its device, or when
    that gives no numbers."""
    encoder = encoder_state(request)
    well = encoder.batcher.alive and await encoder.self_test()
    parts = {encoder.model.name: ComponentHealth(status="ok" if well else "down")}
    if encoder.cache.enabled:
        parts["cache"] = ComponentHealth(status=encoder.cache.status(), detail=encoder.cache.detail())
    return Readiness(status=worst_status(parts), parts=parts)
