"""The encoders' cache: what a repeated text costs, what it never gets wrong, and a Redis in bad weather."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from onecard.hardware import cpu_multiplies_bfloat16
from onecard.models.identity import MODEL_HEADER
from onecard.web import server_timing
from tests.shared.cache.support import FAULTS, RedisProcess, running_redis
from tests.support import Server, metric, serving

REVIEW = "국물이 진하고 고기도 넉넉해서 다시 가고 싶은 집입니다"
LOOKED_UP = 'onecard_cache_lookups_total{kind="embedding",outcome="miss",tier="redis"}'
QUEUED = 'onecard_queue_tokens{lane="interactive"}'
COMPUTED = "onecard_batch_tokens_total"
NAN_TOKEN = 900
"""A token that is in no other text."""
_numbers = count()


def new() -> str:
    """A text that no test has used."""
    return f"{REVIEW} {next(_numbers)}"


def wait_for(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until `holds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)


def embed(server: Server, texts: object, headers: dict[str, str] | None = None, **more: object) -> httpx.Response:
    body = {"input": texts, **more}
    return httpx.post(f"{server.url}/v1/embeddings", json=body, headers=headers, timeout=60)


def classify(server: Server, texts: list[str]) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/sentiment", json={"input": texts}, timeout=60)


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that holds the device back."""
    file = tmp_path_factory.mktemp("fault") / "fault"
    file.write_text("")
    return file


@pytest.fixture(scope="module")
def gated(hold: Path, caching_env: dict[str, str]) -> Iterator[Server]:
    """An embedding service that computes when the file lets it, and takes little into its queue."""
    env = {**caching_env, "FAULT_FILE": str(hold), "QUEUE_TOKENS": "100", "CANARY_SECONDS": "3600"}
    with serving("tests.faulty_encoder", port_variable="EMBEDDING_PORT", env=env) as server:
        yield server


@pytest.fixture
def held(gated: Server, hold: Path) -> Iterator[Callable[[], object]]:
    """The device is busy with somebody else's text until this is called."""
    hold.write_text("hold")
    with ThreadPoolExecutor(1) as other:
        asked(gated, other, new())
        try:
            yield lambda: hold.write_text("")
        finally:
            hold.write_text("")


def asked(server: Server, pool: ThreadPoolExecutor, text: object, **headers: str) -> "Future[httpx.Response]":
    """A request that has looked its new text up, and waits."""
    before = metric(server, LOOKED_UP)
    future = pool.submit(embed, server, text, {name.replace("_", "-"): value for name, value in headers.items()})
    wait_for(lambda: metric(server, LOOKED_UP) > before)
    return future


@pytest.mark.parametrize("form", [{}, {"encoding_format": "base64"}, {"dimensions": 16}])
def test_a_hit_equals_its_miss_byte_by_byte(gated: Server, form: dict[str, Any]) -> None:
    """With usage, for texts that repeat, in every form; and costs the device nothing."""
    one, other = new(), new()
    miss = embed(gated, [one, other, one], **form)
    computed = metric(gated, COMPUTED)
    hit = embed(gated, [one, other, one], **form)
    assert (miss.headers["x-cache"], hit.headers["x-cache"]) == ("miss", "hit")
    assert hit.content == miss.content
    assert metric(gated, COMPUTED) == computed
    assert "inference" not in server_timing.parse(hit.headers["server-timing"])


def test_only_what_is_missing_is_computed(gated: Server) -> None:
    """Once, however often it is in the request; server-timing has the counts of distinct texts."""
    one, other = new(), new()
    alone = embed(gated, one).json()
    before = metric(gated, COMPUTED)
    mixed = embed(gated, [other, one, other])
    tokens = [mixed.json()["usage"]["prompt_tokens"], alone["usage"]["prompt_tokens"]]
    assert mixed.headers["x-cache"] == "partial"
    assert server_timing.parse(mixed.headers["server-timing"])["cache"].description == "hit=1 miss=1 coalesced=0"
    assert metric(gated, COMPUTED) - before == (tokens[0] - tokens[1]) / 2
    assert mixed.json()["data"][1]["embedding"] == alone["data"][0]["embedding"]
    assert embed(gated, [other, one, other]).content == mixed.content


