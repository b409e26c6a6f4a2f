"""A stack on stand-ins is degraded, and says so where an alert can see it."""

import re
from pathlib import Path

import httpx
import pytest
import yaml

from onecard.models.folders import STAND_INS
from onecard.models.identity import ModelIdentity
from tests.gateway.gateway_scene import GatewayScene, scene
from tests.shared.cache.support import RedisProcess
from tests.support import Server, metric

STAND_IN = ModelIdentity(STAND_INS["llm"], "r1", "0" * 16)
REAL = ModelIdentity("Qwen/Qwen2.5-7B-Instruct", "r1", "0" * 16)
ALERTS = Path(__file__).parents[2] / "monitoring" / "prometheus" / "alerts.yml"


def tell(at: GatewayScene, model: ModelIdentity) -> dict[str, object]:
    """Exchange the model of the canned service, and read the gateway's readiness."""
    httpx.post(f"{at.canned.url}/tell", content=model.header_value())
    answer = at.client.get("/health/ready")
    assert answer.status_code == 200
    body: dict[str, object] = answer.json()
    return body


def test_a_stand_in_makes_a_service_degraded(session_redis: RedisProcess) -> None:
    """While a replica serves one, and not a moment longer; requests are answered all the same."""
    with scene(session_redis) as at:
        assert tell(at, REAL)["parts"]["llm"] == {"status": "ok", "detail": None}  # type: ignore[index]
        assert at.metric('onecard_upstream_stand_in{replica="0",upstream="llm"}') == 0
        degraded = tell(at, STAND_IN)
        assert degraded["status"] == "degraded"
        assert degraded["parts"]["llm"] == {"status": "degraded", "detail": "serves a stand-in"}  # type: ignore[index]
        assert at.metric('onecard_upstream_stand_in{replica="0",upstream="llm"}') == 1
        assert tell(at, REAL)["parts"]["llm"]["status"] == "ok"  # type: ignore[index]


def test_an_alert_reads_that_metric() -> None:
    """By the name that the gateway gives it."""
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    [alert] = [rule for rule in rules if rule.get("alert") == "StandIn"]
    assert re.fullmatch(r"onecard_upstream_stand_in == 1", alert["expr"])


@pytest.mark.parametrize("service", ["sentiment", "embedding"])
def test_a_service_on_a_stand_in_says_so_itself(service: str, request: pytest.FixtureRequest, gateway: Server) -> None:
    """It stays ready: 200, degraded, with what it stands in for; the gateway shows it, too."""
    server: Server = request.getfixturevalue(service)
    answer = httpx.get(f"{server.url}/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["parts"]["model"]["detail"].startswith("a stand-in for ")
    assert httpx.get(f"{gateway.url}/health/ready").json()["parts"][service]["status"] == "degraded"
    assert metric(gateway, f'onecard_upstream_stand_in{{replica="0",upstream="{service}"}}') == 1
