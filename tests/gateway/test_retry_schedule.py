"""Who is refused by a full encoder and waits as told gets in, while the flood that fills it goes on. No real time."""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from starlette.responses import Response
from starlette.types import Scope

from gateway.upstream.completion_rate import MEMORY_SECONDS, CompletionRate
from gateway.upstream.load_shedder import RecentRefusals, RequestSignature
from gateway.upstream.retry_schedule import (
    EARLY_SECONDS,
    LATE_SECONDS,
    MAX_LATE_SECONDS,
    RetrySchedule,
    ReturnShare,
)
from onecard.batching.admission import excess_wait_seconds
from onecard.errors import TooBusy, error_body

SCOPE: Scope = {"type": "http", "path": "/v1/embeddings", "headers": []}
SENT_PER_SECOND = 178.0
SERVED_PER_SECOND = 41.0
TIMEOUT_SECONDS = 30.0
FLOOD_SECONDS = 60.0
LATENCY_SECONDS = 0.003
BATCHES_AT_A_TIME = 2


@dataclass(frozen=True)
class SimulatedRequest:
    """A request with a text of its own."""

    body: bytes
    returns: bool
    """Whether its client comes again as told."""
    is_polite: bool
    """Whether its client obeys, and sends a new request once it has its answer."""
    began: float = 0.0
    """When it was accepted."""


@dataclass
class Overload:
    """A flood of new bodies, some clients that obey, and an encoder that serves batches, behind the gateway's rules."""

    batch: int
    return_share: float
    """The part of the flood that comes again as told."""
    polite_clients: int = 16
    sent_per_second: float = SENT_PER_SECOND
    flood_seconds: float = FLOOD_SECONDS
    swing: float = 0.0
    """By which part the encoder's speed changes, in the course of a minute and again from batch to batch."""
    now: float = 0.0
    returned: int = 0
    let_in: int = 0
    accepted: int = 0
    longest_wait: float = 0.0
    longest_retry_after: int = 0
    _estimated_per_second: float = SERVED_PER_SECOND
    """The encoder's own estimate of its speed."""
    _queue: deque[SimulatedRequest] = field(default_factory=deque)
    _running: deque[list[SimulatedRequest]] = field(default_factory=deque)
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)

    def run(self) -> None:
        """Until everybody has an answer or has given up."""
        self._numbers = itertools.count()
        self._random = Random(1)
        self._refusals = RecentRefusals(lambda: self.now)
        for number in range(int(self.sent_per_second * self.flood_seconds)):
            self._at(number / self.sent_per_second, lambda: self._send_new(is_polite=False))
        for number in range(self.polite_clients):
            self._at(number * 0.001, lambda: self._send_new(is_polite=True))
        while self._events:
            self.now, _, happen = heapq.heappop(self._events)
            happen()

    def _at(self, time: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), happen))

    def _send_new(self, *, is_polite: bool) -> None:
        if self.now < self.flood_seconds:
            returns = is_polite or self._random.random() < self.return_share
            body = b'{"input": "%0*d"}' % (self._random.choice((6, 30)), next(self._numbers))
            self._send(SimulatedRequest(body, returns, is_polite), returned=False)

    def _send(self, request: SimulatedRequest, *, returned: bool) -> None:
        self.returned += returned
        retry_after = self._relay(request)
        if retry_after is None:
            self.let_in += returned
            return
        self.longest_retry_after = max(self.longest_retry_after, retry_after)
        if request.returns:
            self._at(self.now + retry_after + LATENCY_SECONDS, lambda: self._send(request, returned=True))

    def _relay(self, request: SimulatedRequest) -> int | None:
        """What the gateway does; the seconds that the client is told, None if the encoder accepts the request."""
        signature = RequestSignature(SCOPE, request.body)
        try:
            has_waited = self._refusals.check(signature)
        except TooBusy as error:
            return int((error.headers or {})["retry-after"])
        if has_waited:
            self._refusals.redeem(signature)
        ahead = len(self._queue) + sum(map(len, self._running))
        excess = excess_wait_seconds(
            ahead_tokens=ahead,
            own_tokens=1,
            tokens_per_second=self._estimated_per_second,
            timeout_seconds=TIMEOUT_SECONDS,
            has_waited=has_waited,
        )
        if excess > 0:
            response = Response(
                error_body("Full.", "rate_limit_error", "too_busy"), 429, {"retry-after": str(math.ceil(excess))}
            )
            self._refusals.add(signature, response)
            return int(response.headers["retry-after"])
        self.accepted += 1
        self._queue.append(SimulatedRequest(request.body, request.returns, request.is_polite, self.now))
        self._start_batches()
        return None

    def _start_batches(self) -> None:
        while len(self._running) < BATCHES_AT_A_TIME and self._queue:
            self._running.append([self._queue.popleft() for _ in range(min(self.batch, len(self._queue)))])
            if len(self._running) == 1:
                self._run_batch()

    def _run_batch(self) -> None:
        by_time, by_chance = math.sin(self.now / 7), self._random.uniform(-1, 1)
        per_second = SERVED_PER_SECOND * (1 + self.swing * by_time) * (1 + self.swing * by_chance)
        self._estimated_per_second += 0.1 * (per_second - self._estimated_per_second)
        self._at(self.now + len(self._running[0]) / per_second, self._end_batch)

    def _end_batch(self) -> None:
        ended = self._running.popleft()
        if self._running:
            self._run_batch()
        for request in ended:
            self.longest_wait = max(self.longest_wait, self.now - request.began)
            self._refusals.responded(RequestSignature(SCOPE, request.body))
            if request.is_polite:
                self._at(self.now + LATENCY_SECONDS, lambda: self._send_new(is_polite=True))
        self._start_batches()


