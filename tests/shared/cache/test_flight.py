"""One computation for requests that are alike."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from onecard.coalescing.single_flight import FlightCancelled, SharedResult, SingleFlight


class FakeWork:
    """A computation that ends when told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.go = asyncio.Event()
        self.error: BaseException | None = None

    async def __call__(self) -> str:
        """Compute."""
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return "answer"


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def crowd(
    flights: SingleFlight[str], work: Callable[[], Awaitable[str]], size: int, key: str = "k"
) -> "list[asyncio.Task[SharedResult[str]]]":
    """So many requests for the same."""
    return [asyncio.create_task(flights.do(key, work)) for _ in range(size)]


async def test_many_share_one_computation() -> None:
    """It runs once; all but the first are told that they shared."""
    flights, work = SingleFlight[str](), FakeWork()
    tasks = crowd(flights, work, 50)
    await settle()
    work.go.set()
    joined = await asyncio.gather(*tasks)
    assert work.begun == 1
    assert [one.result for one in joined] == ["answer"] * 50
    assert sum(one.coalesced for one in joined) == 49
    assert len(flights) == 0


async def test_other_keys_are_other_computations() -> None:
    """And one that has ended is not joined."""
    flights, work = SingleFlight[str](), FakeWork()
    work.go.set()
    await asyncio.gather(*crowd(flights, work, 1, "a"), *crowd(flights, work, 1, "b"))
    await flights.do("a", work)
    assert work.begun == 3


@pytest.mark.parametrize("leaver", [0, 1, 49])
async def test_one_that_leaves_disturbs_nobody(leaver: int) -> None:
    """Not even the one who began."""
    flights, work = SingleFlight[str](), FakeWork()
    tasks = crowd(flights, work, 50)
    await settle()
    tasks.pop(leaver).cancel()
    await settle()
    work.go.set()
    assert {one.result for one in await asyncio.gather(*tasks)} == {"answer"}
    assert (work.begun, work.cancelled) == (1, 0)


async def test_the_last_one_who_leaves_cancels_the_computation() -> None:
    """And whoever comes in the same moment gets a new one, not a dying one."""
    flights, work = SingleFlight[str](), FakeWork()
    tasks = crowd(flights, work, 3)
    await settle()
    for task in tasks:
        task.cancel()
    late = crowd(flights, work, 1)
    await settle()
    assert (work.begun, work.cancelled) == (2, 1)
    work.go.set()
    assert (await late[0]).result == "answer"


async def test_an_exception_reaches_all() -> None:
    """The same one, and its traceback does not grow with their number."""
    flights, work = SingleFlight[str](), FakeWork()
    work.error = ValueError("wrong")
    tasks = crowd(flights, work, 50)
    await settle()
    work.go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes == [work.error] * 50
    depth, frame = 0, work.error.__traceback__
    while frame is not None:
        depth, frame = depth + 1, frame.tb_next
    assert depth < 10
    assert len(flights) == 0


async def test_a_computation_cancelled_from_inside_is_an_error_of_its_own() -> None:
    """Those who wait have not been cancelled, and are not told so."""
    flights, work = SingleFlight[str](), FakeWork()
    work.error = asyncio.CancelledError()
    tasks = crowd(flights, work, 2)
    await settle()
    work.go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [FlightCancelled, FlightCancelled]


async def test_a_deadline_of_one_is_not_a_deadline_of_all() -> None:
    """Each waits as long as it likes."""
    flights, work = SingleFlight[str](), FakeWork()
    patient = crowd(flights, work, 1)
    await settle()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(flights.do("k", work), 0.01)
    work.go.set()
    assert (await patient[0]).result == "answer"


class WorkRefused(Exception):
    """A failure of one caller."""


@pytest.mark.parametrize("leader", ["flooder", "other"])
async def test_a_failure_of_one_caller_is_not_handed_to_those_who_share(leader: str) -> None:
    """Who is refused is refused, whoever came first; the next of the others begins anew, and they share that."""
    flights, began = SingleFlight[str](caller_errors=(WorkRefused,)), asyncio.Event()
    begun: list[str] = []

    async def compute(caller: str) -> str:
        begun.append(caller)
        await began.wait()
        if caller == "flooder":
            raise WorkRefused
        return f"answer for {caller}"

    callers = ["flooder", "other", "other"] if leader == "flooder" else ["other", "flooder", "other"]
    tasks = [asyncio.create_task(flights.do("k", lambda caller=caller: compute(caller))) for caller in callers]  # type: ignore[misc]
    await settle()
    began.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    if leader == "flooder":
        assert isinstance(outcomes[0], WorkRefused)
        assert outcomes[1:] == [
            SharedResult("answer for other", coalesced=False),
            SharedResult("answer for other", coalesced=True),
        ]
        assert begun == ["flooder", "other"]
    else:
        assert [one.result for one in outcomes] == ["answer for other"] * 3  # type: ignore[union-attr]
        assert begun == ["other"]
    assert len(flights) == 0


async def test_each_who_is_refused_hears_it_once() -> None:
    """All of them are, one after the other, and nobody goes round for ever."""
    flights, begun = SingleFlight[str](caller_errors=(WorkRefused,)), 0

    async def refuse() -> str:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0)
        raise WorkRefused

    outcomes = await asyncio.gather(*crowd(flights, refuse, 20), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [WorkRefused] * 20
    assert begun == 20
