"""Which replica gets the next request."""

from collections.abc import Collection, Mapping
from types import MappingProxyType

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.telemetry.outcomes import Failure
from gateway.upstream.outlier_ejection import (
    DEPRIORITIZED_SECONDS,
    EJECT_AFTER_FAILURES,
    EJECT_AFTER_SILENT_CHECKS,
    EJECT_LAST_AFTER_SILENT_CHECKS,
    FAILURE_WINDOW_SECONDS,
    FIRST_EJECTION_SECONDS,
    LATENCY_TTL_SECONDS,
    MAX_EJECTION_SECONDS,
    EndpointSet,
    HealthCheckResult,
    Pick,
)


class ReplicaHistories(RuleBasedStateMachine):
    """Whatever happens to requests and checks, in whatever order."""

    @initialize(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        """Up to four replicas."""
        self.now = 100.0
        self.count = count
        self.replicas = EndpointSet(count, lambda: self.now)
        self.tickets: list[Pick] = []
        self.trials: list[Pick] = []
        """The first ticket of each replica that is out, while its outcome is not known."""
        self.refused_at = [0.0] * count

    def in_service(self) -> list[int]:
        return [number for number in range(self.count) if self.replicas.ejected_for(number) is None]

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule(tried=st.sets(st.integers(0, 3)))
    def take(self, tried: set[int]) -> None:
        """What is in service is preferred, the least busy first; what is down gets one request at a time."""
        busy = [self.replicas.in_flight(number) for number in range(self.count)]
        in_service = self.in_service()
        best = [n for n in in_service if n not in tried and self.now >= self.refused_at[n] + DEPRIORITIZED_SECONDS]
        ticket = self.replicas.pick(tried)
        if ticket is None:
            assert {trial.endpoint for trial in self.trials} == set(range(self.count))
            assert not in_service
            return
        reason = self.replicas.ejected_for(ticket.endpoint)
        if in_service and reason is not None:
            assert (reason, tried) == ("errors", set())  # A trial that was due.
        elif best:
            assert ticket.endpoint in best
            assert busy[ticket.endpoint] == min(busy[number] for number in best)
        tried_now = {trial.endpoint for trial in self.trials}
        assert reason not in ("away", "unready") or ticket.endpoint not in tried_now
        if reason is not None and ticket.endpoint not in tried_now:
            self.trials.append(ticket)
        self.tickets.append(ticket)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """A good answer puts nothing out."""
        ticket = data.draw(st.sampled_from(self.tickets))
        before = self.replicas.ejected_for(ticket.endpoint)
        self.replicas.responded(ticket, 0.01)
        assert self.replicas.ejected_for(ticket.endpoint) in (before, None)
        self.trials = [trial for trial in self.trials if trial is not ticket]

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), failure=st.sampled_from(["away", "silent", "error", "refused", "full"]))
    def fail(self, data: st.DataObject, failure: Failure) -> None:
        """Only connections that fail can put the last one out."""
        ticket = data.draw(st.sampled_from(self.tickets))
        before = self.in_service()
        self.replicas.failed(ticket, failure)
        if failure in ("refused", "full"):
            self.refused_at[ticket.endpoint] = self.now
            assert self.in_service() == before
        elif failure != "away":
            assert bool(self.in_service()) == bool(before)
        self.trials = [trial for trial in self.trials if trial is not ticket]

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """With or without an outcome."""
        ticket = data.draw(st.sampled_from(self.tickets))
        self.replicas.release(ticket)
        self.tickets = [one for one in self.tickets if one is not ticket]
        self.trials = [trial for trial in self.trials if trial is not ticket]

    @rule(data=st.data(), verdict=st.sampled_from(["ready", "not ready", "silent"]))
    def check(self, data: st.DataObject, verdict: HealthCheckResult) -> None:
        """One that passes ends every absence that checks can judge."""
        number = data.draw(st.integers(0, self.count - 1))
        frozen = self.replicas.on_health_check(number, verdict, self.now)
        reason = self.replicas.ejected_for(number)
        assert verdict != "ready" or reason in (None, "errors")
        assert verdict != "not ready" or reason == "unready"
        assert not frozen or (verdict == "silent" and reason == "unready" and self.in_service())

    @invariant()
    def requests_are_counted(self) -> None:
        """As many as have tickets, never below 0."""
        if hasattr(self, "replicas"):
            for number in range(self.count):
                held = sum(ticket.endpoint == number for ticket in self.tickets)
                assert self.replicas.in_flight(number) == held


