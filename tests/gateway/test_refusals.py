"""A full encoder is not asked again for a moment: its refusal is repeated, and who waits as told is let through."""

import itertools
import time
from hashlib import blake2b

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope

from gateway.upstream import load_shedder
from gateway.upstream.load_shedder import (
    REMEMBERED_SECONDS,
    EncoderLoadShedder,
    RecentRefusals,
    RequestSignature,
)
from gateway.upstream.retry_schedule import MAX_LATE_SECONDS
from onecard.errors import TooBusy, error_body
from onecard.inference.scheduling import WAITED_HEADER, max_text_count
from onecard.web import recent_bodies
from tests.gateway.gateway_scene import GatewayScene, eventually
from tests.gateway.support import error_of, key
from tests.gateway.test_answers_repeats import embedding

EMBED = "/v1/embeddings"


class SimulatedEncoder:
    """Refusals of an encoder that is full, and a clock."""

    def __init__(self) -> None:
        self.now = 5.0
        self.refusals = RecentRefusals(lambda: self.now)

    def says(self, body: bytes = b"a", seconds: str = "2", code: str = "too_busy", **headers: str) -> str:
        """It refuses a request; what that is told."""
        response = Response(error_body("Full.", "rate_limit_error", code), 429, {"retry-after": seconds})
        self.refusals.add(signature(body, **headers), response)
        return response.headers["retry-after"]

    def wait(self, body: bytes, **headers: str) -> int | None:
        """What a request is told; None if it goes to the encoder."""
        try:
            self.refusals.check(signature(body, **headers))
        except TooBusy as error:
            return int((error.headers or {})["retry-after"]) if error.detail == "Full." else -1
        return None

    def has_waited(self, body: bytes, **headers: str) -> bool:
        """Whether a request goes to the encoder as one that has waited as it was told to."""
        one = signature(body, **headers)
        try:
            has_waited = self.refusals.check(one)
        except TooBusy:
            return False
        if has_waited:
            self.refusals.redeem(one)
        return has_waited


def signature(body: bytes, **headers: str) -> RequestSignature:
    return RequestSignature(asked(**headers), body)


def asked(**headers: str) -> Scope:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "path": EMBED, "headers": raw}


def test_a_refusal_is_repeated_for_a_moment() -> None:
    """In the encoder's words, with a time that is not before the encoder's own."""
    encoder = SimulatedEncoder()
    assert encoder.wait(b"b") is None
    assert encoder.says() == "2"
    assert (encoder.wait(b"b") or 0) >= 2
    encoder.now += REMEMBERED_SECONDS
    assert encoder.wait(b"c") is None
    for number in range(2_000):
        encoder.says(b"%d" % number, x_onecard_lane=str(number))
    assert len(encoder.refusals._refusals) <= 1000


@pytest.mark.parametrize(
    ("seconds", "code", "headers"),
    [
        ("2", "too_busy", {"x_onecard_timeout_ms": "5"}),
        ("2", "rate_limit_exceeded", {}),
        ("Sun, 29 Nov 2026 01:00:00 GMT", "too_busy", {}),
    ],
    ids=["of a time limit", "for another reason", "without seconds"],
)
def test_what_says_nothing_of_others_is_not_repeated(seconds: str, code: str, headers: dict[str, str]) -> None:
    encoder = SimulatedEncoder()
    assert encoder.says(b"a", seconds, code, **headers) == seconds
    assert encoder.wait(b"b", **headers) is None


@pytest.mark.parametrize(
    ("body", "headers", "alike"),
    [
        (b'{"input": "b"}', {}, True),
        (b'{"input": "b"}', {"x_onecard_lane": "bulk"}, False),
        (b'{"input": ["b", "c"]}', {}, False),
        (b'{"input": "bbbbbbbbbbbbbbbbbbbb"}', {}, False),
        (b'{"input": "b"}', {"x_onecard_timeout_ms": "60000"}, False),
    ],
)
def test_what_is_judged_alike_is_refused_alike(body: bytes, headers: dict[str, str], alike: bool) -> None:
    """Not another lane, another number of texts, another length, another time limit."""
    assert (signature(body, **headers).shape == signature(b'{"input": "a"}').shape) == alike


