"""The state of a running review service: everything that its routes use."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from celery import Celery
from prometheus_client import CollectorRegistry

from onecard.cache.tiers import Cache, open_cache
from onecard.redis.channel import SharedBreaker
from review_service.errors import StoreDamaged, StoreNotWritable
from review_service.insight.model_watcher import ModelWatcher, open_model_watcher
from review_service.insight.restaurant_statistics import RestaurantStatistics
from review_service.insight.summaries import Summarizer
from review_service.model_services import ModelServices, open_model_services
from review_service.precompute.popularity import PopularityTracker, open_popularity
from review_service.precompute.round_status import RoundStatus
from review_service.precompute.task_queue import open_queue
from review_service.request_metrics import RequestCounter
from review_service.response_cache import VersionedResponseCache
from review_service.reviews.aspects import read_aspects
from review_service.reviews.clauses import ClauseReader
from review_service.reviews.index_maintenance import running_maintenance
from review_service.reviews.ingest import Importer
from review_service.reviews.migration_task import Migrations, running_migration
from review_service.reviews.store import ReviewStore, open_store
from review_service.reviews.table_versions import TableVersions
from review_service.search.cosine_scale import CosineScales
from review_service.search.query_embedder import QueryEmbedder
from review_service.search.searcher import Searcher
from review_service.search.vocabulary_source import VocabularySource, running_vocabulary
from review_service.search.word_files import WordFiles
from review_service.settings import ReviewSettings
from review_service.words.analyzer import MorphemeAnalyzer


@dataclass(frozen=True)
class ReviewService:
    """The app's state, opened in the lifespan."""

    settings: ReviewSettings
    store: ReviewStore
    models: ModelServices
    model_watcher: ModelWatcher
    importer: Importer
    vocabulary: VocabularySource
    searcher: Searcher
    migrations: Migrations
    cache: Cache
    response_cache: VersionedResponseCache
    table_versions: TableVersions
    popularity: PopularityTracker
    round_status: RoundStatus
    queue: Celery
    """The worker's task queue."""
    restaurant_statistics: RestaurantStatistics
    summarizer: Summarizer
    metrics: RequestCounter


async def open_service(settings: ReviewSettings, registry: CollectorRegistry, closing: AsyncExitStack) -> ReviewService:
    """Open everything that the service needs.

    Args:
        settings: The service's settings.
        registry: Where the metrics are registered.
        closing: Receives what has to be closed when the service stops.

    Returns:
        The app's state.

    Raises:
        OSError: The certificates that REDIS_URL names cannot be read.
        SystemExit: The stored reviews cannot be read, or are of an older version and cannot be migrated; or the
            words in SEARCH_WORDS or the aspects in REVIEW_ASPECTS cannot be read.
    """
    try:
        store = await closing.enter_async_context(open_store(settings.review_store, settings.review_cache_mb))
    except StoreDamaged:
        raise SystemExit(
            "the reviews in REVIEW_STORE cannot be read, and are left as they are. Restore that folder from a copy, or "
            "set REVIEW_STORE to another one, and import the reviews again."
        ) from None
    except StoreNotWritable as error:
        raise SystemExit(f"the reviews in REVIEW_STORE are of an older version. {error.detail}") from None
    word_files = WordFiles(settings.search_words)
    try:
        # In a thread: loading takes seconds, in which signals are to be answered.
        analyzer = await asyncio.to_thread(lambda: MorphemeAnalyzer(word_files.user_words()))
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"the words in SEARCH_WORDS cannot be read ({type(error).__name__}): name a folder that is here, whose "
            "files are in UTF-8 and small, or unset it."
        ) from None
    try:
        catalog = read_aspects(settings.review_aspects)
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"the aspects in REVIEW_ASPECTS cannot be read ({error}): name a file that is written as "
            "review_service/reviews/aspects.toml is, or unset it."
        ) from None
    models = await closing.enter_async_context(open_model_services(settings))
    reader = ClauseReader(models, analyzer, catalog, settings.review_batch)
    migrations = await closing.enter_async_context(running_migration(store, reader))
    vocabulary = await closing.enter_async_context(running_vocabulary(store))
    await closing.enter_async_context(running_maintenance(store, settings.review_index_rows))
    model_watcher = await closing.enter_async_context(open_model_watcher(settings.llm_url))
    breaker = SharedBreaker()
    cache = await closing.enter_async_context(open_cache(settings, registry, breaker))
    popularity = await closing.enter_async_context(
        open_popularity(settings.redis_address(), settings.popularity_half_life_seconds, registry, breaker)
    )
    statistics = RestaurantStatistics(store, catalog, settings.neutral_band)
    return ReviewService(
        settings=settings,
        store=store,
        models=models,
        model_watcher=model_watcher,
        importer=Importer(store, reader, settings.review_batch),
        vocabulary=vocabulary,
        searcher=Searcher(store, models, analyzer, vocabulary, word_files, CosineScales(models), QueryEmbedder(models)),
        migrations=migrations,
        cache=cache,
        response_cache=VersionedResponseCache(cache, settings.ttl_seconds("review")),
        table_versions=TableVersions(store),
        popularity=popularity,
        round_status=RoundStatus(popularity.channel),
        queue=open_queue(settings),
        restaurant_statistics=statistics,
        summarizer=Summarizer(statistics, models, reader.version),
        metrics=RequestCounter(registry),
    )