ReplicaHistories.TestCase.settings = settings(max_examples=150)
test_any_history = ReplicaHistories.TestCase


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def spoil(replicas: EndpointSet, number: int, failure: Failure, times: int = EJECT_AFTER_FAILURES) -> None:
    """Let requests to one replica fail."""
    others = set(range(10)) - {number}
    for _ in range(times):
        ticket = replicas.pick(others)
        assert ticket is not None
        assert ticket.endpoint == number
        replicas.failed(ticket, failure)
        replicas.release(ticket)


def visit(replicas: EndpointSet, ill: Mapping[int, Failure] = MappingProxyType({}), slow: Collection[int] = ()) -> int:
    """Which replica the next request goes to, and gets its answer from unless that one is ill."""
    ticket = replicas.pick()
    assert ticket is not None
    if ticket.endpoint in ill:
        replicas.failed(ticket, ill[ticket.endpoint])
    else:
        replicas.responded(ticket, 1.0 if ticket.endpoint in slow else 0.01)
    replicas.release(ticket)
    return ticket.endpoint


def test_requests_take_turns_where_all_are_idle() -> None:
    """One at a time still uses every replica."""
    replicas = EndpointSet(3, Clock())
    assert [visit(replicas) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_failures_put_out_only_within_the_window_and_without_a_success_between() -> None:
    """One that fails now and then stays."""
    clock = Clock()
    replicas = EndpointSet(2, clock)
    for _ in range(5):
        spoil(replicas, 0, "error", EJECT_AFTER_FAILURES - 1)
        clock.now += FAILURE_WINDOW_SECONDS + 1
    ticket = replicas.pick({1})
    assert ticket is not None
    spoil(replicas, 0, "error", EJECT_AFTER_FAILURES - 1)
    replicas.responded(ticket, 0.01)
    spoil(replicas, 0, "error", EJECT_AFTER_FAILURES - 1)
    assert replicas.ejected_for(0) is None
    spoil(replicas, 0, "error", 1)
    assert replicas.ejected_for(0) == "errors"


def test_a_trial_that_fails_doubles_the_pause_and_one_that_works_ends_it() -> None:
    """A replica that stays ill costs one request every half minute."""
    clock = Clock()
    replicas = EndpointSet(2, clock)
    spoil(replicas, 0, "error")
    pauses = []
    for _ in range(7):
        left_at = clock.now
        while visit(replicas, ill={0: "error"}) != 0:
            clock.now += 0.5
        pauses.append(clock.now - left_at)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    clock.now += MAX_EJECTION_SECONDS
    assert visit(replicas) == 0
    assert replicas.ejected_for(0) is None


def test_a_request_that_has_failed_once_is_no_trial() -> None:
    """Its second attempt goes where it is likely to work."""
    clock = Clock()
    replicas = EndpointSet(3, clock)
    spoil(replicas, 0, "error")
    clock.now += MAX_EJECTION_SECONDS
    ticket = replicas.pick({1})
    assert ticket is not None
    assert ticket.endpoint == 2
    assert visit(replicas) == 0


def test_one_request_at_a_time_tries_a_replica() -> None:
    """The others go where they are answered, however many come meanwhile."""
    clock = Clock()
    replicas = EndpointSet(2, clock)
    spoil(replicas, 0, "error")
    clock.now += MAX_EJECTION_SECONDS
    taken = [replicas.pick() for _ in range(10)]
    assert [ticket.endpoint for ticket in taken if ticket] == [0] + 9 * [1]


def test_what_becomes_of_earlier_requests_neither_ends_an_absence_nor_makes_it_longer() -> None:
    """It tells how the replica was."""
    clock = Clock()
    replicas = EndpointSet(2, clock)
    early = [ticket for _ in range(10) if (ticket := replicas.pick({1}))]
    spoil(replicas, 0, "error")
    replicas.responded(early.pop(), 0.01)
    assert replicas.ejected_for(0) == "errors"
    for ticket in early:
        replicas.failed(ticket, "error")
        replicas.release(ticket)
    clock.now += FIRST_EJECTION_SECONDS
    assert visit(replicas) == 0


def test_a_lost_replica_is_back_with_the_first_check_that_passes() -> None:
    """A restart is noticed at once."""
    replicas = EndpointSet(2, Clock())
    spoil(replicas, 0, "away")
    assert replicas.ejected_for(0) == "away"
    replicas.on_health_check(0, "ready", 100.0)
    assert replicas.ejected_for(0) is None


def test_checks_that_pass_do_not_bring_back_what_fails_again_at_once() -> None:
    """A replica whose checks work and whose connections do not is left to trials, unless it is all there is."""
    replicas = EndpointSet(2, Clock())
    spoil(replicas, 0, "away")
    replicas.on_health_check(0, "ready", 100.0)
    spoil(replicas, 0, "away")
    assert replicas.ejected_for(0) == "errors"
    replicas.on_health_check(0, "ready", 100.0)
    assert replicas.ejected_for(0) == "errors"


def test_a_service_that_is_down_gets_one_request_at_a_time_and_is_back_with_its_first_answer() -> None:
    """Its clients learn at once that it is away, and the gateway soon that it is not."""
    replicas = EndpointSet(1, Clock())
    spoil(replicas, 0, "away")
    trial = replicas.pick()
    assert trial is not None
    assert replicas.pick() is None
    replicas.responded(trial, 0.01)
    assert replicas.pick() is not None


def test_a_frozen_replica_is_found_by_silent_checks_sooner_when_there_are_others() -> None:
    """The last one gets more time: it may just have too much to do."""
    pair, single = EndpointSet(2, Clock()), EndpointSet(1, Clock())
    assert [pair.on_health_check(0, "silent", 100.0) for _ in range(EJECT_AFTER_SILENT_CHECKS)] == [False] * (
        EJECT_AFTER_SILENT_CHECKS - 1
    ) + [True]
    assert pair.ejected_for(0) == "unready"
    for _ in range(EJECT_LAST_AFTER_SILENT_CHECKS):
        assert single.ejected_for(0) is None
        assert not single.on_health_check(0, "silent", 100.0)
    assert single.ejected_for(0) == "unready"


def test_a_replica_that_answers_requests_is_not_called_frozen() -> None:
    """Whatever its checks say by saying nothing: not one that an answer came in during."""
    clock = Clock()
    replicas = EndpointSet(2, clock)
    for check in range(10):
        began = clock.now
        clock.now += 2
        if check % EJECT_AFTER_SILENT_CHECKS:
            visit(replicas)
            visit(replicas)
        replicas.on_health_check(0, "silent", began)
    assert replicas.ejected_for(0) is None


def test_a_replica_that_refuses_is_asked_last_for_a_moment() -> None:
    """It stays in service: its queue is full of work."""
    clock = Clock()
    replicas = EndpointSet(2, clock)
    assert visit(replicas, ill={0: "refused"}) == 0
    assert not replicas.has_alternative({1})
    assert [visit(replicas) for _ in range(3)] == [1, 1, 1]
    clock.now += DEPRIORITIZED_SECONDS
    assert visit(replicas) == 0


def test_a_slow_replica_gets_little_also_when_requests_come_one_by_one() -> None:
    """It is looked at again now and then, and shares the work as soon as it is well."""
    clock = Clock()
    replicas = EndpointSet(2, clock)
    visits = []
    for _ in range(100):
        visits.append(visit(replicas, slow={0}))
        clock.now += LATENCY_TTL_SECONDS / 10
    assert 5 <= visits.count(0) <= 15
    clock.now += LATENCY_TTL_SECONDS
    assert [visit(replicas) for _ in range(10)].count(0) == 5
