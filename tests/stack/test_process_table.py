"""The process table: settings in, processes out."""

import os
import re
from pathlib import Path

import pytest

from onecard_stack.processes import redis_password
from onecard_stack.processes.process_table import CALLER_STAGE, HostResources, Process, processes
from onecard_stack.settings import StackSettings
from onecard_stack.supervision.readiness import is_ready

MACHINE = HostResources(cores=4, redis_server=Path("/usr/bin/redis-server"))


def table(machine: HostResources = MACHINE, **settings: object) -> dict[str, Process]:
    """The table by name, from settings that no variable of this machine reaches."""
    return {part.name: part for part in processes(StackSettings(**settings), machine)}  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in StackSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_start_order_is_redis_encoders_llm_reviews_gateway() -> None:
    """What others need starts first; the LLM, which measures the card, after the encoders; the gateway last."""
    parts = table()
    assert list(parts) == ["redis", "sentiment", "embedding", "llm", "review", "worker", "schedule", "gateway"]
    orders = [part.start_order for part in parts.values()]
    assert orders == sorted(orders)
    assert parts["sentiment"].start_order < parts["llm"].start_order < parts["gateway"].start_order


def test_stopping_begins_with_those_that_ask_others() -> None:
    """While the gateway finishes what it has accepted, all that it may ask for it works."""
    parts = table()
    callers = {"gateway", "worker", "schedule"}
    assert {name for name, part in parts.items() if part.stop_stage == CALLER_STAGE} == callers
    assert {part.stop_stage for name, part in parts.items() if name not in callers} == {0}


def test_llm_waits_for_both_encoders_at_their_ports() -> None:
    """The launcher is told where its neighbours are, also on other ports."""
    llm = table(sentiment_port=9002, embedding_port=9003)["llm"]
    assert llm.environment["LLM_WAIT_FOR"] == "http://127.0.0.1:9002,http://127.0.0.1:9003"
    assert llm.waits_for == ("sentiment", "embedding")


def test_addresses_follow_ports_unless_they_are_set() -> None:
    """A port that is moved moves the gateway's address of it; an address that is set wins."""
    follows = table(vllm_port=9001)["gateway"].environment
    assert follows["LLM_URL"] == "http://127.0.0.1:9001"
    set_by_hand = table(vllm_port=9001, llm_url="http://a.example:8001,http://b.example:8001")["gateway"].environment
    assert set_by_hand["LLM_URL"] == "http://a.example:8001,http://b.example:8001"


