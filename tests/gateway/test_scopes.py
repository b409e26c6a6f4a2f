"""What services say of their models is asked once for all who want to know it."""

import asyncio
from typing import Any

import pytest

from gateway.keys.model_access import MODEL_CARDS_TTL_SECONDS, ModelAccess
from gateway.request_body import JsonBody
from gateway.upstream import model_catalog
from gateway.upstream.model_catalog import ModelCatalog
from onecard.errors import ModelNotAllowed, Unavailable
from tests.gateway.support import key


class FakeUpstream:
    """A service with one model, which may be away; counts who asks."""

    has_models = True

    def __init__(self, name: str = "llm") -> None:
        self.name = name
        self.asked = 0
        self.away = False

    async def cards(self) -> list[dict[str, Any]]:
        self.asked += 1
        await asyncio.sleep(0.01)
        return [] if self.away else [{"id": f"{self.name}-model"}]


@pytest.fixture(autouse=True)
def answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question goes to the double."""
    monkeypatch.setattr(model_catalog, "_fetch_cards", lambda upstream: upstream.cards())


async def test_a_crowd_with_scoped_keys_makes_one_look_up() -> None:
    """Two hundred at once, and those of the next seconds, too."""
    now, llm = 0.0, FakeUpstream()
    scopes = ModelAccess(ModelCatalog(lambda: now))
    mine, other = key("a", models=("llm-model",)), key("b", models=("other",))

    async def require(caller: Any) -> None:
        await scopes.require(caller, llm, JsonBody(b'{"model": "llm-model"}', is_exact=False))  # type: ignore[arg-type]

    await asyncio.gather(*(require(mine) for _ in range(200)))
    outcomes = await asyncio.gather(*(require(other) for _ in range(200)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ModelNotAllowed}
    assert llm.asked == 1
    now += MODEL_CARDS_TTL_SECONDS + 1
    await asyncio.gather(*(require(mine) for _ in range(200)))
    assert llm.asked == 2


async def test_a_crowd_asks_a_service_that_is_away_once() -> None:
    """All of them are told so; the next one asks again."""
    llm = FakeUpstream()
    llm.away = True
    scopes, caller = ModelAccess(ModelCatalog()), key("a", models=("llm-model",))
    crowd = [scopes.require(caller, llm, JsonBody(b"{}", is_exact=False)) for _ in range(200)]  # type: ignore[arg-type]
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert llm.asked == 1
    llm.away = False
    await scopes.require(caller, llm, JsonBody(b"{}", is_exact=False))  # type: ignore[arg-type]


async def test_the_list_of_models_is_asked_for_once_and_never_old() -> None:
    """By all who want it at the same moment."""
    models, services = ModelCatalog(), [FakeUpstream("llm"), FakeUpstream("embedding")]
    lists = await asyncio.gather(*(models.models(services) for _ in range(200)))  # type: ignore[arg-type]
    assert lists == [[{"id": "llm-model", "service": "llm"}, {"id": "embedding-model", "service": "embedding"}]] * 200
    assert [service.asked for service in services] == [1, 1]
    services[1].away = True
    assert [card["id"] for card in await models.models(services)] == ["llm-model"]  # type: ignore[arg-type]
