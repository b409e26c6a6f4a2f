"""Which responses of vLLM's server are rewritten into our error format."""

from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.types import Receive, Scope, Send

from llm_service.on_vllm.error_rewriting import ErrorFormatMiddleware
from onecard.web import health


async def has_failed(_: Request) -> health.Readiness:
    parts = {"engine": health.ComponentHealth(status="down", detail="has failed")}
    return health.Readiness(status="down", parts=parts)


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_a_report_of_a_failed_engine_is_no_error(path: str) -> None:
    """It says which part is down."""
    app = FastAPI()
    app.include_router(health.router(has_failed))
    app.state.engine_client = SimpleNamespace(errored=True)
    rewritten = ErrorFormatMiddleware(app)

    async def requested(scope: Scope, receive: Receive, send: Send) -> None:
        await rewritten({**scope, "app": app, "state": {}}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(requested), base_url="http://llm") as client:
        answer = await client.get(path)
    assert answer.status_code == 503
    assert answer.json() == (await has_failed(None)).model_dump()  # type: ignore[arg-type]
