"""What a request takes up is free when it ends: nothing of it waits for a garbage collection."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.telemetry.response_tap import ResponseTap
from onecard.web.middleware import RequestContext
from tests.gateway.support import key, secret_of, write_keys
from tests.gateway.test_route_table import gateway, service

__all__ = ["service"]


@contextmanager
def without_collections() -> Iterator[None]:
    """Only reference counts free anything."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def remembered(monkeypatch: pytest.MonkeyPatch, *classes: type[Any]) -> list[Callable[[], object]]:
    """Weak references to all objects of these classes that are made from now on."""
    seen: list[Callable[[], object]] = []
    for one in classes:
        made = one.__init__

        def remember(self: Any, *args: Any, made: Callable[..., None] = made, **named: Any) -> None:
            seen.append(weakref.ref(self))
            made(self, *args, **named)

        monkeypatch.setattr(one, "__init__", remember)
    return seen


@pytest.mark.parametrize("limited", [True, False], ids=["with limits", "without"])
@pytest.mark.parametrize("path", ["/v1/drafts/a", "/v1/nothing/here"], ids=["relayed", "not found"])
def test_a_request_leaves_nothing_behind(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited: bool, path: str
) -> None:
    """Its context and its tap are gone, with keys and limits and without."""
    settings: dict[str, Any] = {}
    if limited:
        write_keys(tmp_path / "keys.json", [key("a", tokens_per_minute=1000)])
        settings["api_keys_file"] = tmp_path / "keys.json"
    headers = {"authorization": f"Bearer {secret_of('a')}"} if limited else {}
    with gateway(service, **settings) as client:
        client.patch(path, json={}, headers=headers)  # The first one fills what is made once.
        seen = remembered(monkeypatch, ResponseTap, RequestContext)
        with without_collections():
            for _ in range(3):
                client.patch(path, json={}, headers=headers)
            client.get("/health/live")  # The loop has gone on since.
            left = [one() for one in seen[:-1] if one() is not None]
    assert len(seen) >= 4
    assert not left
