"""Named keys through real gateways: limits that two of them share, models, revocation, browsers."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from gateway.__main__ import main
from gateway.keys.key_file import read_keys
from gateway.routes import ROUTES
from onecard.web import server as server_module
from tests.gateway.support import PATH, ask, canned_gateway, error_of, key, secret_of, write_keys
from tests.shared.cache.support import RECOVERY_SECONDS, RedisProcess, running_redis
from tests.support import KEY, Server, eventually, serving, start

PATIENCE_SECONDS = 2.0
"""Far more than a sick Redis may cost, far less than a time-out; the machine may be busy."""


@pytest.fixture(scope="module")
def canned() -> Iterator[Server]:
    """The service behind all gateways."""
    with serving("tests.scripted_upstream", port_variable="CANNED_PORT", env={}) as server:
        yield server


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """The Redis of all gateways."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of keys; each test adds the ones that it needs."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    names = {name: {"requests_per_minute": 20} for name in ("shared", "killed", "frozen")}
    scopes = {
        "aliased": {"models": ["canned/meant"]},
        "direct": {"models": ["other", "canned/stand-in"]},
        "elsewhere": {"models": ["other"]},
    }
    plain: dict[str, dict[str, object]] = {"free": {}, "leaver": {}, "tokens": {"tokens_per_minute": 100}}
    plain |= {"together": {"tokens_per_minute": 1000}, "late": {"tokens_per_minute": 100}}
    write_keys(path, [key(name, **fields) for name, fields in {**names, **scopes, **plain}.items()])
    return path


@pytest.fixture(scope="module")
def doors(canned: Server, redis: RedisProcess, keys_file: Path) -> Iterator[tuple[Server, Server]]:
    """Two gateways on one Redis, with the same keys; a page of one origin may call them."""
    env = {
        "API_KEYS_FILE": str(keys_file),
        "API_KEY": KEY,
        "REDIS_PORT": str(redis.port),
        "REDIS_ANSWER_MS": "500",  # A busy test machine is no sick Redis: what is shared is counted exactly.
        "CORS_ORIGINS": "https://app.example",
    }
    with canned_gateway(canned, env) as one, canned_gateway(canned, env) as two:
        for server in (one, two):
            wait_for_redis(server, 1)
        yield one, two


def wait_for_redis(server: Server, up: int) -> None:
    """Until this gateway knows that Redis is there, or is not."""
    metrics, headers = f"{server.url}/metrics", {"authorization": f"Bearer {KEY}"}
    line = f'onecard_limits_redis_up{{operation="limits"}} {up}.0'
    wait_until(lambda: line in httpx.get(metrics, headers=headers).text)


def crowd(doors: tuple[Server, Server], caller: str, requests: int) -> Counter[int]:
    """So many requests at once, in turns through each gateway: how many got which status."""

    def one(number: int) -> int:
        return ask(doors[number % 2], caller).status_code

    with ThreadPoolExecutor(16) as pool:
        return Counter(pool.map(one, range(requests)))


def test_two_gateways_hold_one_limit_under_load(doors: tuple[Server, Server]) -> None:
    """20 requests a minute are 20, whichever gateway they come through; the refusal says when to come again."""
    outcomes = crowd(doors, "shared", 100)
    assert outcomes == {200: 20, 429: 80}
    answer = ask(doors[0], "shared")
    assert error_of(answer, 429)["code"] == "rate_limit_exceeded"
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    assert answer.headers["x-ratelimit-limit-requests"] == "20"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.headers["x-ratelimit-reset-requests"].endswith("s")


USED = """
local used, sum = cmsgpack.unpack(redis.call('GET', KEYS[1]))[2], 0
for i = 2, #used, 2 do sum = sum + used[i] end
return sum
"""


