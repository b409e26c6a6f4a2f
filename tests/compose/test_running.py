"""The running stack: its order, what each container may do, and who can reach it."""

import json
import time

import httpx
import pytest

from tests.compose.deployment import LONG_RUNNING, Deployment
from tests.compose.engine import docker

_REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
except OSError:
    sys.exit(1)
"""
PORTS = {"redis": 6379, "sentiment": 8002, "embedding": 8003, "review": 8004, "prometheus": 9090}

ROUND_SECONDS = 180
"""Longer than PRECOMPUTE_SECONDS."""


def healthy(service: str) -> str:
    """The event."""
    return f"health_status: healthy {service}"


def test_each_begins_when_what_it_needs_is_healthy(deployment: Deployment) -> None:
    """Models and Redis, the encoders, the LLM, the review service, the gateway and the worker. Prometheus waits for
    none: it tells of a first start that fails."""
    order = [
        ("die models", "start sentiment"),
        (healthy("redis"), "start sentiment"),
        (healthy("sentiment"), "start llm"),
        (healthy("embedding"), "start llm"),
        (healthy("llm"), "start review"),
        (healthy("review"), "start worker"),
        (healthy("review"), "start schedule"),
        (healthy("review"), "start gateway"),
        ("start prometheus", healthy("gateway")),
    ]
    told = deployment.events
    assert [(first, then) for first, then in order if told.index(first) > told.index(then)] == []


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_a_container_can_do_little(deployment: Deployment, service: str) -> None:
    """No root, no capability, nothing to write to but what it needs; bounded logs; a restart when it ends."""
    found = deployment.inspect(service)
    host = found["HostConfig"]
    users = deployment_users(deployment, service)
    assert users
    assert not users & {"root", "0"}
    assert host["CapDrop"] == ["ALL"]
    assert host["ReadonlyRootfs"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not host["Privileged"]
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "4"}
    assert host["RestartPolicy"]["Name"] == "unless-stopped"


def deployment_users(deployment: Deployment, service: str) -> set[str]:
    """Who owns the container's processes."""
    return set(docker("top", deployment.container(service), "-eo", "user:32,pid").split()[2::2])


@pytest.mark.parametrize("service", [*LONG_RUNNING, "models"])
def test_no_key_shows_in_command_lines_and_logs(deployment: Deployment, service: str) -> None:
    """Keys go by the environment."""
    container = deployment.container(service)
    shown = docker("logs", container) + json.dumps(deployment.inspect(service)["Config"]["Cmd"])
    if service != "models":  # It has ended.
        shown += docker("top", container, "-ww", "-eo", "pid,args")
    assert not [secret for secret in deployment.secrets if secret in shown]


def test_only_gateway_and_llm_are_published(deployment: Deployment) -> None:
    """On this machine's loopback, as HOST says."""
    published = {
        (service, binding["HostIp"])
        for service in LONG_RUNNING
        for bindings in (deployment.inspect(service)["NetworkSettings"]["Ports"] or {}).values()
        for binding in bindings or ()
    }
    assert published == {("gateway", "127.0.0.1"), ("llm", "127.0.0.1")}


@pytest.mark.parametrize("service", PORTS)
def test_what_no_key_guards_is_reached_from_inside_only(deployment: Deployment, service: str) -> None:
    """A container of another network cannot connect; the gateway can."""
    networks = deployment.inspect(service)["NetworkSettings"]["Networks"]
    [address] = [network["IPAddress"] for network in networks.values()]
    target = ("-c", _REACH, address, str(PORTS[service]))
    deployment.execute("gateway", "python3", *target)
    with pytest.raises(AssertionError, match="exit code 1"):
        docker("run", "--rm", deployment.inspect("gateway")["Image"], "python3", *target)


def test_redis_wants_its_password_and_forgets_what_is_least_used(deployment: Deployment) -> None:
    """Its memory is bounded; of the queue, whose keys have no time to live, nothing goes."""
    without = ("env", "--unset=REDISCLI_AUTH", "redis-cli", "ping")
    assert "NOAUTH" in deployment.execute("redis", *without)
    told = deployment.execute("redis", "redis-cli", "config", "get", "maxmemory*").split()
    assert told[told.index("maxmemory") + 1] == str(256 * 1024**2)
    assert told[told.index("maxmemory-policy") + 1] == "volatile-lfu"


def test_the_cache_is_in_use(deployment: Deployment) -> None:
    """Every part is well, Redis included, but for the stand-ins; and an answer given twice comes from the cache."""
    readiness = httpx.get(f"{deployment.url()}/health/ready").json()
    degraded = {name for name, part in readiness["parts"].items() if part["status"] != "ok"}
    assert degraded == {"llm", "sentiment", "embedding"}, readiness  # They are on stand-ins.
    headers = {"authorization": f"Bearer {deployment.key}"}
    ask = {"input": "국물이 진하고 직원이 친절해요"}
    answers = [httpx.post(f"{deployment.url()}/v1/sentiment", json=ask, headers=headers, timeout=60) for _ in range(2)]
    assert answers[1].headers["x-cache"] == "hit"
    assert int(deployment.execute("redis", "redis-cli", "dbsize").split()[-1]) > 0


def test_who_needs_nothing_of_the_world_cannot_call_out(deployment: Deployment) -> None:
    """The network of encoders and reviews has no way to it."""
    for service in ("sentiment", "embedding", "review", "worker", "schedule"):
        assert list(deployment.inspect(service)["NetworkSettings"]["Networks"]) == ["onecard-test_inside"]


def test_a_round_of_the_worker_comes_to_its_end(deployment: Deployment) -> None:
    """Behind Redis' password: the schedule has asked for it, and the worker has done it."""
    deadline = time.monotonic() + ROUND_SECONDS
    headers = {"authorization": f"Bearer {deployment.key}"}
    while (told := httpx.get(f"{deployment.url()}/v1/precompute/status", headers=headers).json())["state"] != "idle":
        assert time.monotonic() < deadline, told
        time.sleep(1)
