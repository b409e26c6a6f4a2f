"""Dispatches requests: relayed routes by the route table, and the gateway's few own routes."""

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
    """What the lifespan has built.

    Args:
        request: any request.

    Returns:
        The gateway's state.
    """
    gateway: GatewayState = request.app.state.service
    return gateway


class RelayRouter:
    """ASGI middleware that handles relayed requests and bypasses FastAPI, which would add nothing to them."""

    def __init__(self, app: ASGIApp, table: RouteTable) -> None:
        """Wrap an app.

        Args:
            app: handles all other requests.
            table: the relayed routes.
        """
        self._app = app
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request. Errors are raised, and the request middleware renders them.

        Args:
            scope: of the connection.
            receive: ASGI channel.
            send: ASGI channel.
        """
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
    """FastAPI's router, with the gateway's own routes. The relayed ones are in it for the OpenAPI page.

    Args:
        table: the relayed routes.

    Returns:
        The router.
    """
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
        """All models that are served now, with the service and the engine of each."""
        return {"object": "list", "data": await state(request).catalog.models(state(request).upstreams.with_models)}

    @own.get("/v1/models/{model:path}")
    async def model(model: str, request: Request) -> dict[str, Any]:
        """The card of one model, by any of its names."""
        upstreams = state(request).upstreams
        for card in await state(request).catalog.models(upstreams.with_models):
            if model in model_catalog.model_names(card):
                return card
        states = await upstreams.check()
        for upstream in upstreams.with_models:
            if states[upstream.name].status == "down":
                raise Unavailable(f"The {upstream.name} service is away, and may have that model.", retry_after=2)
        raise ModelNotFound("No such model here. GET /v1/models lists them.", param="model")

    return own


def _documented() -> None:
    """Never called, because `RelayRouter` handles the relayed routes."""


class VerboseReadiness(Readiness):
    """Readiness, with the latencies of the relayed routes in the last minutes."""

    routes: dict[str, DurationSummary]


async def ready(request: Request) -> Readiness:
    """Readiness of the gateway: `down` only if all services are, since each works without the others and without Redis.

    Args:
        request: with `?verbose`, the routes' latencies are included.

    Returns:
        The state of each service and of the cache.
    """
    readiness = await _readiness(state(request))
    if "verbose" not in request.query_params:
        return readiness
    routes = {route: recorder.percentiles.summary() for route, recorder in state(request).route_metrics.routes.items()}
    return VerboseReadiness(status=readiness.status, parts=readiness.parts, routes=routes)


async def _readiness(gateway: GatewayState) -> Readiness:
    states = await gateway.upstreams.check()
    cache = ComponentHealth(status=gateway.cache.status(), detail=gateway.cache.detail())
    if all(state.status == "down" for state in states.values()):
        return Readiness(status="down", parts={**states, "cache": cache})
    states["cache"] = cache
    return Readiness(status="ok" if worst_status(states) == "ok" else "degraded", parts=states)
