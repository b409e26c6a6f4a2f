"""The state and the lifespan that both encoder services share. Needs the `encoder` extra."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Generic, TypeVar

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Scope

from onecard import __version__, logs
from onecard.batching.batcher import Batcher, BatcherConfig
from onecard.batching.device_thread import DeviceThread
from onecard.batching.metrics import BatchMetrics
from onecard.cache import directives
from onecard.cache.directives import CachePolicy
from onecard.cache.keys import CacheKind, Keyspace, ServingConfig, fingerprint
from onecard.cache.serialization import CountedResultCodec
from onecard.cache.tiers import Cache, TypedCache, open_cache
from onecard.errors import InternalError, InvalidRequest, ModelNotFound, OnecardError
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
from onecard.inference.engines.metrics import engine_metrics
from onecard.inference.scheduling import max_text_count, scheduling_params
from onecard.inference.served_engine import EncoderModel, ServedEngine, load_engine
from onecard.inference.settings import EncoderSettings
from onecard.inference.tokenization import TextTokenizer, TokenizedText, Truncation
from onecard.inference.warm_up import SAMPLE_TEXTS, LoadedEngine
from onecard.models import model_files
from onecard.models.folders import ModelFolder, find
from onecard.models.identity import ModelIdentity
from onecard.text import composed, is_visible
from onecard.web.canary import Canary, CanaryFailed
from onecard.web.disconnect import run_until_disconnect
from onecard.web.health import ComponentHealth, Readiness, stand_in_health, worst_status
from onecard.web.middleware import LoadShedder, request_state
from onecard.web.model_identity_middleware import ModelIdentityMiddleware
from onecard.web.recent_bodies import RecentBodies
from onecard.web.server_timing import Timing

Result = TypeVar("Result")


SELF_TEST_TIMEOUT_SECONDS = 1.0
"""How long a readiness check waits for the result of the sample text."""

log = logs.logger()


@dataclass(frozen=True)
class Encoder(Generic[Result]):
    """State of a service: one model, ready to answer."""

    model: ModelFolder
    device: Device
    settings: EncoderSettings
    batcher: Batcher[Result]
    cache: Cache
    inference: CachedInference[Result]
    recent_bodies: RecentBodies
    """Bodies whose results are most likely in the cache."""
    identity: ModelIdentity
    """Names the model in response headers."""

    tokenizer: TextTokenizer
    engine: str
    """The program that runs the model, with its version, and the precision."""
    canary: Canary

    async def self_test(self) -> bool:
        """Whether the model gives finite numbers. After a batch without any, it runs a sample text to find out."""
        if self.batcher.last_batch_invalid:
            sample = self.tokenizer.tokenize(SAMPLE_TEXTS[:1], truncate=True)[0].ids
            with suppress(OnecardError):
                await self.batcher.submit([sample], lane="interactive", timeout_seconds=SELF_TEST_TIMEOUT_SECONDS)
        return not self.batcher.last_batch_invalid

    async def truncate(self, inputs: Inputs, truncation: Truncation, *, prompt: str = "") -> list[TokenizedText]:
        """Tokenise inputs and cut them as a request wants.

        Args:
            inputs: texts or token ids.
            truncation: the length, the side that is cut, and special tokens.
            prompt: what the model wants in front of each text.

        Returns:
            Each input.

        Raises:
            InvalidRequest: there is no input, there are too many, one is empty, or a token id is not in the vocabulary.
        """
        inputs = checked_inputs(inputs, self.settings.max_inputs, prompt)
        self.tokenizer.check_token_ids(inputs)
        return await asyncio.to_thread(self.tokenizer.tokenize_truncated, inputs, truncation)

    async def infer(
        self, inputs: Inputs, *, truncate: bool, request: Request, prompt: str = "", private: bool = False
    ) -> InferenceResult[Result]:
        """Get the model's result for every input; cancelled when the client disconnects.

        Args:
            inputs: texts or token ids.
            truncate: whether texts over the window are cut; otherwise they are an error.
            request: its headers set lane, time limit and cache policy.
            prompt: what the model wants in front of each text.
            private: neither use the cache nor share computations with other requests.

        Returns:
            The results in the order of the inputs, and the cache status.

        Raises:
            InvalidRequest: there is no input, there are too many, one is empty, or a token id is not in the vocabulary.
            InputTooLong: a text is over the window and must not be cut.
            TooBusy: the queue is too long to answer in time.
            DeadlineExceeded: not answered in time, or too large to be answered in time even on an idle device.
            InternalError: the engine failed, or gave an invalid result.
            Unavailable: a text does not fit into the device's memory, or the device is lost.
            ClientDisconnected: the client left before its response.
        """
        inputs = checked_inputs(inputs, self.settings.max_inputs, prompt)
        scheduling = scheduling_params(request.headers, len(inputs), self.settings)
        policy = CachePolicy(read=False, store=False) if private else _cache_policy(request.headers)
        inference_request = InferenceRequest(inputs, truncate, scheduling, policy)
        timings: dict[str, Timing] = request_state(request.scope)["timings"]
        result = await run_until_disconnect(self.inference.infer(inference_request, timings), request.receive)
        if result.cache_status != "bypass":
            self.recent_bodies.add(await request.body())
        return result

    def check_model(self, name: str | None) -> None:
        """Check the model that a request names.

        Args:
            name: None if it names none.

        Raises:
            ModelNotFound: it is neither this model nor the one that this stands in for.
        """
        if name is not None and name not in self.model.accepted_names:
            raise ModelNotFound(f"No such model here. This service has '{self.model.name}'.", param="model")

    def list_models(self) -> dict[str, Any]:
        """The response body of the service's `GET /v1/models`."""
        entry = {
            "id": self.model.name,
            "object": "model",
            "created": 0,
            "owned_by": "onecard",
            "engine": f"{self.engine} on {self.device.name.partition(':')[0]}",
            "stand_in_for": self.model.stand_in_for,
        }
        return {"object": "list", "data": [entry]}


