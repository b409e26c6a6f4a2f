"""A minimal relay in Python: Starlette under uvicorn, aiohttp to the upstream, and nothing else.

`python -m bench.gateway.bare UPSTREAM PORT`. It has no keys, limits, metrics, logs, deadlines or error handling.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bench.canned import PATH


def create_app(upstream: str) -> Starlette:
    """Create the relay. `upstream` is the URL of the upstream."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            app.state.session = session
            yield

    async def relay(request: Request) -> Response:
        headers = {"content-type": request.headers["content-type"]}
        session: aiohttp.ClientSession = request.app.state.session
        async with session.post(upstream + PATH, data=await request.body(), headers=headers) as answer:
            return Response(await answer.read(), answer.status, media_type=answer.content_type)

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route(PATH, relay, methods=["POST"]), Route("/health", health)], lifespan=lifespan)


if __name__ == "__main__":
    options = {"log_level": "warning", "access_log": False, "backlog": 4096}
    uvicorn.run(create_app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), **options)  # type: ignore[arg-type]