@pytest.mark.parametrize("batch", [8, 16, 32])
@pytest.mark.parametrize("return_share", [0.0, 0.1, 0.3, 1.0])
def test_everybody_who_waits_as_told_gets_in(batch: int, return_share: float) -> None:
    """At the first return, while newcomers come at four times the speed of the encoder; whether few or all obey. The
    encoder does not idle, and answers in time."""
    overload = Overload(batch, return_share)
    overload.run()
    assert overload.returned > 40
    assert overload.let_in == overload.returned
    assert overload.accepted >= 0.95 * SERVED_PER_SECOND * FLOOD_SECONDS
    assert overload.longest_wait <= TIMEOUT_SECONDS / 2 + BATCHES_AT_A_TIME * batch / SERVED_PER_SECOND


@pytest.mark.parametrize("batch", [8, 16, 32])
@pytest.mark.parametrize("return_share", [0.0, 0.1])
def test_a_change_of_speed_turns_nobody_away(batch: int, return_share: float) -> None:
    """There is room for who comes at a time at which the encoder is slower than when it was told."""
    overload = Overload(batch, return_share, swing=0.3)
    overload.run()
    assert overload.let_in == overload.returned > 40
    assert overload.longest_wait < TIMEOUT_SECONDS


def test_few_who_obey_are_not_kept_waiting_for_many_who_never_come() -> None:
    """With all of the flood, the wait would be minutes."""
    few, everybody = Overload(32, return_share=0.0), Overload(32, return_share=1.0)
    few.run()
    everybody.run()
    assert few.longest_retry_after < 30 < 120 < everybody.longest_retry_after


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("per_second", [0.1, 100.0])
def test_the_part_that_returns_is_known(per_second: float, share: float) -> None:
    """Within a few seconds, or within some dozens of clients where few come; some are always expected."""
    clock = Clock()
    known, random = ReturnShare(clock), Random(1)
    assert known.value == 1
    for _ in range(int(max(100, 30 * per_second))):
        clock.now += 1 / per_second
        known.observe(came=random.random() < share)
    assert known.value == pytest.approx(share, abs=0.2 if per_second < 1 else 0.05)
    assert known.value > 0


