"""What a running service holds; a worker opens the same."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from review_service.errors import StoreDamaged
from review_service.ingest import Importer
from review_service.insight import Insight
from review_service.models_client import Models, open_models
from review_service.restaurants import Restaurants
from review_service.search import Searcher
from review_service.settings import ReviewSettings
from review_service.store import Store, open_store
from review_service.upkeep import tending


@dataclass(frozen=True)
class ReviewService:
    """The app's state."""

    settings: ReviewSettings
    store: Store
    models: Models
    importer: Importer
    searcher: Searcher
    restaurants: Restaurants
    insight: Insight


async def open_service(settings: ReviewSettings, closing: AsyncExitStack) -> ReviewService:
    """The state that `settings` describe; `closing` closes it.

    Raises:
        SystemExit: the stored reviews cannot be read.
    """
    try:
        store = await closing.enter_async_context(open_store(settings.review_store))
    except StoreDamaged:
        raise SystemExit(
            "the reviews in REVIEW_STORE cannot be read, and are left as they are. Restore that folder from a copy, or "
            "set REVIEW_STORE to another one, and import the reviews again."
        ) from None
    await closing.enter_async_context(tending(store, settings.review_index_rows))
    models = await closing.enter_async_context(open_models(settings))
    restaurants = Restaurants(store)
    return ReviewService(
        settings=settings,
        store=store,
        models=models,
        importer=Importer(store, models, settings.review_batch),
        searcher=Searcher(store, models),
        restaurants=restaurants,
        insight=Insight(restaurants, models),
    )
