"""Opens an encoder service: loads its model, and starts what serves it. Needs the `encoder` extra."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeVar

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from onecard import __version__
from onecard.batching.batcher import Batcher, BatcherConfig
from onecard.batching.device_thread import DeviceThread
from onecard.batching.metrics import BatchMetrics
from onecard.cache.keys import CacheKind, Keyspace, ServingConfig, fingerprint
from onecard.cache.serialization import CountedResultCodec
from onecard.cache.tiers import Cache, TypedCache, open_cache
from onecard.errors import InternalError
from onecard.gpu.device import WIDTH_MULTIPLE, Device, select_device
from onecard.gpu.metrics import memory_metrics
from onecard.gpu.reservation import reserve_memory
from onecard.inference.cached_inference import CachedInference, ResultCache
from onecard.inference.encoder import Encoder
from onecard.inference.engines.metrics import engine_metrics
from onecard.inference.requests import Tokenization
from onecard.inference.served_engine import EncoderModel, ServedEngine, load_engine
from onecard.inference.settings import EncoderSettings
from onecard.inference.warm_up import SAMPLE_TEXTS, LoadedEngine
from onecard.models import model_files
from onecard.models.folders import ModelFolder, find
from onecard.models.identity import ModelIdentity
from onecard.web.canary import Canary, CanaryFailed
from onecard.web.recent_bodies import RecentBodies

HANG_BATCHES = 4
"""No engine hangs before it has taken so many times as long as its largest batch took in warm-up: on a CPU, the longest
text of a large model takes longer than `ENGINE_HANG_SECONDS`."""

Result = TypeVar("Result")
Details = tuple[tuple[str, str], ...]
"""Further (name, value) pairs of a `ServingConfig`."""


@asynccontextmanager
async def open_encoder(
    app: FastAPI,
    model: EncoderModel[Result],
    name: str,
    settings: EncoderSettings,
    details: Callable[[ModelFolder], Details] = lambda _: (),
) -> AsyncIterator[None]:
    """The lifespan of an encoder service: puts its state into `app.state.service`, and closes it at the end.

    Args:
        app: of the service.
        model: what the service says about its kind of model.
        name: of the model: hub name or folder.
        settings: of the service.
        details: what else of the service shapes the results, by the model's folder. It is called before the model is
            loaded; what it returns is part of the model's identity, by which results are cached.

    Yields:
        Nothing; the service is ready.

    Raises:
        SystemExit: the model is missing or broken, or does not fit into the device's memory.
    """
    kind = model.kind
    folder = find(kind, name, settings.model_cache_path, stand_ins=settings.allow_stand_ins)
    if fault := model_files.integrity_error(folder.path):
        raise SystemExit(f"model {folder.name}: {fault}. Remove its folder, and run 'make models' again.")
    service_details = details(folder)
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
        width_multiple=WIDTH_MULTIPLE,
    )
    async with open_cache(settings, app.state.registry) as cache:
        metrics = BatchMetrics(app.state.registry)
        engine = served.engine
        batcher = Batcher(engine, config, thread=thread, metrics=metrics, on_lost=_terminate, is_valid=engine.is_finite)
        serving_configs = _serving_configs(folder, device, served, service_details)
        result_cache = _result_cache(cache, settings, kind, folder, serving_configs, engine) if cache.enabled else None
        inference = CachedInference(Tokenization(served.tokenizer, batcher), batcher, result_cache)
        identity = ModelIdentity(folder.name, folder.revision, fingerprint(serving_configs[True]))
        recent_bodies = RecentBodies()
        canary = _canary(served, batcher, settings, app.state.registry)
        app.state.service = Encoder(
            folder,
            device,
            settings,
            batcher,
            cache,
            inference,
            recent_bodies,
            identity,
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
    served: ServedEngine[Result], batcher: Batcher[Result], settings: EncoderSettings, registry: CollectorRegistry
) -> Canary:
    """The canary: the sample texts of warm-up, whose results have to stay close to the first ones."""
    texts = [text.ids for text in served.tokenizer.tokenize(SAMPLE_TEXTS, truncate=True)]
    first: list[Result] = []

    async def compute() -> None:
        try:
            results = await batcher.compute_canary(texts)
        except InternalError:
            raise CanaryFailed("gives no numbers, or fails") from None
        if not first:
            first.extend(results)
        if not all(map(served.engine.is_close, results, first)):
            raise CanaryFailed("answers otherwise than at its start")

    return Canary(
        compute,
        lambda: batcher.ended_batches,
        interval_seconds=settings.canary_seconds,
        hang_seconds=max(settings.engine_hang_seconds, HANG_BATCHES * served.warm_up.seconds),
        on_lost=lambda _: batcher.give_up(),
        registry=registry,
    )


def _serving_configs(
    folder: ModelFolder, device: Device, served: ServedEngine[Any], service_details: Details
) -> dict[bool, ServingConfig]:
    """What shapes the results besides the weights, by `truncate`: whether texts over the window are cut or refused."""
    files = model_files.digest(folder.path)
    details = (
        ("device", device.name.partition(":")[0]),
        ("service", __version__),
        ("build", served.build or ""),
        *((library, version(library)) for library in ("tokenizers", "transformers")),
        *service_details,
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