def test_tokens_are_reserved_and_then_counted_streams_too(doors: tuple[Server, Server], redis: RedisProcess) -> None:
    """What the answer says that it cost is in the place of what it might have cost, for the next one."""
    one, two = doors

    def left(answer: httpx.Response) -> int:
        """After this request, with what it cost in place of what it might have."""
        return int(answer.headers["x-ratelimit-remaining-tokens"]) + -(-len(answer.request.content) // 4)

    def wait_until_used(tokens: int) -> None:
        """Both gateways know then what has been answered."""
        for _ in range(500):
            used = int(redis.command("EVAL", USED, "1", "onecard:limits:tokens").strip(b":\r\n"))
            if used == pytest.approx(tokens, abs=1):
                return
            time.sleep(0.02)
        raise AssertionError("the tokens of an answer never reached Redis")

    first = ask(one, "tokens", max_tokens=0, usage={"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40})
    assert left(first) == 100
    wait_until_used(40)
    body = {"case": "stream", "count": 20, "seconds": 0, "max_tokens": 0}
    headers = {"authorization": f"Bearer {secret_of('tokens')}"}
    streamed = httpx.post(two.url + PATH, json=body, headers=headers)
    assert left(streamed) == 60
    asked = -(-len(streamed.request.content) // 4)
    wait_until_used(40 + 20 + asked)
    last = ask(one, "tokens", max_tokens=0, usage={"total_tokens": 1000})
    assert left(last) == pytest.approx(60 - 20 - asked, abs=1)
    wait_until_used(40 + 20 + asked + 1000)
    answer = ask(two, "tokens", max_tokens=0)
    assert "tokens" in str(error_of(answer, 429)["message"])
    assert int(answer.headers["retry-after"]) > 50


def test_requests_that_are_sent_together_do_not_overdraw_the_tokens(
    doors: tuple[Server, Server], canned: Server
) -> None:
    """Forty of 50 tokens and more, none answered before all are decided: those come in whose tokens there are, through
    either gateway.
    """
    body = {"case": "say", "wait": True, "answer": {}, "max_tokens": 50}
    headers = {"authorization": f"Bearer {secret_of('together')}"}

    def one(number: int) -> httpx.Response:
        return httpx.post(doors[number % 2].url + PATH, json=body, headers=headers, timeout=60)

    def admitted() -> int:
        return int(httpx.get(f"{canned.url}/seen").json()["requests"])

    before = admitted()
    with ThreadPoolExecutor(40) as pool:
        asking = [pool.submit(one, number) for number in range(40)]
        try:
            eventually(lambda: admitted() - before + sum(each.done() for each in asking) == 40, within=30)
        finally:
            httpx.post(f"{canned.url}/open")
        answers = [each.result() for each in asking]
    cost = 50 + -(-len(answers[0].request.content) // 4)
    assert Counter(answer.status_code for answer in answers) == {200: 1000 // cost, 429: 40 - 1000 // cost}


def test_work_that_nobody_waits_for_is_not_free(doors: tuple[Server, Server]) -> None:
    """A client may give a model a moment, again and again: what was reserved counts after the 504, too."""
    headers = {"authorization": f"Bearer {secret_of('late')}", "x-onecard-timeout-ms": "2000"}
    body = {"case": "slow", "seconds": 20, "max_tokens": 60}
    error_of(httpx.post(doors[0].url + PATH, json=body, headers=headers, timeout=20), 504)
    for door in doors:
        assert error_of(ask(door, "late", max_tokens=60), 429)["code"] == "rate_limit_exceeded"


def test_a_key_may_use_its_models_by_any_of_their_names(doors: tuple[Server, Server]) -> None:
    """Also where the body names none; other models are a 403."""
    for caller in ("aliased", "direct"):
        for model in ({}, {"model": "canned/stand-in"}, {"model": "canned/meant"}, {"model": 5}):
            assert ask(doors[0], caller, **model).status_code == 200
        error = error_of(ask(doors[0], caller, model="other"), 403)
        assert (error["code"], error["type"], error["param"]) == ("model_not_allowed", "permission_error", "model")
    for model in ({}, {"model": "canned/meant"}, {"model": "other"}):
        error_of(ask(doors[0], "elsewhere", **model), 403)
    headers = {"authorization": f"Bearer {secret_of('aliased')}"}
    error_of(httpx.post(doors[0].url + "/v1/embeddings", json={"input": "a"}, headers=headers), 503)


def test_a_revoked_key_counts_no_longer_without_a_restart(doors: tuple[Server, Server], keys_file: Path) -> None:
    """In every gateway; a file that is broken meanwhile shuts nobody out, and the log says so."""
    keys = read_keys(keys_file)
    assert ask(doors[0], "leaver").status_code == 200
    keys_file.write_text("[")
    wait_until(lambda: ask(doors[0], "leaver").status_code == 200 and "API_KEYS_FILE cannot be used" in doors[0].log())
    write_keys(keys_file, [one.model_copy(update={"revoked": one.name == "leaver"}) for one in keys])
    for server in doors:
        wait_until(lambda server=server: ask(server, "leaver").status_code == 401)  # type: ignore[misc]
    assert "revoked" in str(error_of(ask(doors[0], "leaver"), 401)["message"])
    assert ask(doors[0], "free").status_code == 200


def test_the_one_key_goes_on_working_beside_the_file(doors: tuple[Server, Server]) -> None:
    """As the caller `default`, without limits; logs know callers by name, and never by key."""
    answer = httpx.post(doors[0].url + PATH, json={"case": "echo"}, headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert ask(doors[0], "free").status_code == 200
    eventually(lambda: {"default", "free"} <= {json.loads(line).get("caller") for line in doors[0].log().splitlines()})
    assert KEY not in doors[0].log()
    assert secret_of("free") not in doors[0].log()


def test_a_page_of_a_listed_origin_may_call_and_read_refusals(doors: tuple[Server, Server]) -> None:
    """The browser asks first, without a key; other origins get no leave."""
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
    for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
        preflight = httpx.options(doors[0].url + PATH, headers={"origin": origin, **asked})
        refused = httpx.post(doors[0].url + PATH, headers={"origin": origin})
        assert (preflight.status_code == 200) == allowed
        assert refused.status_code == 401
        for answer in (preflight, refused):
            assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
    exposed = httpx.get(doors[0].url + "/health/live", headers={"origin": "https://app.example"}).headers
    assert {"retry-after", "x-request-id", "x-ratelimit-remaining-tokens"} <= {
        name.strip() for name in exposed["access-control-expose-headers"].split(",")
    }


def test_a_page_may_use_every_method_and_reads_why_it_may_not(doors: tuple[Server, Server]) -> None:
    """A refused preflight has the one error shape."""
    page = {"origin": "https://app.example"}
    for method, path in sorted({(one.method, one.path) for one in ROUTES} | {("HEAD", "/health")}):
        answer = httpx.options(doors[0].url + path, headers={**page, "access-control-request-method": method})
        assert answer.status_code == 200
        assert method in answer.headers["access-control-allow-methods"].split(", ")
    for origin, method in (("https://evil.example", "POST"), ("https://app.example", "PATCH")):
        headers = {"origin": origin, "access-control-request-method": method}
        answer = httpx.options(doors[0].url + PATH, headers=headers)
        assert "CORS_ORIGINS" in str(error_of(answer, 400)["message"])
        assert answer.headers["content-length"] == str(len(answer.content))
        assert "origin" in answer.headers["vary"].lower()


def test_without_a_list_of_origins_no_page_may_call(canned: Server) -> None:
    """The default; and without keys the gateway asks nobody for one."""
    with canned_gateway(canned, {}) as server:
        answer = httpx.post(server.url + PATH, json={"case": "echo"}, headers={"origin": "https://app.example"})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("caller", ["frozen", "killed"])
def test_a_redis_that_goes_under_load_refuses_and_delays_nobody(
    doors: tuple[Server, Server], redis: RedisProcess, caller: str
) -> None:
    """Every request is answered at once; each gateway holds the limit by itself, and both share it again later."""
    slowest: list[float] = []
    statuses: Counter[int] = Counter()

    def keep_asking(server: Server) -> None:
        for _ in range(40):
            started = time.perf_counter()
            statuses[ask(server, caller).status_code] += 1
            slowest.append(time.perf_counter() - started)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking, doors[number % 2]) for number in range(4)]
        wait_until(lambda: statuses.total() >= 8)
        if caller == "frozen":
            redis.freeze()
        else:
            redis.kill()
        for one in asking:
            one.result()
    assert set(statuses) == {200, 429}
    assert 20 <= statuses[200] <= 42, "at most once in each gateway"
    assert max(slowest) < PATIENCE_SECONDS
    for server in doors:
        wait_for_redis(server, 0)
    if caller == "frozen":
        redis.thaw()
    else:
        redis.start()
    for server in doors:
        wait_for_redis(server, 1)
    assert ask(doors[0], "free").status_code == 200


@pytest.mark.parametrize("content", [None, "{", '[{"name": "a", "sha256": "short"}]'], ids=["missing", "cut", "wrong"])
def test_a_file_that_cannot_be_used_stops_the_start_with_one_line(tmp_path: Path, content: str | None) -> None:
    """It names the variable, and what is wrong."""
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
    server = start("gateway", port_variable="GATEWAY_PORT", env={"API_KEYS_FILE": str(path)})
    assert server.process.wait(30) == 1
    lines = server.log().splitlines()
    server.log_path.unlink()
    assert len(lines) == 1
    assert "API_KEYS_FILE" in lines[0]


@pytest.mark.parametrize("variable", [None, "API_KEY", "API_KEYS_FILE", "ALLOW_NO_KEY"])
def test_a_public_address_needs_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    """The one key, a file of them, or the operator's word."""
    path = tmp_path / "keys.json"
    write_keys(path, [])
    values = {"API_KEY": KEY, "API_KEYS_FILE": str(path), "ALLOW_NO_KEY": "true"}
    for name in values:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOST", "0.0.0.0")
    started: list[dict[str, object]] = []
    monkeypatch.setattr(server_module, "run", lambda app, **options: started.append(options))
    if variable is None:
        with pytest.raises(SystemExit, match="API_KEY"):
            main()
    else:
        monkeypatch.setenv(variable, values[variable])
        main()
    assert len(started) == (variable is not None)


def wait_until(holds: Callable[[], bool]) -> None:
    """Fails after `RECOVERY_SECONDS`."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.05)
