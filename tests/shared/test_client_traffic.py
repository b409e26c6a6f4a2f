"""Which outcome a client's request has: only an answer that was sent to its end shows that a service works."""

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send

from onecard.metrics import HttpMetrics
from onecard.settings import ServiceSettings
from onecard.web.auth import KeyGuard
from onecard.web.disconnect import ClientDisconnected
from onecard.web.middleware import RequestMiddleware

START: Message = {"type": "http.response.start", "status": 200}
FIRST: Message = {"type": "http.response.body", "body": b"data: ", "more_body": True}
LAST: Message = {"type": "http.response.body"}


@pytest.mark.parametrize(
    ("messages", "leaves", "outcome"),
    [
        ([START, FIRST, LAST], False, "served"),
        ([START, FIRST], False, "unfinished"),
        ([START, FIRST], True, "unfinished"),
        ([], True, "unfinished"),
        ([{**START, "status": 429}, LAST], False, "refused"),
        ([{**START, "status": 503}, LAST], False, "failed"),
        ([{**START, "status": 404}, LAST], False, None),
    ],
)
async def test_outcomes(messages: list[Message], leaves: bool, outcome: str | None) -> None:
    """A hung service answers nobody: whoever leaves it, at once or in the middle of a stream, is not served."""
    registry = CollectorRegistry()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if leaves:
            raise ClientDisconnected

    async def nothing(*_: object) -> Message:
        return {"type": "http.disconnect"}

    edge = RequestMiddleware(
        app, settings=ServiceSettings(), metrics=HttpMetrics(registry), json_bodies=False, guard=KeyGuard(None)
    )
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/x",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
    }
    await edge(scope, nothing, nothing)  # type: ignore[arg-type]
    counted = {
        name: registry.get_sample_value("onecard_client_requests_total", {"outcome": name})
        for name in ("served", "refused", "failed", "unfinished")
    }
    assert counted == {name: float(name == outcome) for name in counted}
