"""Reading the environment."""

import pytest

from onecard.settings import ServiceSettings, load
from onecard.web import server


def test_a_wrong_value_is_one_line_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """All wrong variables are named at once, and no value is repeated: one of them could be a key."""
    monkeypatch.setenv("MAX_BODY_MB", "plenty")
    monkeypatch.setenv("API_KEY", "short-secret")
    with pytest.raises(SystemExit) as stop:
        load(ServiceSettings)
    message = str(stop.value)
    assert "MAX_BODY_MB" in message
    assert "API_KEY" in message
    assert "\n" not in message
    assert "short-secret" not in message


@pytest.mark.parametrize("key", ["열쇠가 아주 길고 길어서 열여섯 자", "a key with spaces in it", "a" * 1025])
def test_a_key_that_no_header_can_carry_stops_the_start(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Nobody could ever come in with it."""
    monkeypatch.setenv("API_KEY", key)
    with pytest.raises(SystemExit, match="API_KEY"):
        load(ServiceSettings)


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass empty strings for what nobody set."""
    monkeypatch.setenv("API_KEY", "")
    assert load(ServiceSettings).api_key is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
def test_no_public_address_without_a_key(host: str) -> None:
    """Nobody opens the card to the world by forgetting a key."""
    with pytest.raises(SystemExit, match="API_KEY"):
        server.require_key_in_public(ServiceSettings(host=host))
    server.require_key_in_public(ServiceSettings(host=host, allow_no_key=True))
    server.require_key_in_public(ServiceSettings.model_validate({"host": host, "api_key": "0123456789abcdef"}))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    """A laptop just works."""
    server.require_key_in_public(ServiceSettings(host=host))