def test_all_of_a_burst_get_in_at_the_second_try() -> None:
    """A thousand at once at an encoder of which nothing is known yet, and nobody afterwards."""
    overload = Overload(32, 1.0, polite_clients=0, sent_per_second=2000, flood_seconds=0.5)
    overload.run()
    assert overload.let_in == overload.returned > 500


class Clock:
    """Stands still unless it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_appointment_holds_however_late_the_client_is() -> None:
    """It counts once."""
    clock = Clock()
    schedule = RetrySchedule(clock)
    assert schedule.appoint(b"a", 3) == 3
    retry_at = schedule.retry_at(b"a")
    assert retry_at == clock.now + 3 - EARLY_SECONDS
    clock.now += 60
    schedule.appoint(b"b", 3)
    assert schedule.retry_at(b"a") == retry_at
    schedule.redeem(b"a")
    assert schedule.retry_at(b"a") is None
    clock.now += MAX_LATE_SECONDS
    schedule.tidy()
    assert schedule
    clock.now += 60
    schedule.tidy()
    assert not schedule, "but not for ever"


def test_who_is_answered_without_it_is_not_expected_any_more() -> None:
    """Nor counts as somebody who did not come: the next are planned for as before."""
    clock = Clock()
    schedule = RetrySchedule(clock)
    waits = [schedule.appoint(b"%d" % number, 1) for number in range(500)]
    assert waits[-1] >= 49  # Five hundred at ten a second.
    for number in range(500):
        schedule.forget(b"%d" % number)
    assert not schedule
    assert schedule.appoint(b"a", 1) == 1
    schedule.redeem(b"a")
    clock.now += 500
    waits = [schedule.appoint(b"+%d" % number, 1) for number in range(100)]
    assert waits[-1] >= 9  # A hundred at ten a second.


def test_a_schedule_that_is_full_keeps_what_it_has_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until somebody has not come."""
    monkeypatch.setattr("gateway.upstream.retry_schedule._MAX_APPOINTMENTS", 2)
    clock = Clock()
    schedule = RetrySchedule(clock)
    for digest in (b"a", b"b", b"c"):
        assert 3 <= schedule.appoint(digest, 3) <= 4
    assert [schedule.retry_at(digest) is None for digest in (b"a", b"b", b"c")] == [False, False, True]
    clock.now += 4 + LATE_SECONDS
    schedule.appoint(b"d", 3)
    assert [schedule.retry_at(digest) is None for digest in (b"a", b"b", b"d")] == [True, False, False]


@pytest.mark.parametrize(("per_second", "batch"), [(0.2, 1), (4.0, 1), (400.0, 1), (4.0, 32), (400.0, 32)])
def test_the_rate_is_that_of_the_time_in_which_requests_wait(per_second: float, batch: int) -> None:
    """Whether they are completed one by one or in batches; not of the time before."""
    clock = Clock()
    rate = CompletionRate(clock, first_per_second=10)
    for idle_seconds in (0, 3600):
        clock.now += idle_seconds
        rate.resume()
        for _ in range(max(3, int(5 * MEMORY_SECONDS * per_second / batch))):
            clock.now += batch / per_second
            for _ in range(batch):
                rate.record()
        assert rate.per_second == pytest.approx(per_second, rel=0.5)


def test_a_rate_falls_while_nothing_is_completed() -> None:
    """Not at once, since completions come in batches; and a standstill of an hour is made up for in a minute."""
    clock = Clock()
    rate = CompletionRate(clock, first_per_second=10)
    assert rate.per_second == pytest.approx(10)
    clock.now += 1
    assert rate.per_second == pytest.approx(10)
    clock.now += 3600
    assert rate.per_second < 0.1
    for _ in range(60 * 41):
        clock.now += 1 / 41
        rate.record()
    assert rate.per_second == pytest.approx(41, rel=0.2)
