"""Rules, alerts and dashboard ask for metrics that exist, and tell clients' requests from Onecard's own."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from review_service.precompute.worker_metrics import WorkerMetrics

ROOT = Path(__file__).parents[2]
CODE = "\n".join(
    path.read_text() for path in ROOT.glob("*/*/**/*.py") if not {"tests", ".venv"} & set(path.relative_to(ROOT).parts)
)
BUILT = {"onecard_gpu_memory_measured_bytes": '_gauge("measured"'}
"""Names that are put together while they are registered, and where that is."""
_SUFFIXES = re.compile("_(total|bucket|sum|count)$")


def rules(file: str) -> dict[str, str]:
    """Name → expression of a file of rules."""
    groups: list[dict[str, Any]] = yaml.safe_load((ROOT / "monitoring" / "prometheus" / file).read_text())["groups"]
    return {rule.get("alert") or rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}


def queries() -> list[str]:
    """All that Prometheus is asked."""
    board = json.loads((ROOT / "monitoring" / "grafana" / "dashboards" / "onecard.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return [*rules("rules.yml").values(), *rules("alerts.yml").values(), *shown]


PREFIXES = ("onecard_cache", "onecard_upstream", "onecard_gpu_memory")
"""Beginnings that are variables where their metrics are registered."""


def is_registered(metric: str) -> bool:
    """Some service registers the metric, under its name or with a prefix that is a variable."""
    name = _SUFFIXES.sub("", metric)
    return (
        name in CODE
        or BUILT.get(name, "\0") in CODE
        or any(name.startswith(f"{one}_") and name.removeprefix(one) in CODE for one in PREFIXES)
        or f'counter("{name.removeprefix("onecard_upstream_")}"' in CODE
    )


def test_every_metric_that_is_asked_for_exists() -> None:
    """A query for a name that nobody registers is an alert that never fires."""
    asked = {name for query in queries() for name in re.findall(r"\bonecard_\w+", query)}
    assert len(asked) > 30
    assert sorted(name for name in asked if not is_registered(name)) == []


def test_errors_are_counted_among_clients_requests_alone() -> None:
    """Fifty failures an hour are all of them, not a twentieth of what health checks and scrapes make."""
    ratio = rules("rules.yml")["onecard:errors:ratio"]
    assert set(re.findall(r"\bonecard_\w+", ratio)) == {"onecard_client_requests_total"}
    assert 'outcome="failed"' in ratio
    assert "onecard:errors:ratio" in rules("alerts.yml")["ManyErrors"]


def test_a_queue_is_seen_with_either_engine() -> None:
    """vLLM and the Transformers engine have metrics of their own names."""
    assert {"num_requests_waiting", "onecard_llm_requests_waiting"} <= set(
        re.findall(r"\w+", rules("alerts.yml")["LlmQueue"])
    )


def test_who_refuses_because_of_too_much_is_overloaded() -> None:
    """The encoders, vLLM, and the gateway, whose queues and buffers refuse before any service is asked."""
    asked = set(re.findall(r"\bonecard_\w+", rules("alerts.yml")["Overloaded"]))
    gateway = {"onecard_upstream_queue_full_total", "onecard_buffers_refused_total"}
    assert asked == {"onecard_queue_refused_total", "onecard_http_requests_total", *gateway}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus' own tool is not here")
@pytest.mark.parametrize(("interval", "fires_after_minutes"), [(60, 32), (7200, 270)])
def test_a_round_that_is_not_due_is_not_missed(tmp_path: Path, interval: int, fires_after_minutes: int) -> None:
    """Whatever PRECOMPUTE_SECONDS is, and after a first start, too."""
    series = {
        "onecard_precompute_last_round_timestamp_seconds": "0x400",
        "onecard_precompute_interval_seconds": f"{interval}x400",
    }
    alerts = [
        {
            "eval_time": f"{minutes}m",
            "alertname": "NothingPrecomputed",
            "exp_alerts": [{"exp_labels": {"severity": "warning"}}] if minutes > fires_after_minutes else [],
        }
        for minutes in (fires_after_minutes - 1, fires_after_minutes + 1)
    ]
    # Texts of alerts are compared, too: of the file, the rule alone counts here.
    rule = {"alert": "NothingPrecomputed", "expr": rules("alerts.yml")["NothingPrecomputed"]}
    groups = [{"name": "one", "rules": [{**rule, "labels": {"severity": "warning"}}]}]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    test = {"interval": "1m", "input_series": [{"series": name, "values": v} for name, v in series.items()]}
    tests = {"rule_files": ["rules.yml"], "tests": [{**test, "alert_rule_test": alerts}]}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "tests.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_worker_says_when_its_latest_round_began() -> None:
    """And how far apart rounds are; before the first one, when it has started."""
    registry, before = CollectorRegistry(), time.time()
    metrics = WorkerMetrics(registry, 3600)

    def value(name: str) -> float:
        found = registry.get_sample_value(f"onecard_precompute_{name}")
        assert found is not None
        return found

    assert value("interval_seconds") == 3600
    started = value("last_round_timestamp_seconds")
    assert before <= started <= time.time()
    metrics.record_round()
    assert value("rounds_total") == 1
    assert value("last_round_timestamp_seconds") > started


def test_each_alert_is_explained() -> None:
    """docs/operations.md says what has happened and what to do."""
    pages = (ROOT / "docs" / "operations.md").read_text()
    assert [name for name in rules("alerts.yml") if f"| `{name}` |" not in pages] == []