def test_token_ids_are_kept_apart_from_texts(gated: Server) -> None:
    """Ids have hits of their own."""
    ids = [[2, 10 + next(_numbers), 3], [2, 10 + next(_numbers), 3]]
    miss, hit = embed(gated, ids), embed(gated, ids)
    assert (miss.headers["x-cache"], hit.headers["x-cache"]) == ("miss", "hit")
    assert hit.content == miss.content
    assert hit.json()["usage"]["prompt_tokens"] == 6


def test_a_text_under_way_is_computed_once(gated: Server, held: Callable[[], object]) -> None:
    """All who ask for it get the same body; one of them has computed it."""
    text = new()
    coalesced = 'onecard_cache_coalesced_total{kind="embedding"}'
    before, computed = metric(gated, coalesced), metric(gated, COMPUTED)
    with ThreadPoolExecutor(5) as pool:
        waiting = [asked(gated, pool, text) for _ in range(5)]
        held()
        answers = [one.result() for one in waiting]
    assert sorted(one.headers["x-cache"] for one in answers) == ["coalesced"] * 4 + ["miss"]
    assert len({one.content for one in answers}) == 1
    assert metric(gated, coalesced) - before == 4
    tokens = answers[0].json()["usage"]["prompt_tokens"]
    assert metric(gated, COMPUTED) - computed <= 2 * tokens + 2  # This text, and the one that held the device.


@pytest.mark.parametrize("leaves", [True, False])
def test_the_one_who_began_leaves_and_the_follower_is_served(
    gated: Server, held: Callable[[], object], leaves: bool
) -> None:
    """Whether its client goes, or its time limit was short: the work goes on for who still waits."""
    text = new()
    status = 499 if leaves else 504
    gone = f'onecard_http_requests_total{{method="POST",route="/v1/embeddings",status="{status}"}}'
    before = metric(gated, gone)
    with ThreadPoolExecutor(2) as pool:
        if leaves:
            looked_up = metric(gated, LOOKED_UP)
            leader = pool.submit(
                httpx.post, f"{gated.url}/v1/embeddings", json={"input": text}, timeout=httpx.Timeout(60, read=2)
            )
            wait_for(lambda: metric(gated, LOOKED_UP) > looked_up)
        else:
            leader = asked(gated, pool, text, x_onecard_timeout_ms="2000")
        follower = asked(gated, pool, text)
        wait_for(lambda: metric(gated, gone) > before)
        assert not follower.done()
        held()
        answer = follower.result()
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "coalesced")
    with suppress(httpx.ReadTimeout):
        assert leader.result().status_code == 504


def test_a_text_without_numbers_fails_nobody_who_joined_its_neighbours(
    gated: Server, hold: Path, held: Callable[[], object]
) -> None:
    """Neither who waits for another text of its request, nor what comes after."""
    faulty, text = [NAN_TOKEN, 10 + next(_numbers)], [2, 10 + next(_numbers), 3]
    with ThreadPoolExecutor(2) as pool:
        fails = asked(gated, pool, [faulty, text])
        joins = asked(gated, pool, [text])
        hold.write_text(f"nan {NAN_TOKEN}")
        assert fails.result().status_code == 500
        assert (joins.result().status_code, joins.result().headers["x-cache"]) == (200, "coalesced")
    held()
    assert embed(gated, [faulty, text]).headers["x-cache"] == "partial"


def test_an_interactive_request_does_not_wait_for_bulk(gated: Server, held: Callable[[], object]) -> None:
    """Both compute a text that is queued in the other lane."""
    text = new()
    with ThreadPoolExecutor(2) as pool:
        waiting = [asked(gated, pool, text, x_onecard_lane=lane) for lane in ("bulk", "interactive")]
        held()
        assert [one.result().headers["x-cache"] for one in waiting] == ["miss", "miss"]


