"""When Redis is asked and when it is tried."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from onecard.redis.circuit_breaker import SLOW_REPLY_THRESHOLD, CircuitBreaker


class BreakerHistories(RuleBasedStateMachine):
    """Whatever happens in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.breaker = CircuitBreaker(lambda: self.now)
        self.behind = 0

    @rule(seconds=st.floats(0, 2))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule(pausing=st.booleans())
    def trip(self, pausing: bool) -> None:
        """One hard failure closes the door at once."""
        self.breaker.trip(pausing=pausing)
        assert not self.breaker.closed

    @rule()
    def succeed(self) -> None:
        """A success never opens the door by itself: it may answer a question of long ago."""
        before = self.breaker.state
        self.breaker.record_success()
        assert self.breaker.state == before
        self.behind = 0

    @precondition(lambda self: self.breaker.closed)
    @rule()
    def fall_behind(self) -> None:
        """A few in a row close it, not fewer."""
        self.breaker.record_slow_reply()
        self.behind += 1
        assert self.breaker.closed == (self.behind < SLOW_REPLY_THRESHOLD)

    @rule(healthy=st.booleans())
    def probe(self, healthy: bool) -> None:
        """Only one prober at a time, only when it is due; its outcome decides."""
        due = self.breaker.state == "open" and self.breaker.seconds_to_probe() == 0
        assert self.breaker.begin_probe() == due
        if due:
            assert not self.breaker.begin_probe()
            self.breaker.end_probe(healthy)
            assert self.breaker.closed == healthy
            self.behind = 0

    @invariant()
    def a_probe_is_never_far(self) -> None:
        """While open, the next probe is due within a second, so that recovery is noticed."""
        if self.breaker.state == "open":
            assert self.breaker.seconds_to_probe() <= 1.0
        if not self.breaker.closed:
            self.behind = 0


BreakerHistories.TestCase.settings = settings(max_examples=100)
test_any_history = BreakerHistories.TestCase


def test_pauses_double_up_to_a_second_and_start_over() -> None:
    """A Redis that restarts quickly is found quickly; one that stays away is tried once a second."""
    now = 0.0
    breaker = CircuitBreaker(lambda: now)
    pauses = []
    for _ in range(6):
        assert breaker.begin_probe()
        breaker.end_probe(healthy=False)
        pauses.append(round(breaker.seconds_to_probe(), 3))
        now += breaker.seconds_to_probe()
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    breaker.begin_probe()
    breaker.end_probe(healthy=True)
    now += 2
    breaker.trip()
    assert round(breaker.seconds_to_probe(), 3) == 0.1


def test_one_that_only_paused_is_probed_at_once_but_not_again_and_again() -> None:
    """A pause of 60 ms ends before it has cost anybody much; a Redis that answers probes alone is not believed."""
    now = 0.0
    breaker = CircuitBreaker(lambda: now)
    pauses = []
    for _ in range(7):
        breaker.begin_probe()
        breaker.end_probe(healthy=True)
        now += 0.05
        breaker.trip(pausing=True)
        pauses.append(round(breaker.seconds_to_probe(), 3))
        now += breaker.seconds_to_probe()
    assert pauses == [0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