def test_who_waits_as_told_is_let_through() -> None:
    """Once, while newcomers are refused, and not before the time. Who comes once more gets a new time."""
    encoder = SimulatedEncoder()
    assert encoder.says(b"a") == "2"
    assert encoder.wait(b"a") == 2
    assert encoder.wait(b"b") is not None
    encoder.now += 4
    encoder.says(b"c")
    assert encoder.wait(b"n") is not None
    assert encoder.has_waited(b"a")
    assert (encoder.wait(b"a") or 0) >= 2
    encoder.says(b"c")
    assert encoder.has_waited(b"b"), "however often others are refused meanwhile"
    assert (encoder.wait(b"b") or 0) >= 2
    encoder.refusals.responded(signature(b"a"))
    assert (encoder.wait(b"a") or 0) >= 2


@pytest.mark.parametrize("headers", [{}, {"x_onecard_timeout_ms": "20000"}], ids=["", "with a time limit"])
def test_who_waits_as_told_has_waited_though_nobody_is_refused_any_more(headers: dict[str, str]) -> None:
    """The encoder may refuse newcomers again by then. A request with a time limit of its own has a time, too."""
    encoder = SimulatedEncoder()
    assert encoder.says(b"a", **headers) == "2"
    assert not encoder.has_waited(b"a", **headers)
    assert encoder.says(b"a", "9", **headers) == "2", "the same time again"
    encoder.now += 60
    assert not encoder.has_waited(b"b", **headers)
    assert encoder.has_waited(b"a", **headers)
    assert not encoder.has_waited(b"a", **headers)


async def test_the_gate_uses_no_time_up() -> None:
    """Only the request that is relayed does: limits come in between, and may refuse it."""
    encoder = SimulatedEncoder()
    relayed: list[object] = []

    async def relay(scope: Scope, receive: Receive) -> Response:
        relayed.append(scope["state"].get("has_waited"))
        return Response(status_code=200)

    async def receive() -> Message:
        raise AssertionError("the body is there")

    shedder = EncoderLoadShedder(relay, lambda: encoder.now)
    encoder.refusals = shedder.refusals
    assert encoder.says(b"a") == "2"
    encoder.now += 2
    encoder.says(b"c")
    for _ in range(2):
        shedder.check({**asked(), "state": {}}, b"a")
    await shedder.handle({**asked(), "state": {"body": b"a"}}, receive)
    assert relayed == [True]
    with pytest.raises(TooBusy):
        shedder.check({**asked(), "state": {}}, b"a")


def test_they_are_told_to_come_as_fast_as_requests_are_answered() -> None:
    """One after the other, as long as it is not known that most of them never come."""
    encoder = SimulatedEncoder()
    encoder.says(b"00")
    for second in range(60):
        encoder.now += 1
        encoder.says(b"full %d" % second)
        for number in range(4):
            encoder.refusals.responded(signature(b"%d" % number))  # Four a second.
        encoder.refusals.redeem(signature(b"full %d" % second))
    encoder.says(b"zz")
    waits = [encoder.wait(b"%02d" % number) or 0 for number in range(1, 90)]
    assert waits == sorted(waits)
    assert waits[0] >= 2
    assert 15 <= waits[-1] - waits[0] <= 30
    assert max(waits.count(wait) for wait in set(waits[10:-10])) <= 8


def test_a_full_encoder_is_asked_now_and_then(own: GatewayScene) -> None:
    """All are told what it said, most without asking it; it is asked again as soon as it may have room, and not only by
    who waits as told: who asks here comes for the first time.
    """
    httpx.post(f"{own.canned.url}/ail", content="429")
    waits: list[int] = []
    before, lines = own.seen("requests"), own.metric("onecard_http_requests_total")
    for number in range(100):
        answer = own.post({"case": "echo", "input": f"{number:02d}"}, EMBED)
        assert error_of(answer, 429)["code"] == "too_busy"
        waits.append(int(answer.headers["retry-after"]))
        assert answer.headers["x-request-id"]
    assert waits[0] == 3
    assert waits[-1] > 3
    assert own.seen("requests") - before < 100
    assert own.metric("onecard_http_requests_total") - lines >= 100
    httpx.post(f"{own.canned.url}/ail", content="")
    newcomers = itertools.count(100)
    eventually(lambda: own.post({"case": "echo", "input": str(next(newcomers))}, EMBED).status_code == 200)


