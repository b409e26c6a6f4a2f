"""compose.yaml and the process table start the same parts: ports, variables, order, what is open."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from embedding_service.settings import EmbeddingSettings
from gateway.settings import GatewaySettings
from llm_service.settings import LlmSettings
from onecard_stack.processes.process_table import HostResources, Process, processes
from onecard_stack.settings import StackSettings
from review_service.settings import ReviewSettings, WorkerSettings
from sentiment_service.settings import SentimentSettings

ROOT = Path(__file__).parents[2]
NOT_PARTS = {"models", "prometheus", "grafana"}
"""'onecard up' does the first's work; the others only watch."""
SETTINGS = {
    "gateway": GatewaySettings,
    "llm": LlmSettings,
    "sentiment": SentimentSettings,
    "embedding": EmbeddingSettings,
    "review": ReviewSettings,
    "worker": WorkerSettings,
    "schedule": WorkerSettings,
}
PORTS = {"GATEWAY_PORT", "VLLM_PORT", "SENTIMENT_PORT", "EMBEDDING_PORT", "REVIEW_PORT"}
FIXED_INSIDE = {*PORTS, "ALLOW_NO_KEY", "API_KEY"}
"""A container listens on the default ports; encoders have no key, and only they may do without one."""
CALLERS = ("gateway", "review", "worker", "schedule")
ADDRESSES = {
    "LLM_WAIT_FOR": ("llm",),
    "LLM_URL": CALLERS,
    "SENTIMENT_URL": CALLERS,
    "EMBEDDING_URL": CALLERS,
    "REVIEW_URL": ("gateway", "worker", "schedule"),
}
"""Variables with other parts' addresses, and who reads them."""
PLACES = {"HOST", "MODEL_CACHE_PATH", "REVIEW_STORE", "PRECOMPUTE_HEARTBEAT_FILE"}
DIFFERS = {*PLACES, "LLM_MODEL", "REDIS_PASSWORD", *ADDRESSES}
"""A container has its own address, volumes, files and Redis; which LLM is served depends on whether there is a GPU."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The services of compose.yaml."""
    services: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return services


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Process]:
    """The table of a machine where nothing is set but that it is open, as in a pod."""
    for name in StackSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    settings = StackSettings(host="0.0.0.0", api_key="a-key-of-a-test-0123")  # type: ignore[arg-type]
    return {part.name: part for part in processes(settings, HostResources(1, Path("/usr/bin/redis-server")))}


def value(raw: object) -> str:
    """What compose gives where nothing is set."""
    return re.sub(r"\$\{\w+:?-?([^}]*)\}", r"\1", str(raw))


def test_the_same_parts(compose: dict[str, Any], table: dict[str, Process]) -> None:
    """Each part of the table is a service, and each service a part."""
    assert set(table) == set(compose) - NOT_PARTS


def test_the_same_doors(compose: dict[str, Any], table: dict[str, Process]) -> None:
    """What HOST opens is what is published, on the same ports; all else stays inside."""
    published = {name: value(one["ports"][0]).split(":")[1:] for name, one in compose.items() if "ports" in one}
    opened = {name: [str(part.port)] * 2 for name, part in table.items() if part.host == "0.0.0.0"}
    assert {name: ports for name, ports in published.items() if name in table} == opened
    assert set(published) - set(table) == {"grafana"}


def test_the_same_order(compose: dict[str, Any], table: dict[str, Process]) -> None:
    """A part waits for all that the table starts before it, and for whom it waits by itself."""

    def before(name: str) -> set[str]:
        needed = set(compose[name].get("depends_on", {}))
        return needed.union(*(before(one) for one in needed)) - NOT_PARTS

    for name, part in table.items():
        assert before(name) == {other.name for other in table.values() if other.start_order < part.start_order}
        assert set(part.waits_for) <= set(compose[name].get("depends_on", {}))


def test_the_same_addresses(compose: dict[str, Any], table: dict[str, Process]) -> None:
    """Who calls whom: a container's name here is a port of this machine there."""
    for variable, name in ((variable, name) for variable, names in ADDRESSES.items() for name in names):
        inside = value(compose[name]["environment"][variable])
        for part in table.values():
            inside = inside.replace(f"http://{part.name}:", "http://127.0.0.1:")
        assert inside == table[name].environment[variable]


def test_what_has_no_key_answers_to_its_name(compose: dict[str, Any]) -> None:
    """The gateway, the worker and Prometheus ask for it by the container's; `.env` adds others."""
    targets = re.findall(r"targets: \[\"(\w+):", (ROOT / "monitoring/prometheus/prometheus.yml").read_text())
    asked = {name for name in targets if name in SETTINGS and name not in ("gateway", "llm", "worker")}
    assert asked == {"sentiment", "embedding", "review"}
    for name in asked:
        allowed = compose[name]["environment"]["ALLOWED_HOSTS"]
        assert name in SETTINGS[name].model_validate({"allowed_hosts": value(allowed)}).allowed_hosts
        assert "${ALLOWED_HOSTS:-}" in allowed


def test_the_same_commands(compose: dict[str, Any], table: dict[str, Process]) -> None:
    """What a container runs, by itself or from its image, is what the table runs."""
    for name in SETTINGS:
        command = compose[name].get("command") or image_command(compose[name]["build"]["dockerfile"])
        assert command[1:] == list(table[name].argv[1:])


def image_command(dockerfile: str) -> list[str]:
    """What a container of the image runs where nothing else is said."""
    found = re.search(r"^CMD (\[.*\])$", (ROOT / dockerfile).read_text(), re.MULTILINE)
    assert found
    command: list[str] = yaml.safe_load(found[1])
    return command


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_the_same_variables(name: str, compose: dict[str, Any], table: dict[str, Process]) -> None:
    """Whatever a part reads, `.env` reaches it in a container, too; what the table fixes is fixed to the same."""
    given = compose[name]["environment"]
    reads = {field.upper() for field in SETTINGS[name].model_fields}
    assert reads - FIXED_INSIDE <= set(given)
    fixed = {variable: value(given[variable]) for variable in table[name].environment if given.get(variable)}
    for variable in set(fixed) - DIFFERS:
        assert fixed[variable] == table[name].environment[variable]


def test_what_comes_from_env_is_read(compose: dict[str, Any]) -> None:
    """A variable that is handed on to a service is one of `.env.example`."""
    handed_on = {name for one in compose.values() for name, text in one["environment"].items() if text is None}
    listed = set(re.findall(r"^#([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert handed_on <= listed


def test_a_container_has_as_long_to_end(compose: dict[str, Any], table: dict[str, Process]) -> None:
    """What the table allows for draining, a container gets at least."""
    for name, part in table.items():
        assert int(compose[name]["stop_grace_period"].rstrip("s")) >= part.stop_seconds


def test_the_same_bound_for_redis(compose: dict[str, Any], table: dict[str, Process]) -> None:
    """So much memory, the same keys go when it is full, and nothing is written."""
    script = compose["redis"]["command"][-1].replace("$${REDIS_MEMORY_MB:-256}", "256")
    argv = " ".join(table["redis"].argv)
    for option in ("maxmemory", "maxmemory-policy", "appendonly"):
        found = re.search(rf"--{option} (\S+)", argv)
        assert found
        assert f"\n{option} {found[1]}\n" in script
