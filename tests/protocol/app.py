"""A service that is nothing but the shared server, the edge and a few routes: `python -m tests.protocol.app`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from onecard import settings
from onecard.web import app as base
from onecard.web import health, server
from onecard.web.middleware import request_state


class PlainSettings(settings.ServiceSettings):
    """The shared ones."""

    plain_port: int = Field(default=0)


class RouteCounts:
    """What the routes have met with."""

    def __init__(self) -> None:
        self.paths: dict[str, int] = {}
        self.running = 0

    def enter(self, path: str) -> None:
        self.paths[path] = self.paths.get(path, 0) + 1


def create_app(config: PlainSettings) -> FastAPI:
    """Routes that tell what came, and answers of any size and length."""
    seen, routes = RouteCounts(), base.router()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield

    async def ready(request: Request) -> health.Readiness:
        return health.Readiness(status="ok", parts={})

    @routes.post("/echo")
    async def echo(request: Request) -> dict[str, Any]:
        seen.enter("echo")
        body, client = request_state(request.scope)["body"], request.scope["client"]
        return {
            "bytes": len(body),
            "text": body[:100].decode(errors="replace"),
            "version": request.scope["http_version"],
            "client": client[0],
            "scheme": request.scope["scheme"],
        }

    @routes.post("/slow")
    async def slow(seconds: float) -> dict[str, Any]:
        seen.enter("slow")
        await asyncio.sleep(seconds)
        return {"slept": seconds}

    @routes.get("/hidden")
    async def hidden() -> dict[str, Any]:
        seen.enter("hidden")
        return {}

    @routes.get("/big")
    async def big(size: int) -> Response:
        return Response(b"a" * size)

    @routes.get("/endless")
    async def endless() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            seen.running += 1
            try:
                while True:
                    yield b"a" * 65536
                    await asyncio.sleep(0)
            finally:
                seen.running -= 1

        return StreamingResponse(pieces())

    @routes.get("/three")
    async def three() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for number in range(3):
                yield b"%d\n" % number

        return StreamingResponse(pieces())

    @routes.get("/seen")
    async def what() -> dict[str, Any]:
        return {"paths": seen.paths, "running": seen.running}

    return base.create_app(
        title="plain", settings=config, lifespan=lifespan, routes=routes, ready=ready, json_bodies=False
    )


if __name__ == "__main__":
    config = settings.load(PlainSettings)
    server.run(create_app(config), service="plain", port=config.plain_port, settings=config)
