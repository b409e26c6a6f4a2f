"""Creates the FastAPI app of every service."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import ASGIApp
from typing_extensions import override

from onecard import __version__, errors, metrics
from onecard.settings import ServiceSettings
from onecard.web import health
from onecard.web.auth import Guard, KeyGuard
from onecard.web.middleware import LoadShedder, RequestMiddleware, request_state

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | int | None


class ErrorResponse(BaseModel):
    """Body of every error response."""

    error: ErrorDetail


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        400: "The request is wrong",
        401: "No API key, or a wrong one",
        403: "The key may not use this model",
        404: "No such path or model",
        405: "The path does not take this method",
        408: "The request came too slowly",
        413: "The body is too large",
        415: "The body is not JSON",
        421: "No key is asked for, and the host name is not known; see ALLOWED_HOSTS",
        429: "Too many requests; see Retry-After",
        431: "Path, query and headers are too long",
        500: "A fault of the server",
        502: "A service broke off",
        503: "A service is down or starting; see Retry-After",
        504: "No answer in time",
    }.items()
}


class _ParsedRequest(Request):
    """A request whose JSON the request middleware has parsed already."""

    @override
    async def json(self) -> Any:
        return request_state(self.scope)["json"]


class JsonRoute(APIRoute):
    """A route that uses the JSON parsed by the middleware, instead of parsing it again, less strictly."""

    @override
    def get_route_handler(self) -> Callable[[Request], Any]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            response: Response = await handler(_ParsedRequest(request.scope, request.receive))
            return response

        return handle


def router() -> APIRouter:
    """An `APIRouter` for a service's own routes."""
    return APIRouter(route_class=JsonRoute, responses=ERROR_RESPONSES)


def create_app(
    *,
    title: str,
    settings: ServiceSettings,
    lifespan: Lifespan,
    routes: APIRouter,
    ready: health.ReadinessCheck,
    json_bodies: bool = True,
    guard: Guard | None = None,
    load_shedder: Callable[[FastAPI], LoadShedder] | None = None,
    middleware: Callable[[ASGIApp], ASGIApp] | None = None,
    raw_types: frozenset[bytes] = frozenset(),
) -> FastAPI:
    """Create a FastAPI app with a service's routes, health checks, metrics, error handlers and the request middleware.

    Args:
        title: in the OpenAPI document.
        settings: of the service.
        lifespan: builds the service's state into `app.state.service` and closes it.
        routes: from `router`.
        ready: the readiness check.
        json_bodies: whether the request middleware parses and checks bodies; a relay leaves that to the upstream
            service.
        guard: decides who may call; by default everybody.
        load_shedder: refuses requests before they are parsed; made from the app, whose state it may read.
        middleware: wraps the routes, inside the request middleware.
        raw_types: content types of bodies that a route parses itself.

    Returns:
        The app.
    """
    app = FastAPI(title=title, version=__version__, lifespan=lifespan, redirect_slashes=False)
    app.state.registry = metrics.new_registry()
    app.include_router(routes)
    app.include_router(health.router(ready), responses=ERROR_RESPONSES)
    app.add_api_route("/metrics", metrics.endpoint, include_in_schema=False)
    errors.install(app)
    if middleware is not None:
        app.add_middleware(middleware)
    app.add_middleware(
        _request_middleware,
        settings=settings,
        metrics=metrics.HttpMetrics(app.state.registry),
        json_bodies=json_bodies,
        guard=guard or KeyGuard(None),
        load_shedder=load_shedder(app) if load_shedder else None,
        raw_types=raw_types,
    )
    _document_bodies_as_400(app)
    return app


def _request_middleware(app: ASGIApp, /, **options: Any) -> ASGIApp:
    return RequestMiddleware(app, **options)


def _document_bodies_as_400(app: FastAPI) -> None:
    """Drop FastAPI's 422 from the OpenAPI document: an invalid body is a 400 here, as in OpenAI's API."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        schema = original()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
