"""A canary on an engine that a test plays: hung, busy, and wrong."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from onecard.web import canary as canary_
from onecard.web.canary import FAILURES_BEFORE_RESTART, POLL_SECONDS, Canary, CanaryFailed, StuckTimer

LOOKS = st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 100)), max_size=60)
"""Whether the engine got on, whether it owes an answer, and the seconds since the last look."""


@given(LOOKS)
def test_an_engine_is_stuck_only_while_it_owes_and_does_nothing(looks: list[tuple[bool, bool, float]]) -> None:
    """Any progress, or nothing owed, sets it back to 0; a gap in which nobody looked counts as two polls at most."""
    timer, progress, now, idle_looks = StuckTimer(), 0, 0.0, 0
    for moved, owes, seconds in looks:
        progress, now = progress + moved, now + seconds
        stuck = timer.look(progress, owes=owes, now=now)
        idle_looks = 0 if moved or not owes or timer.stuck_seconds == 0 else idle_looks + 1
        assert stuck == 0 if moved or not owes else stuck <= (idle_looks + 1) * 2 * POLL_SECONDS


class Engine:
    """Answers as told."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.error: Exception | None = None
        self.steps = 0
        self.lost: list[str] = []
        self.on_look: Callable[[], None] | None = None

    async def compute(self) -> None:
        await self.goes_on.wait()
        if self.error:
            raise self.error
        self.steps += 1

    def progress(self) -> int:
        """What the canary looks at. With `on_look` set, other work gets on between two looks."""
        if self.on_look:
            self.on_look()
            self.steps += 1
        return self.steps

    def canary(self) -> Canary:
        return Canary(
            self.compute,
            self.progress,
            interval_seconds=0.001,
            hang_seconds=0.05,
            on_lost=self.lost.append,
            registry=CollectorRegistry(),
        )


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, so that tests are short."""
    monkeypatch.setattr(canary_, "POLL_SECONDS", 0.005)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what holds is changed by the code under test, which has no event
            await asyncio.sleep(0.001)


async def test_a_hung_engine_is_lost_once() -> None:
    """And is not ready from then on."""
    engine = Engine()
    canary = engine.canary()
    canary.start()
    await until(lambda: engine.steps > 2)
    assert canary.health().status == "ok"
    engine.goes_on.clear()
    await until(lambda: bool(engine.lost))
    engine.goes_on.set()
    await asyncio.sleep(0)
    assert (canary.health().status, canary.health().detail) == ("down", "does not answer")
    await canary.close()
    assert engine.lost == ["does not answer"]


async def test_a_busy_engine_is_not_lost() -> None:
    """The canary waits for many times the limit, while the engine gets on with other work."""
    engine = Engine()
    canary = engine.canary()
    engine.goes_on.clear()
    canary.start()
    looks: list[int] = []
    engine.on_look = lambda: looks.append(1)  # Each finds more work done than the last.
    await until(lambda: len(looks) > 200)  # Many times the limit of a hang.
    assert not engine.lost
    assert canary.health().status == "ok"
    await canary.close()


async def test_wrong_answers_take_it_out_and_the_next_right_one_back() -> None:
    """At the first one; after some more the engine is lost."""
    engine = Engine()
    canary = engine.canary()
    engine.error = CanaryFailed("gives no numbers")
    await canary.ask()
    assert (canary.health().status, canary.health().detail) == ("down", "gives no numbers")
    assert not engine.lost
    engine.error = None
    await canary.ask()
    assert canary.health().status == "ok"
    engine.error = CanaryFailed("gives no numbers")
    for _ in range(FAILURES_BEFORE_RESTART):
        await canary.ask()
    assert engine.lost == ["gives no numbers"]


async def test_a_refusal_says_nothing() -> None:
    """A full queue, or an engine that ends, is seen elsewhere."""
    engine = Engine()
    canary = engine.canary()
    engine.error = RuntimeError("full")
    for _ in range(10):
        await canary.ask()
    assert canary.health().status == "ok"
    assert not engine.lost