def test_what_was_answered_is_answered_under_overload(gated: Server, hold: Path) -> None:
    """Refused at the gate: what is new, and what is to be computed anew."""
    known = new()
    body = embed(gated, known).content
    hold.write_text("hold")
    try:
        with ThreadPoolExecutor(2) as pool:
            held = hold.with_suffix(".held")
            held.unlink(missing_ok=True)
            runs = asked(gated, pool, new())
            wait_for(held.exists)
            waits = asked(gated, pool, f"{new()} {REVIEW * 10}")
            wait_for(lambda: metric(gated, QUEUED) > 100)
            assert embed(gated, new()).status_code == 429
            for control in ("no-cache", "no-store"):
                assert embed(gated, known, {"cache-control": control}).status_code == 429
            answer = embed(gated, known)
            assert (answer.status_code, answer.headers["x-cache"], answer.content) == (200, "hit", body)
            hold.write_text("")
            assert (runs.result().status_code, waits.result().status_code) == (200, 200)
    finally:
        hold.write_text("")


def test_cache_control(gated: Server) -> None:
    """`no-cache` computes anew and keeps; `no-store` neither reads nor keeps."""
    text = new()
    statuses = []
    for control in ("No-Store", "max-age=0", "no-cache", "max-age=0", "x=y, no-store"):
        before = metric(gated, COMPUTED)
        statuses.append(embed(gated, text, {"cache-control": control}).headers["x-cache"])
        assert (metric(gated, COMPUTED) > before) == (statuses[-1] != "hit")
    assert statuses == ["bypass", "miss", "miss", "hit", "bypass"]


def test_an_error_names_the_place_in_its_own_request(gated: Server) -> None:
    """Whatever was found before it; a text that was cut is no answer where cutting is forbidden."""
    short, long = new(), f"{new()} {REVIEW * 100}"
    assert embed(gated, [short, long]).status_code == 200
    answer = embed(gated, [short, short, long, long], truncate=False)
    assert (answer.status_code, "input[2]" in answer.json()["error"]["message"]) == (400, True)
    assert embed(gated, [short, long]).headers["x-cache"] == "hit"
    for unknown in (-1, 10**6, 2**64 - 1):
        answer = embed(gated, [[2, 10, 3], [2, unknown, 3]])
        assert (answer.status_code, "input[1]" in answer.json()["error"]["message"]) == (400, True)


