"""`/health/live`, `/health/ready` and `/health`, the same in every service."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from onecard.models.folders import ModelFolder

Status = Literal["ok", "degraded", "down"]
_SEVERITY: tuple[Status, ...] = ("ok", "degraded", "down")


class ComponentHealth(BaseModel):
    """Health of one thing that responses depend on."""

    status: Status
    detail: str | None = None
    """What is wrong, for operators; no addresses, no paths."""


class Readiness(BaseModel):
    """Health of a service and of its parts."""

    status: Status
    parts: dict[str, ComponentHealth]


_DOWN: dict[int | str, dict[str, Any]] = {503: {"model": Readiness}}
_Verbose = Annotated[str | None, Query(description="With more, from a service that has more to tell.")]
ReadinessCheck = Callable[[Request], Awaitable[Readiness]]


def worst_status(parts: dict[str, ComponentHealth]) -> Status:
    """The worst status among `parts`; `ok` if there are none."""
    return max((part.status for part in parts.values()), key=_SEVERITY.index, default="ok")


def stand_in_health(folder: ModelFolder) -> dict[str, ComponentHealth]:
    """The part that a service on a stand-in adds to its readiness.

    Args:
        folder: of the model that is served.

    Returns:
        One part, `degraded`; nothing if it is no stand-in.
    """
    if not folder.is_stand_in:
        return {}
    detail = f"a stand-in for {folder.stand_in_for}" if folder.stand_in_for else "a stand-in"
    return {"model": ComponentHealth(status="degraded", detail=detail)}


def router(check: ReadinessCheck) -> APIRouter:
    """Create the three routes.

    Args:
        check: determines the readiness.

    Returns:
        The routes.
    """
    routes = APIRouter(tags=["health"])

    @routes.get("/health/live")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @routes.get("/health", summary="The same as /health/ready", response_model=Readiness, responses=_DOWN)
    @routes.get("/health/ready", response_model=Readiness, responses=_DOWN)
    async def ready(request: Request, verbose: _Verbose = None) -> JSONResponse:
        """The service can do its work: 200, also while degraded; 503 when it cannot."""
        readiness = await check(request)
        return JSONResponse(readiness.model_dump(), 503 if readiness.status == "down" else 200)

    return routes
