"""Prometheus scrapes every part, and every query of dashboard and alerts finds something."""

import json
import math
import time
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.compose.base_images import ROOT
from tests.compose.deployment import Deployment
from tests.support import LLM

PROMETHEUS = "http://prometheus:9090/api/v1"
DASHBOARD = json.loads((ROOT / "monitoring/grafana/dashboards/onecard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
NEEDS_A_CARD = "onecard_gpu_"
SEEN_WITHIN_SECONDS = 120


def ask(deployment: Deployment, path: str) -> Any:
    """What Prometheus answers."""
    answer = deployment.get_inside(f"{PROMETHEUS}/{path}")
    assert answer["status"] == "success"
    return answer["data"]


def finds(deployment: Deployment, query: str) -> bool:
    """The query gives at least one number."""
    result = ask(deployment, f"query?query={quote(query)}")["result"]
    return any(not math.isnan(float(series["value"][1])) for series in result)


@pytest.fixture(scope="module")
def busy(deployment: Deployment) -> Deployment:
    """The stack, while all of its routes are asked, and again what was asked before."""
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    wanted = [query for query in QUERIES if NEEDS_A_CARD not in query]
    turn, key = 0, {"authorization": f"Bearer {deployment.key}"}
    while wanted and time.monotonic() < deadline:
        turn += 1
        chat = [{"role": "user", "content": f"{turn}번 손님의 리뷰를 요약해 주세요."}]
        deployment.post("/v1/chat/completions", {"model": LLM, "messages": chat, "max_tokens": 8}).raise_for_status()
        for path in ("/v1/sentiment", "/v1/embeddings"):
            deployment.post(path, {"input": [f"{turn}번 국물이 진해요", "직원이 친절해요"]}).raise_for_status()
        review = {"review_id": "busy", "restaurant_id": "busy", "text": f"{turn}번 국물이 진해요"}
        deployment.post("/v1/reviews", review).raise_for_status()
        look = {"query": "국물"}  # It may come from the cache.
        httpx.post(f"{deployment.url()}/v1/reviews/search", json=look, headers=key, timeout=60).raise_for_status()
        time.sleep(2)
        wanted = [query for query in wanted if not finds(deployment, query)] if turn % 5 == 0 else wanted
    return deployment


def test_every_part_is_scraped(deployment: Deployment) -> None:
    """Also those that ask for a key."""
    deadline = time.monotonic() + 60
    while True:
        targets = ask(deployment, "targets")["activeTargets"]
        health = {target["labels"]["job"]: target["health"] for target in targets}
        if set(health.values()) == {"up"} or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert health == dict.fromkeys(("gateway", "llm", "sentiment", "embedding", "review", "worker", "prometheus"), "up")


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_the_dashboard_finds_numbers(busy: Deployment, query: str) -> None:
    """A GPU's are there where one is; the others everywhere."""
    if NEEDS_A_CARD in query:
        ask(busy, f"query?query={quote(query)}")
        pytest.skip("there is no card here: the query is right, and finds nothing")
    assert finds(busy, query)


def test_the_rules_are_loaded_and_nothing_is_wrong(busy: Deployment) -> None:
    """No rule fails, and a healthy stack fires no alert but that its models are stand-ins."""
    rules = [rule for group in ask(busy, "rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    alerts = {rule["name"]: rule["state"] for rule in rules if rule["type"] == "alerting"}
    assert len(alerts) >= 12
    assert [name for name, state in alerts.items() if state == "firing" and name != "StandIn"] == []