def checked_inputs(inputs: Inputs, max_inputs: int, prompt: str) -> Inputs:
    """Check the number of inputs and that none is empty, and write the texts as the model is to read them.

    Args:
        inputs: texts or token ids.
        max_inputs: most inputs of a request.
        prompt: what goes in front of each text.

    Returns:
        Texts in Unicode's composed form, with the prompt in front; token ids as they are. The cache's keys are made of
        these, so a text has one vector for each prompt, and none for each way to encode its characters.

    Raises:
        InvalidRequest: there is no input, there are more than `max_inputs`, or one is empty.
    """
    if not inputs:
        raise InvalidRequest("'input' is empty. Send at least one text.", param="input")
    if len(inputs) > max_inputs:
        raise InvalidRequest(
            f"'input' has {len(inputs)} texts; the limit is {max_inputs}. Split the request.", param="input"
        )
    for index, item in enumerate(inputs):
        if not (is_visible(item) if isinstance(item, str) else item):
            raise InvalidRequest(f"input[{index}] is empty: it has no character that can be seen.", param="input")
    return [prompt + composed(item) if isinstance(item, str) else item for item in inputs]  # type: ignore[return-value]


@asynccontextmanager
async def open_encoder(
    app: FastAPI, model: EncoderModel[Result], name: str, settings: EncoderSettings
) -> AsyncIterator[None]:
    """The lifespan of an encoder service: puts its state into `app.state.service`, and closes it at the end.

    Args:
        app: of the service.
        model: what the service says about its kind of model.
        name: of the model: hub name or folder.
        settings: of the service.

    Yields:
        Nothing; the service is ready.

    Raises:
        SystemExit: the model is missing or broken, or does not fit into the device's memory.
    """
    kind = model.kind
    folder = find(kind, name, settings.model_cache_path, stand_ins=settings.allow_stand_ins)
    if fault := model_files.integrity_error(folder.path):
        raise SystemExit(f"model {folder.name}: {fault}. Remove its folder, and run 'make models' again.")
    device = select_device(settings)
    reservation = reserve_memory(
        kind, settings, device, batch_texts=settings.batch_texts, batch_tokens=settings.batch_tokens
    )
    memory_metrics(app.state.registry, reservation, device)
    thread = DeviceThread()
    served = await thread.call(lambda: load_engine(model, folder, settings, device, reservation))
    engine_metrics(app.state.registry, served.library, served.precision)
    config = BatcherConfig(
        max_batch=served.warm_up.max_batch,
        tokens_per_second=served.warm_up.tokens_per_second,
        queue_tokens=settings.queue_tokens,
        hang_timeout_seconds=settings.engine_hang_seconds,
        width_multiple=device.width_multiple,
    )
    async with open_cache(settings, app.state.registry) as cache:
        metrics = BatchMetrics(app.state.registry)
        engine = served.engine
        batcher = Batcher(engine, config, thread=thread, metrics=metrics, on_lost=_terminate, is_valid=engine.is_finite)
        serving_configs = _serving_configs(folder, device, served)
        result_cache = _result_cache(cache, settings, kind, folder, serving_configs, engine) if cache.enabled else None
        inference = CachedInference(Tokenization(served.tokenizer, batcher), batcher, result_cache)
        identity = ModelIdentity(folder.name, folder.revision, fingerprint(serving_configs[True]))
        recent_bodies = RecentBodies()
        canary = _canary(engine, batcher, served.tokenizer, settings, app.state.registry)
        app.state.service = Encoder(
            folder,
            device,
            settings,
            batcher,
            cache,
            inference,
            recent_bodies,
            identity,
            served.tokenizer,
            f"{served.library} {served.precision}",
            canary,
        )
        canary.start()
        try:
            yield
        finally:
            await canary.close()
            await batcher.close()