def test_the_cache_is_a_part_of_readiness(gated: Server) -> None:
    """And it is well."""
    assert httpx.get(f"{gated.url}/health/ready").json()["parts"]["cache"] == {"status": "ok", "detail": None}


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis to be ill-treated, not started."""
    redis = RedisProcess(tmp_path_factory.mktemp("weather"))
    yield redis
    redis.kill()


@pytest.fixture(scope="module")
def exposed(weather: RedisProcess, caching_env: dict[str, str]) -> Iterator[Server]:
    """An embedding service without a cache of its own in front of it, started before its Redis."""
    env = {**caching_env, "CACHE_MEMORY_MB": "0", "REDIS_PORT": str(weather.port)}
    with serving("embedding_service", port_variable="EMBEDDING_PORT", env=env) as server:
        weather.start()
        wait_for(lambda: cache_status(server) == "ok")
        yield server


def cache_status(server: Server) -> str:
    """Of the part in readiness, which never is a reason to take the service out."""
    answer = httpx.get(f"{server.url}/health/ready")
    assert answer.status_code == 200
    status: str = answer.json()["parts"]["cache"]["status"]
    assert answer.json()["status"] == "degraded"  # It is on a stand-in.
    return status


def kept(server: Server, text: str) -> bytes:
    """The body of a hit."""
    answers: list[httpx.Response] = []

    def hit() -> bool:
        answers.append(embed(server, text))
        return answers[-1].headers["x-cache"] == "hit"

    wait_for(hit)
    return answers[-1].content


def test_a_damaged_value_is_computed_anew_and_replaced(exposed: Server, weather: RedisProcess) -> None:
    """It is never served, and counted."""
    text = new()
    body = kept(exposed, text)
    corrupt = 'onecard_cache_lookups_total{kind="embedding",outcome="corrupt",tier="redis"}'
    before = metric(exposed, corrupt)
    for key in re.findall(rb"onecard:embedding:[^\r]+", weather.command("KEYS", "onecard:embedding:*")):
        weather.command("SETRANGE", key, "40", b"\xff\xff\xff")
    answer = embed(exposed, text)
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "miss")
    assert metric(exposed, corrupt) == before + 1
    assert kept(exposed, text) == answer.content == body


@pytest.mark.parametrize("ailment", sorted(FAULTS))
def test_a_sick_redis_fails_no_request(exposed: Server, weather: RedisProcess, ailment: str) -> None:
    """Degraded, and answered; well again by itself. One that only refuses writes still gives what it has."""
    text = new()
    body = kept(exposed, text)
    with FAULTS[ailment](weather):
        answers = [embed(exposed, text) for _ in range(3)]
        state = "hit" if ailment == "full" else "miss"
        assert [(one.status_code, one.headers["x-cache"]) for one in answers] == [(200, state)] * 3
        assert {one.content for one in answers} == {body}
        assert embed(exposed, new()).status_code == 200
        wait_for(lambda: cache_status(exposed) == "degraded")
    wait_for(lambda: cache_status(exposed) == "ok")
    assert kept(exposed, text) == body
    assert kept(exposed, new())


def test_no_value_outlives_what_made_it(encoder_env: dict[str, str], model_cache: Path, tmp_path: Path) -> None:
    """After a restart in another precision, or with other labels, nothing of before is served, and the gateway hears
    of it."""
    folder = tmp_path / "model"
    shutil.copytree(model_cache / "onecard--standin-kakao-sentiment", folder)
    env = {**encoder_env, "CACHE_ENABLED": "true", "SENTIMENT_MODEL": str(folder)}

    def answers(**more: str) -> list[httpx.Response]:
        with serving("sentiment_service", port_variable="SENTIMENT_PORT", env={**env, **more}) as server:
            return [classify(server, [REVIEW, "맛없어요", REVIEW]) for _ in range(2)]

    with running_redis(tmp_path) as redis:
        env["REDIS_PORT"] = str(redis.port)
        miss, hit = answers()
        assert (miss.headers["x-cache"], hit.headers["x-cache"]) == ("miss", "hit")
        assert hit.content == miss.content
        again = answers(USE_FP16="false")[0]
        assert again.headers["x-cache"] == ("miss" if cpu_multiplies_bfloat16() else "hit")
        config = json.loads((folder / "config.json").read_bytes())
        labels = {"0": config["id2label"]["1"], "1": config["id2label"]["0"]}
        config |= {"id2label": labels, "label2id": {label: int(index) for index, label in labels.items()}}
        (folder / "config.json").write_text(json.dumps(config))
        turned = answers()[0]
        assert turned.headers["x-cache"] == "miss"
        assert turned.json()["data"][0]["label"] != miss.json()["data"][0]["label"]
        assert miss.headers[MODEL_HEADER] == hit.headers[MODEL_HEADER]
        assert (again.headers[MODEL_HEADER] != miss.headers[MODEL_HEADER]) == cpu_multiplies_bfloat16()
        assert turned.headers[MODEL_HEADER] != miss.headers[MODEL_HEADER]


def test_without_a_cache_all_is_computed(encoder_env: dict[str, str]) -> None:
    """Each time, and each repetition; no part of readiness speaks of it."""
    with serving("embedding_service", port_variable="EMBEDDING_PORT", env=encoder_env) as server:
        answers = [embed(server, [REVIEW, REVIEW]) for _ in range(2)]
        assert [one.headers["x-cache"] for one in answers] == ["bypass", "bypass"]
        assert metric(server, COMPUTED) == 2 * answers[0].json()["usage"]["prompt_tokens"]
        assert "cache" not in httpx.get(f"{server.url}/health/ready").json()["parts"]
