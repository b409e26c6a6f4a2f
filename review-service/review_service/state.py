"""What a running service holds."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from celery import Celery
from prometheus_client import CollectorRegistry

from onecard.cache.channel import Alarm
from onecard.cache.tiers import Cache, open_cache
from review_service.board import Board
from review_service.errors import StoreDamaged, StoreRefuses
from review_service.ingest import Importer
from review_service.insight import Insight
from review_service.llm_watch import LlmWatch, watching_llm
from review_service.models_client import Models, open_models
from review_service.popularity import Traffic, open_traffic
from review_service.queue import open_queue
from review_service.restaurants import Restaurants
from review_service.review_metrics import ReviewMetrics
from review_service.sampling import Sampled
from review_service.search import Searcher
from review_service.settings import ReviewSettings
from review_service.shelf import Shelf
from review_service.store import Store, open_store
from review_service.upkeep import tending
from review_service.versions import Versions


@dataclass(frozen=True)
class ReviewService:
    """The app's state."""

    settings: ReviewSettings
    store: Store
    models: Models
    llm: LlmWatch
    importer: Importer
    searcher: Searcher
    cache: Cache
    shelf: Shelf
    versions: Versions
    traffic: Traffic
    board: Board
    queue: Celery
    """Where the worker takes its tasks from."""
    restaurants: Restaurants
    insight: Insight
    metrics: ReviewMetrics


async def open_service(settings: ReviewSettings, registry: CollectorRegistry, closing: AsyncExitStack) -> ReviewService:
    """The state that `settings` describe; `closing` closes it.

    Raises:
        OSError: the certificates that REDIS_URL names cannot be read.
        SystemExit: the stored reviews cannot be read, or lack what they need and may not be written.
    """
    try:
        store = await closing.enter_async_context(open_store(settings.review_store, settings.review_cache_mb))
    except StoreDamaged:
        raise SystemExit(
            "the reviews in REVIEW_STORE cannot be read, and are left as they are. Restore that folder from a copy, or "
            "set REVIEW_STORE to another one, and import the reviews again."
        ) from None
    except StoreRefuses as error:
        raise SystemExit(f"the reviews in REVIEW_STORE are of an older version. {error.detail}") from None
    await closing.enter_async_context(tending(store, settings.review_index_rows))
    models = await closing.enter_async_context(open_models(settings))
    llm = await closing.enter_async_context(watching_llm(settings.llm_url))
    alarm = Alarm()
    cache = await closing.enter_async_context(open_cache(settings, registry, alarm))
    half_life = settings.popularity_half_life_seconds
    traffic = await closing.enter_async_context(open_traffic(settings.redis_address(), half_life, registry, alarm))
    restaurants = Restaurants(store)
    sampled = Sampled(store)
    closing.push_async_callback(sampled.close)
    return ReviewService(
        settings=settings,
        store=store,
        models=models,
        llm=llm,
        importer=Importer(store, models, settings.review_batch),
        searcher=Searcher(store, models, sampled),
        cache=cache,
        shelf=Shelf(cache, settings.ttl_seconds("review")),
        versions=Versions(store),
        traffic=traffic,
        board=Board(traffic.channel),
        queue=open_queue(settings),
        restaurants=restaurants,
        insight=Insight(restaurants, models),
        metrics=ReviewMetrics(registry),
    )
