"""How long the event loop of a review service waits for the threads beside it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onecard.web import server
from review_service import __main__ as command

DEFAULT_SECONDS = 0.005


@pytest.fixture
def _default_interval() -> Iterator[None]:
    """Python's, until the end of the test."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(DEFAULT_SECONDS)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_default_interval")
def test_a_service_waits_less_than_python_does_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From before it serves."""
    monkeypatch.setenv("REVIEW_STORE", str(tmp_path))
    monkeypatch.setattr(command, "limit_arenas", lambda: None)
    seen = list[float]()
    monkeypatch.setattr(server, "run", lambda *_, **__: seen.append(sys.getswitchinterval()))
    command.main()
    assert seen == [pytest.approx(command.SWITCH_INTERVAL_SECONDS, rel=0.1)]
    assert seen[0] < DEFAULT_SECONDS
