"""From a request to what answers it: the relayed routes by the route table, and the gateway's few own ones."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.relay import with_timeout
from gateway.routes import RouteTable
from gateway.state import GatewayState
from gateway.telemetry.percentiles import DurationSummary
from gateway.telemetry.response_tap import ResponseTap
from gateway.upstream import model_catalog
from onecard.errors import ModelNotFound, Unavailable
from onecard.web.app import ERROR_RESPONSES
from onecard.web.health import ComponentHealth, Readiness, worst_status
from onecard.web.middleware import request_state


def state(request: Request) -> GatewayState:
    """What the lifespan built."""
    gateway: GatewayState = request.app.state.service
    return gateway


class RelayRouter:
    """ASGI layer: relayed requests go past FastAPI's router and layers, which have nothing to add to them."""

    def __init__(self, app: ASGIApp, table: RouteTable) -> None:
        self._app = app
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; what is raised is answered by the edge."""
        route = self._table.find(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        gateway: GatewayState = scope["app"].state.service
        upstream = gateway.upstreams.by_name[route.service]
        tap = ResponseTap.of(scope, send)
        try:
            with gateway.instrumentation(scope, tap, upstream.load_balancer.metrics, route.span_name):
                if gateway.model_access is not None:
                    await gateway.model_access.require(request_state(scope).get("caller"), upstream, route.json(scope))
                response = await gateway.handlers[route.path](scope, receive)
                await with_timeout(upstream.timeouts.total_seconds, response)(scope, receive, tap.send)
        finally:
            tap.close()


def router(table: RouteTable) -> APIRouter:
    """FastAPI's router: the gateway's own routes, and the relayed ones for the OpenAPI page."""
    own = APIRouter(responses=ERROR_RESPONSES)
    for route in table:
        own.add_api_route(
            route.path,
            _documented,
            methods=[route.method],
            summary=route.summary,
            description="Relayed to the service that does it.",
            response_model=None,
            openapi_extra=dict(route.documentation),
            name=route.path,
        )

    @own.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """Every model that is served now, with the service and the engine that serve it."""
        return {"object": "list", "data": await state(request).catalog.models(state(request).upstreams.with_models)}

    @own.get("/v1/models/{model:path}")
    async def model(model: str, request: Request) -> dict[str, Any]:
        """One model's card, under each name that it answers to."""
        upstreams = state(request).upstreams
        for card in await state(request).catalog.models(upstreams.with_models):
            if model in model_catalog.model_names(card):
                return card
        parts = await upstreams.check()
        for upstream in upstreams.with_models:
            if parts[upstream.name].status == "down":
                raise Unavailable(f"The {upstream.name} service is away, and may have that model.", retry_after=2)
        raise ModelNotFound("No such model here. GET /v1/models lists them.", param="model")

    return own


def _documented() -> None:
    """Never called: see `RelayRouter`."""


class VerboseReadiness(Readiness):
    """With what the relayed routes did in the last minutes."""

    routes: dict[str, DurationSummary]


async def ready(request: Request) -> Readiness:
    """The gateway is down only when every service is: one that is away leaves the others useful, as does Redis.

    With `?verbose` it tells of its routes, too.
    """
    readiness = await _readiness(state(request))
    if "verbose" not in request.query_params:
        return readiness
    routes = {route: recorder.percentiles.summary() for route, recorder in state(request).route_metrics.routes.items()}
    return VerboseReadiness(status=readiness.status, parts=readiness.parts, routes=routes)


async def _readiness(gateway: GatewayState) -> Readiness:
    parts = await gateway.upstreams.check()
    cache = ComponentHealth(status=gateway.cache.status(), detail=gateway.cache.detail())
    if all(part.status == "down" for part in parts.values()):
        return Readiness(status="down", parts={**parts, "cache": cache})
    parts["cache"] = cache
    return Readiness(status="ok" if worst_status(parts) == "ok" else "degraded", parts=parts)
