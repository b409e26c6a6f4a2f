"""Where the services are."""

import pytest

from embedding_service.settings import EmbeddingSettings
from gateway.settings import GatewaySettings
from onecard.settings import load


def test_a_service_has_one_address_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separated by commas, blanks and closing slashes forgiven."""
    monkeypatch.setenv("LLM_URL", "http://a.example:8001/")
    monkeypatch.setenv("EMBEDDING_URL", "http://a.example:8003, https://b.example/embedding/ ,")
    settings = load(GatewaySettings)
    assert settings.llm_url == ("http://a.example:8001",)
    assert settings.embedding_url == ("http://a.example:8003", "https://b.example/embedding")


@pytest.mark.parametrize(
    "value",
    [
        ",",
        "http://a.example:8001,b.example",
        "ftp://a.example",
        "http://user:secret@a.example",
        "http://user:a[secret]b@a.example",
        "http://a.example:0",
        "http://a.example/x?y=z",
        "http://a.example/x#y",
        "http://a.example/x y",
        "http://서비스:8001",
        "http:/a.example:8001",
        "http:a.example",
        "http:///a.example",
        "http:\\\\a.example",
        "http://a.example\\x",
        "http://a%2eexample:8001",
    ],
)
def test_what_is_no_address_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The line names the variable, and repeats nothing of its value."""
    monkeypatch.setenv("LLM_URL", value)
    with pytest.raises(SystemExit, match="LLM_URL") as refused:
        load(GatewaySettings)
    assert "secret" not in str(refused.value)


def test_a_service_may_use_its_own_time_limits_to_the_end() -> None:
    """The gateway waits longer for an answer to begin than an encoder lets a bulk request take."""
    limits = GatewaySettings.model_fields
    bulk = EmbeddingSettings.model_fields["bulk_timeout_seconds"].default
    assert bulk < limits["upstream_first_byte_seconds"].default < limits["upstream_total_seconds"].default
