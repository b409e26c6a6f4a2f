"""Which attempts are repeated."""

import math
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.outcomes import Failure
from gateway.upstream.deadline import Deadline
from gateway.upstream.retry_policy import (
    MAX_ATTEMPTS,
    MAX_RETRY_AFTER_SECONDS,
    MIN_RETRIES,
    MIN_RETRIES_PER_SECOND,
    RETRY_RATIO,
    AttemptFailed,
    RetryBudget,
    RetryPolicy,
)
from onecard.web.disconnect import ClientDisconnected

OPEN_END = Deadline(math.inf, lambda: 0.0)


def rules(replicas: int, *, deadline: Deadline = OPEN_END, budget: RetryBudget | None = None) -> RetryPolicy:
    """The rules for a request to a service with so many replicas, all in service."""

    def elsewhere(tried: Collection[int]) -> bool:
        return len(tried) < replicas

    return RetryPolicy(elsewhere, budget or RetryBudget(lambda: 0.0), deadline)


class SimulatedService:
    """Fails a request as often as it is told to, each time at another replica if there is one."""

    def __init__(self, retries: RetryPolicy, failures: list[AttemptFailed]) -> None:
        self.failures = failures
        self.retries = retries
        self.seen: list[set[int]] = []

    async def attempt(self) -> str:
        self.seen.append(set(self.retries.tried))
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


@given(st.lists(st.sampled_from(["request", "retry", "second"]), max_size=400))
def test_retries_never_exceed_their_budget(events: list[str]) -> None:
    """A fifth of the requests, beside a few for a quiet gateway."""
    now = 0.0
    budget = RetryBudget(lambda: now)
    requests = retries = 0
    for event in events:
        if event == "second":
            now += 1
        elif event == "request":
            budget.deposit()
            requests += 1
        else:
            retries += budget.withdraw()
        assert retries <= MIN_RETRIES + RETRY_RATIO * requests + MIN_RETRIES_PER_SECOND * now + 1e-6


def test_a_quiet_gateway_can_always_retry_again_after_a_while() -> None:
    """A budget that is spent comes back without any requests."""
    now = 0.0
    budget = RetryBudget(lambda: now)
    while budget.withdraw():
        pass
    now += 2 / MIN_RETRIES_PER_SECOND
    assert budget.withdraw()


async def test_each_attempt_knows_where_the_request_has_been() -> None:
    """So that it goes elsewhere."""
    retries = rules(3)
    service = SimulatedService(retries, [AttemptFailed("error", 1), AttemptFailed("silent", 0)])
    assert await retries.run(service.attempt) == "answer"
    assert service.seen == [set(), {1}, {0, 1}]


@pytest.mark.parametrize(
    ("failure", "retry_after", "repeated"),
    [
        ("away", None, True),
        ("refused", None, True),
        ("refused", 0.01, True),
        ("refused", MAX_RETRY_AFTER_SECONDS + 1, False),
        ("full", 0.01, False),
        ("error", None, False),
        ("silent", None, False),
    ],
)
async def test_the_same_replica_is_asked_again_only_if_it_may_do_better(
    failure: Failure, retry_after: float | None, repeated: bool
) -> None:
    """With another one in service, all of these are repeated there, whatever Retry-After the first one gave."""
    for replicas in (1, 2):
        retries = rules(replicas)
        service = SimulatedService(retries, [AttemptFailed(failure, 0, retry_after)])
        if repeated or replicas == 2:
            assert await retries.run(service.attempt) == "answer"
        else:
            with pytest.raises(AttemptFailed):
                await retries.run(service.attempt)
        assert len(service.seen) == (2 if repeated or replicas == 2 else 1)


@pytest.mark.parametrize("replica", [0, None])
async def test_the_last_failure_is_what_remains_of_too_many(replica: int | None) -> None:
    """Attempts are counted also when no replica could be asked."""
    retries = rules(1)
    failures = [AttemptFailed("away", replica) for _ in range(10)]
    service = SimulatedService(retries, list(failures))
    with pytest.raises(AttemptFailed) as raised:
        await retries.run(service.attempt)
    assert len(service.seen) == MAX_ATTEMPTS
    assert raised.value is failures[MAX_ATTEMPTS - 1]


@pytest.mark.parametrize("left", [0.0, 1.0])
async def test_nothing_is_repeated_that_would_be_too_late(left: float) -> None:
    """A Retry-After counts only when the client is still there by then."""
    retries = rules(1, deadline=Deadline(left, lambda: 0.0))
    service = SimulatedService(retries, [AttemptFailed("refused", 0, MAX_RETRY_AFTER_SECONDS)])
    with pytest.raises(AttemptFailed):
        await retries.run(service.attempt)
    assert len(service.seen) == 1


async def test_without_budget_the_first_failure_stands() -> None:
    """A service that fails for everybody gets each request once."""
    budget = RetryBudget(lambda: 0.0)
    while budget.withdraw():
        pass
    retries = rules(2, budget=budget)
    service = SimulatedService(retries, [AttemptFailed("error", 0)])
    with pytest.raises(AttemptFailed):
        await retries.run(service.attempt)


async def test_what_is_no_failed_attempt_is_not_repeated() -> None:
    """A client that left, a fault of the gateway."""
    calls = []

    async def attempt() -> None:
        calls.append(1)
        raise ClientDisconnected

    with pytest.raises(ClientDisconnected):
        await rules(2).run(attempt)
    assert len(calls) == 1