def test_the_file_of_keys_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part may have another working directory; without a file the gateway is told of none."""
    monkeypatch.chdir(tmp_path)
    assert table(api_keys_file="keys.json")["gateway"].environment["API_KEYS_FILE"] == str(tmp_path / "keys.json")
    assert "API_KEYS_FILE" not in table()["gateway"].environment


@pytest.mark.parametrize(("host", "address"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("::1", "[::1]")])
def test_parts_reach_each_other_wherever_they_listen(host: str, address: str) -> None:
    """An address to listen on becomes one that can be called."""
    parts = table(host=host)
    assert parts["gateway"].environment["LLM_URL"] == parts["llm"].url == f"http://{address}:8001"


def test_what_no_key_guards_stays_on_this_machine() -> None:
    """HOST opens the gateway and the LLM service, which ask for a key; never Redis, the encoders and the reviews."""
    parts = table(host="0.0.0.0")
    assert {name: part.host for name, part in parts.items() if part.host != "127.0.0.1"} == {
        "llm": "0.0.0.0",
        "gateway": "0.0.0.0",
    }
    assert parts["sentiment"].environment["HOST"] == parts["embedding"].environment["HOST"] == "127.0.0.1"
    assert parts["review"].environment["HOST"] == parts["worker"].environment["HOST"] == "127.0.0.1"


def test_no_redis_of_our_own_where_one_is_named() -> None:
    """A Redis elsewhere is used, not doubled."""
    assert "redis" not in table(redis_host="cache.example")
    assert "redis" not in table(redis_url="redis://user:secret@cache.example/0")
    assert "redis" not in table(redis_sentinels="a.example,b.example")
    assert "redis" not in table(redis_cluster_nodes="a.example:7000", queue_redis_url="redis://b.example")
    assert "redis" in table(redis_sentinels="", queue_redis_url="redis://b.example")
    assert "redis" not in table(HostResources(cores=1, redis_server=None))


def test_the_password_of_our_redis_is_in_a_file_and_nowhere_else(tmp_path: Path) -> None:
    """Redis reads it there; it is made once, is another one in each place, and what is no password is replaced."""
    redis = table(onecard_home=tmp_path, redis_password="secret")["redis"]
    assert redis.password_file is not None
    assert redis.argv[1] == str(redis.password_file) == str(tmp_path / "run" / redis_password.CONFIG_FILE)
    redis.password_file.parent.mkdir()
    made = redis_password.render(redis.password_file)
    assert re.fullmatch(r"requirepass [0-9a-f]{64}\n", made)
    assert redis_password.render(redis.password_file) != made
    redis.password_file.write_text(made)
    assert redis_password.render(redis.password_file) == made
    assert redis_password.password_variables({redis.password_file.name: made}) == {"REDIS_PASSWORD": made.split()[1]}
    for broken in ("", "requirepass \n", "requirepass short\n", made * 2):
        redis.password_file.write_text(broken)
        assert len(redis_password.render(redis.password_file)) == len(made)


def test_a_redis_elsewhere_has_the_password_that_settings_say() -> None:
    """Then none is made, and the parts inherit theirs."""
    elsewhere = table(redis_password="secret", redis_host="cache.example")
    assert not any("REDIS_PASSWORD" in part.environment or part.password_file for part in elsewhere.values())
    assert redis_password.password_variables({}) == {}


def test_redis_is_bounded_and_writes_nothing() -> None:
    """It is a cache: loopback only, a memory limit, no files. The queue's keys, without a time to live, stay in it."""
    line = " ".join(table(redis_memory_mb=64, redis_port=7000)["redis"].argv)
    for option in ("--bind 127.0.0.1", "--port 7000", "--maxmemory 64mb", "--maxmemory-policy volatile-lfu"):
        assert option in line
    assert "--appendonly no" in line


def test_what_listens_nowhere_shows_by_a_heartbeat_that_it_works(tmp_path: Path) -> None:
    """The worker and the schedule each have a file; it is fresh while they work."""
    parts = table(onecard_home=tmp_path)
    silent = [part for part in parts.values() if not part.port]
    assert [part.name for part in silent] == ["worker", "schedule"]
    for part in silent:
        assert part.heartbeat is not None
        assert part.environment["PRECOMPUTE_HEARTBEAT_FILE"] == str(part.heartbeat)
        assert not is_ready(part)
        part.heartbeat.parent.mkdir(exist_ok=True)
        part.heartbeat.touch()
        assert is_ready(part)
        os.utime(part.heartbeat, (0, 0))
        assert not is_ready(part)


def test_no_secret_in_the_table() -> None:
    """Keys reach the parts through the inherited environment only: what the table says is written to a file."""
    secrets = {"api_key": "a-very-secret-key", "hf_token": "hf_secret", "redis_url": "redis://:secret-word@x/0"}
    written = repr(list(table(**secrets).values()))
    assert not [value for value in secrets.values() if value in written]


def test_nothing_is_downloaded_at_run_time() -> None:
    """Every part that has a model is told to stay offline."""
    with_model = [part for part in table().values() if part.model]
    assert len(with_model) == 3
    assert all(part.environment["HF_HUB_OFFLINE"] == "1" for part in with_model)


def test_a_part_may_finish_what_it_accepted() -> None:
    """It is killed only after its own time for draining."""
    parts = table(drain_seconds=40)
    assert all(parts[name].stop_seconds > 40 for name in ("gateway", "review", "llm", "sentiment", "embedding"))
