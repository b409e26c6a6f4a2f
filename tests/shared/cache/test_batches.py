"""Many callers' questions in one."""

import asyncio
from collections.abc import Coroutine, Sequence

import pytest

from onecard.redis.autopipeline import MAX_BATCH_ITEMS, AutoPipeline, RedisUnavailable


def soon(question: Coroutine[None, None, list[int]]) -> "asyncio.Task[list[int]]":
    """Asked in the next turn, together with all others that are asked then."""
    return asyncio.create_task(question)


class FakeStore:
    """Answers each item with its double, when it is let."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def fetch(self, items: Sequence[int]) -> list[int]:
        self.asked.append(list(items))
        await self.open.wait()
        if 13 in items:
            raise OSError("gone")
        return [2 * item for item in items]


@pytest.fixture
def server() -> FakeStore:
    return FakeStore()


@pytest.fixture
def late() -> list[str]:
    return []


@pytest.fixture
def batches(server: FakeStore, late: list[str]) -> AutoPipeline[int, int]:
    return AutoPipeline(server.fetch, 0.05, late.append)


async def test_all_who_ask_in_one_turn_are_one_question(server: FakeStore, batches: AutoPipeline[int, int]) -> None:
    """And each gets the answers to what he asked."""
    one, none, two = await asyncio.gather(batches.execute([1, 2]), batches.execute([]), batches.execute([3]))
    assert (one, none, two) == ([2, 4], [], [6])
    assert server.asked == [[1, 2, 3]]


async def test_a_failure_is_that_of_its_batch_alone(server: FakeStore, batches: AutoPipeline[int, int]) -> None:
    crowd = [batches.execute([1]), batches.execute([13])]
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OSError, OSError]
    assert await batches.execute([1]) == [2]


async def test_who_waits_too_long_gets_no_answer_and_its_late_answer_reaches_nobody(
    server: FakeStore, batches: AutoPipeline[int, int], late: list[str]
) -> None:
    server.open.clear()
    with pytest.raises(RedisUnavailable, match="silent"):
        await batches.execute([1])
    assert late == ["silent"]
    server.open.set()
    assert await batches.execute([2]) == [4]
    await batches.close()


async def test_a_crowd_makes_few_questions(server: FakeStore, batches: AutoPipeline[int, int], late: list[str]) -> None:
    """While those are under way, all others wait for the next; whoever has left takes nothing from the rest."""
    server.open.clear()
    crowd = []
    for number in range(20, 120):
        crowd.append(soon(batches.execute([number])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    for answer in crowd[::2]:
        answer.cancel()
    server.open.set()
    answers = await asyncio.gather(*crowd, return_exceptions=True)
    assert answers[1::2] == [[2 * number] for number in range(21, 120, 2)]
    assert len(server.asked) == 5
    assert late == []


async def test_one_question_has_a_bound(server: FakeStore, batches: AutoPipeline[int, int]) -> None:
    """Whoever asks for more asks several, and has all answers in order."""
    few, many = await asyncio.gather(batches.execute(range(20, 220)), batches.execute(range(1_000, 2_000)))
    assert few == list(range(40, 440, 2))
    assert many == list(range(2_000, 4_000, 2))
    assert max(map(len, server.asked)) <= MAX_BATCH_ITEMS


@pytest.mark.parametrize("hangs", [False, True])
async def test_much_takes_longer_than_little_as_long_as_answers_come(hangs: bool, late: list[str]) -> None:
    """Each part that is answered buys the rest another wait; a server that is silent is waited for once."""
    lets_go = asyncio.Event()

    async def fetch(items: Sequence[int]) -> list[int]:
        await (lets_go.wait() if hangs else asyncio.sleep(0.04))
        return list(items)

    batches, many = AutoPipeline(fetch, 0.05, late.append), range(20 * MAX_BATCH_ITEMS)
    if hangs:
        with pytest.raises(RedisUnavailable, match="silent"):
            await batches.execute(many)
        assert late[0] == "silent"
    else:
        assert await batches.execute(many) == list(many)
        assert late == []
    await batches.close()


async def test_slow_is_told_from_silent(server: FakeStore, late: list[str]) -> None:
    """Whoever gets no answer while others do has a slow server, not a silent one."""
    hangs = asyncio.Event()

    async def fetch(items: Sequence[int]) -> list[int]:
        if 1 in items:
            await hangs.wait()
        return list(items)

    batches = AutoPipeline(fetch, 0.05, late.append)
    waiting = soon(batches.execute([1]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await batches.execute([2]) == [2]
    with pytest.raises(RedisUnavailable, match="slow"):
        await waiting
    assert late == ["slow"]
    await batches.close()


async def test_closing_ends_what_waits(server: FakeStore, batches: AutoPipeline[int, int]) -> None:
    """Nobody hangs, and no task is left."""
    server.open.clear()
    crowd = []
    for number in range(8):
        crowd.append(soon(batches.execute([number])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await batches.close()
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["closed"] * 8
    assert len(asyncio.all_tasks()) == 1