def test_an_encoder_learns_who_has_waited(own: GatewayScene) -> None:
    """From the gateway, not from the client."""
    body = {"case": "echo", "input": "waits"}
    assert own.post({"case": "echo", "input": "new"}, EMBED, **{WAITED_HEADER: "1"}).status_code == 200
    assert WAITED_HEADER not in own.seen("headers")
    httpx.post(f"{own.canned.url}/ail", content="429")
    assert own.post(body, EMBED, **{WAITED_HEADER: "1"}).status_code == 429
    assert WAITED_HEADER not in own.seen("headers")

    def has_waited() -> bool:
        own.post(body, EMBED)
        return own.seen("headers").get(WAITED_HEADER) == "1"

    eventually(has_waited)


def test_what_is_kept_is_answered_while_the_encoder_is_full(own: GatewayScene) -> None:
    body = embedding()
    assert own.post(body, EMBED).status_code == 200
    httpx.post(f"{own.canned.url}/ail", content="429")
    assert own.post(embedding(), EMBED).status_code == 429
    assert own.post(body, EMBED).headers["x-cache"] == "hit"


class BodyReads:
    """How often bodies are read from end to end, to hash them and to count their texts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hashed = self.counted = 0
        for module in (load_shedder, recent_bodies):
            monkeypatch.setattr(module, "blake2b", self._blake2b)
        monkeypatch.setattr(load_shedder, "max_text_count", self._max_text_count)

    def _blake2b(self, body: bytes, digest_size: int) -> object:
        self.hashed += 1
        return blake2b(body, digest_size=digest_size)

    def _max_text_count(self, body: bytes, enough: int) -> int:
        self.counted += 1
        return max_text_count(body, enough)


async def test_a_body_is_not_read_for_refusals_of_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have 2 MB. While requests are refused it is read once, whatever becomes of it."""
    clock, refuses = SimulatedEncoder(), False

    async def relay(scope: Scope, receive: Receive) -> Response:
        response = Response(error_body("Full.", "rate_limit_error", "too_busy"), 429, {"retry-after": "2"})
        return response if refuses else Response(status_code=200)

    async def receive() -> Message:
        raise AssertionError("the body is there")

    shedder, reads = EncoderLoadShedder(relay, lambda: clock.now), BodyReads(monkeypatch)

    async def ask(body: bytes) -> None:
        state: dict[str, object] = {}
        shedder.check({**asked(), "state": state}, body)
        await shedder.handle({**asked(), "state": state | {"body": body}}, receive)

    await ask(b"a")
    assert (reads.hashed, reads.counted) == (0, 0)
    refuses = True
    await ask(b"b")
    assert (reads.hashed, reads.counted) == (1, 1)
    with pytest.raises(TooBusy):
        await ask(b"c")
    assert (reads.hashed, reads.counted) == (3, 2), "the cached bodies are asked, too"
    await ask(b"d" * 100)
    assert (reads.hashed, reads.counted) == (5, 3)
    refuses = False
    clock.now += 2
    await ask(b"e")
    assert (reads.hashed, reads.counted) == (6, 3)
    clock.now += 2 * MAX_LATE_SECONDS
    await ask(b"f")
    assert (reads.hashed, reads.counted) == (6, 3)


def test_a_key_for_some_models_is_asked_for_its_own_first() -> None:
    """What it may not use is a 403 at a full encoder, too: its requests pass the edge, and are refused behind that."""

    async def unused(scope: Scope, receive: Receive) -> Response:
        raise AssertionError("nothing is relayed here")

    shedder = EncoderLoadShedder(unused, time.monotonic)
    response = Response(error_body("Full.", "rate_limit_error", "too_busy"), 429, {"retry-after": "2"})
    shedder.refusals.add(signature(b"a"), response)
    for caller in (None, key("a")):
        with pytest.raises(TooBusy):
            shedder.check({**asked(), "state": {"caller": caller}}, b"b")
    shedder.check({**asked(), "state": {"caller": key("b", models=("other",))}}, b"b")