def _canary(
    engine: LoadedEngine[Result],
    batcher: Batcher[Result],
    tokenizer: TextTokenizer,
    settings: EncoderSettings,
    registry: CollectorRegistry,
) -> Canary:
    """The canary: the sample texts of warm-up, whose results have to stay close to the first ones."""
    texts = [text.ids for text in tokenizer.tokenize(SAMPLE_TEXTS, truncate=True)]
    first: list[Result] = []

    async def compute() -> None:
        try:
            results = await batcher.compute_canary(texts)
        except InternalError:
            raise CanaryFailed("gives no numbers, or fails") from None
        if not first:
            first.extend(results)
        if not all(map(engine.is_close, results, first)):
            raise CanaryFailed("answers otherwise than at its start")

    return Canary(
        compute,
        lambda: batcher.ended_batches,
        interval_seconds=settings.canary_seconds,
        hang_seconds=settings.engine_hang_seconds,
        on_lost=lambda _: _terminate(),
        registry=registry,
    )


def _serving_configs(folder: ModelFolder, device: Device, served: ServedEngine[Any]) -> dict[bool, ServingConfig]:
    """What shapes the results besides the weights, by `truncate`: whether texts over the window are cut or refused."""
    files = model_files.digest(folder.path)
    details = (
        ("device", device.name.partition(":")[0]),
        ("service", __version__),
        ("build", served.build or ""),
        *((library, version(library)) for library in ("tokenizers", "transformers")),
    )
    return {
        truncate: ServingConfig(
            tokenizer=files,
            precision=served.precision,
            engine=served.library,
            window=served.engine.window,
            truncation="right" if truncate else "refuse",
            details=details,
        )
        for truncate in (True, False)
    }


def _result_cache(
    cache: Cache,
    settings: EncoderSettings,
    kind: CacheKind,
    folder: ModelFolder,
    serving_configs: Mapping[bool, ServingConfig],
    engine: LoadedEngine[Result],
) -> ResultCache[Result]:
    """The cache of the model's results."""
    keyspaces = {
        truncate: Keyspace(kind, folder.name, folder.revision, serving_configs[truncate])
        for truncate in serving_configs
    }
    store = TypedCache(cache, kind, CountedResultCodec(engine.codec), settings.ttl_seconds(kind))
    return ResultCache(kind, store, keyspaces, cache.metrics)


def _terminate() -> None:
    """Stop serving, so that the process is restarted by its supervisor."""
    os.kill(os.getpid(), signal.SIGTERM)


def load_shedder(path: str) -> Callable[[FastAPI], LoadShedder]:
    """Make a load shedder that refuses requests while the queue is too long for one more token.

    It saves the processor for accepted requests: for a request refused by its route, the route and FastAPI took 59 % of
    the time. Only the number of texts is estimated, for the lane; what passes here by mistake, the batcher refuses. A
    body that was answered recently passes, because its results are most likely cached.

    Args:
        path: the route to protect.

    Returns:
        A factory that makes the load shedder from the app.
    """

    def make(app: FastAPI) -> LoadShedder:
        def check(scope: Scope, body: bytes) -> None:
            encoder: Encoder[Any] = app.state.service
            headers = Headers(scope=scope)
            scheduling = scheduling_params(headers, max_text_count(body), encoder.settings)
            if body not in encoder.recent_bodies or not _cache_policy(headers).read:
                encoder.batcher.check_capacity(scheduling.lane, 1, scheduling.timeout_seconds)

        return LoadShedder(frozenset({path}), check)

    return make


def add_model_identity(app: ASGIApp) -> ModelIdentityMiddleware:
    """Wrap an encoder's routes so that responses name their model; the gateway caches by it.

    Args:
        app: the routes.

    Returns:
        The middleware.
    """
    return ModelIdentityMiddleware(app, lambda scope: scope["app"].state.service.identity)


def _cache_policy(headers: Headers) -> CachePolicy:
    return directives.parse(",".join(headers.getlist("cache-control")))


def encoder_state(request: Request) -> Encoder[Any]:
    """The encoder that the lifespan opened."""
    encoder: Encoder[Any] = request.app.state.service
    return encoder


async def ready(request: Request) -> Readiness:
    """Readiness of the service.

    It listens only after warm-up, so it is down only if its device is lost or gives no finite numbers.

    Args:
        request: gives the app.

    Returns:
        The status of the model, and that of the cache if there is one.
    """
    encoder = encoder_state(request)
    model = encoder.canary.health()
    if not encoder.batcher.alive:
        model = ComponentHealth(status="down", detail="does not answer")
    elif model.status == "ok" and not await encoder.self_test():
        model = ComponentHealth(status="down", detail="gives no numbers")
    parts = {encoder.model.name: model}
    parts |= stand_in_health(encoder.model)
    if encoder.cache.enabled:
        parts["cache"] = ComponentHealth(status=encoder.cache.status(), detail=encoder.cache.detail())
    return Readiness(status=worst_status(parts), parts=parts)
