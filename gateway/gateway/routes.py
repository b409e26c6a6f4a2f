"""The public routes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from re import Pattern
from typing import Any

from fastapi import APIRouter, Request
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import catalog, schemas
from gateway.recent import Summary
from gateway.relay import relay, within
from gateway.state import Gateway
from gateway.upstreams import Upstream, Upstreams
from onecard.errors import ModelNotFound, Unavailable
from onecard.web.app import ERROR_RESPONSES
from onecard.web.health import ComponentHealth, Readiness, worst_status
from onecard.web.middleware import request_state

Pick = Callable[[Upstreams], Upstream]
_llm, _embedding, _sentiment, _review = map(attrgetter, ("llm", "embedding", "sentiment", "review"))


def state(request: Request) -> Gateway:
    """What the lifespan built."""
    gateway: Gateway = request.app.state.service
    return gateway


@dataclass(frozen=True)
class _Relayed:
    """A path that is relayed; FastAPI documents it as an endpoint without parameters."""

    path: str
    pick: Pick
    summary: str
    described: dict[str, Any]
    """Its body and parameters, for the API page."""
    method: str = "POST"

    @cached_property
    def pattern(self) -> Pattern[str]:
        """What its requests' paths are like: `{…}` is any segment."""
        return compile_path(self.path)[0]

    def __call__(self) -> None:
        """For the API page only: see `Shortcut`."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        gateway: Gateway = scope["app"].state.service
        upstream = self.pick(gateway.upstreams)
        with gateway.observer.begin(scope, self.path, upstream, send) as observed:
            await gateway.scopes.require(request_state(scope).get("caller"), upstream, request_state(scope)["body"])
            if answer := gateway.answers.get(self.path):
                response = await answer(scope, receive)
            else:
                response = await relay(scope, receive, upstream)
            await within(upstream.limits.total_seconds, response)(scope, receive, observed.send)


RELAYED = tuple(
    _Relayed(path, pick, summary, body)
    for path, pick, body, summary in (
        ("/v1/chat/completions", _llm, schemas.CHAT, "Chat, as OpenAI's API has it."),
        ("/v1/completions", _llm, schemas.COMPLETIONS, "Completion of a text, as OpenAI's API has it."),
        ("/v1/responses", _llm, schemas.RESPONSES, "A response, as OpenAI's API has it."),
        ("/tokenize", _llm, schemas.TOKENIZE, "Token ids of a text."),
        ("/detokenize", _llm, schemas.DETOKENIZE, "The text of token ids."),
        ("/generate", _llm, schemas.GENERATE, "Completion of a raw prompt, in one short answer."),
        ("/v1/embeddings", _embedding, schemas.EMBEDDINGS, "Unit vectors of texts, as OpenAI's API."),
        ("/v1/sentiment", _sentiment, schemas.SENTIMENT, "Label and probabilities of texts."),
        ("/v1/reviews", _review, schemas.REVIEWS, "Store reviews: one, a list, or one a line."),
        ("/v1/reviews/search", _review, schemas.SEARCH, "Find reviews by meaning, by words, or by both."),
    )
) + tuple(
    _Relayed(path, _review, summary, described, method)
    for method, path, described, summary in (
        ("DELETE", "/v1/reviews/{review_id}", schemas.path("review_id"), "Remove a review."),
        ("POST", "/v1/precompute", schemas.PRECOMPUTE, "Make popular answers ready now."),
        ("GET", "/v1/precompute/status", {}, "How far the answers are that are made ready."),
        ("GET", "/v1/restaurants", schemas.RESTAURANTS, "Restaurants, in the order that is asked for."),
        *(
            ("GET", f"/v1/restaurants/{{restaurant_id}}/{what}", schemas.path("restaurant_id"), summary)
            for what, summary in (
                ("sentiment", "How many of a restaurant's reviews are positive."),
                ("summary", "What a restaurant's reviews say, with evidence."),
                ("strengths", "What a restaurant is liked for more than others."),
            )
        ),
    )
)


class Shortcut:
    """ASGI layer: relayed requests go past FastAPI's router and layers, which have nothing to add to them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._relayed = {(relayed.method, relayed.path): relayed for relayed in RELAYED if "{" not in relayed.path}
        self._patterns = [relayed for relayed in RELAYED if "{" in relayed.path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; what is raised is answered by the edge."""
        relayed = self._find(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if relayed is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = relayed
        await relayed.serve(scope, receive, send)

    def _find(self, method: str, path: str) -> _Relayed | None:
        found = self._relayed.get((method, path))
        if found is None and method in ("GET", "DELETE"):
            found = next((one for one in self._patterns if one.method == method and one.pattern.match(path)), None)
        return found


def routes() -> APIRouter:
    """The gateway's router."""
    router = APIRouter(responses=ERROR_RESPONSES)
    for relayed in RELAYED:
        router.add_api_route(
            relayed.path,
            relayed,
            methods=[relayed.method],
            summary=relayed.summary,
            description="Relayed to the service that does it.",
            response_model=None,
            openapi_extra=relayed.described,
            name=relayed.path,
        )

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """Every model that is served now, with the service and the engine that serve it."""
        return {"object": "list", "data": await state(request).catalog.models(state(request).upstreams.with_models)}

    @router.get("/v1/models/{model:path}")
    async def model(model: str, request: Request) -> dict[str, Any]:
        """One model's card, under each name that it answers to."""
        upstreams = state(request).upstreams
        for card in await state(request).catalog.models(upstreams.with_models):
            if model in catalog.names(card):
                return card
        parts = await upstreams.check()
        for upstream in upstreams.with_models:
            if parts[upstream.name].status == "down":
                raise Unavailable(f"The {upstream.name} service is away, and may have that model.", retry_after=2)
        raise ModelNotFound("No such model here. GET /v1/models lists them.", param="model")

    return router


class VerboseReadiness(Readiness):
    """With what the relayed routes did in the last minutes."""

    routes: dict[str, Summary]


async def ready(request: Request) -> Readiness:
    """The gateway is down only when every service is: one that is away leaves the others useful, as does Redis.

    With `?verbose` it tells of its routes, too.
    """
    readiness = await _readiness(request)
    if "verbose" not in request.query_params:
        return readiness
    routes = {route: figures.recent.summary() for route, figures in state(request).observer.routes.routes.items()}
    return VerboseReadiness(status=readiness.status, parts=readiness.parts, routes=routes)


async def _readiness(request: Request) -> Readiness:
    gateway = state(request)
    parts = await gateway.upstreams.check()
    cache = ComponentHealth(status=gateway.cache.status(), detail=gateway.cache.detail())
    if all(part.status == "down" for part in parts.values()):
        return Readiness(status="down", parts={**parts, "cache": cache})
    parts["cache"] = cache
    return Readiness(status="ok" if worst_status(parts) == "ok" else "degraded", parts=parts)
