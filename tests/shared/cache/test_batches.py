"""Many callers' questions in one."""

import asyncio
from collections.abc import Coroutine, Sequence

import pytest

from onecard.cache.batches import MOST_ITEMS, Batches, NoAnswer


def soon(question: Coroutine[None, None, list[int]]) -> "asyncio.Task[list[int]]":
    """Asked in the next turn, together with all others that are asked then."""
    return asyncio.create_task(question)


class Server:
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
def server() -> Server:
    return Server()


@pytest.fixture
def late() -> list[str]:
    return []


@pytest.fixture
def batches(server: Server, late: list[str]) -> Batches[int, int]:
    return Batches(server.fetch, 0.05, late.append)


async def test_all_who_ask_in_one_turn_are_one_question(server: Server, batches: Batches[int, int]) -> None:
    """And each gets the answers to what he asked."""
    one, none, two = await asyncio.gather(batches.ask([1, 2]), batches.ask([]), batches.ask([3]))
    assert (one, none, two) == ([2, 4], [], [6])
    assert server.asked == [[1, 2, 3]]


async def test_a_failure_is_that_of_its_batch_alone(server: Server, batches: Batches[int, int]) -> None:
    crowd = [batches.ask([1]), batches.ask([13])]
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OSError, OSError]
    assert await batches.ask([1]) == [2]


async def test_who_waits_too_long_gets_no_answer_and_its_late_answer_reaches_nobody(
    server: Server, batches: Batches[int, int], late: list[str]
) -> None:
    server.open.clear()
    with pytest.raises(NoAnswer, match="silent"):
        await batches.ask([1])
    assert late == ["silent"]
    server.open.set()
    assert await batches.ask([2]) == [4]
    await batches.close()


async def test_a_crowd_makes_few_questions(server: Server, batches: Batches[int, int], late: list[str]) -> None:
    """While those are under way, all others wait for the next; whoever has left takes nothing from the rest."""
    server.open.clear()
    crowd = []
    for number in range(20, 120):
        crowd.append(soon(batches.ask([number])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    for answer in crowd[::2]:
        answer.cancel()
    server.open.set()
    answers = await asyncio.gather(*crowd, return_exceptions=True)
    assert answers[1::2] == [[2 * number] for number in range(21, 120, 2)]
    assert len(server.asked) == 5
    assert late == []


async def test_one_question_has_a_bound(server: Server, batches: Batches[int, int]) -> None:
    """Whoever asks for more asks several, and has all answers in order."""
    few, many = await asyncio.gather(batches.ask(range(20, 220)), batches.ask(range(1_000, 2_000)))
    assert few == list(range(40, 440, 2))
    assert many == list(range(2_000, 4_000, 2))
    assert max(map(len, server.asked)) <= MOST_ITEMS


@pytest.mark.parametrize("hangs", [False, True])
async def test_much_takes_longer_than_little_as_long_as_answers_come(hangs: bool, late: list[str]) -> None:
    """Each part that is answered buys the rest another wait; a server that is silent is waited for once."""
    lets_go = asyncio.Event()

    async def fetch(items: Sequence[int]) -> list[int]:
        await (lets_go.wait() if hangs else asyncio.sleep(0.04))
        return list(items)

    batches, many = Batches(fetch, 0.05, late.append), range(20 * MOST_ITEMS)
    if hangs:
        with pytest.raises(NoAnswer, match="silent"):
            await batches.ask(many)
        assert late[0] == "silent"
    else:
        assert await batches.ask(many) == list(many)
        assert late == []
    await batches.close()


async def test_slow_is_told_from_silent(server: Server, late: list[str]) -> None:
    """Whoever gets no answer while others do has a slow server, not a silent one."""
    hangs = asyncio.Event()

    async def fetch(items: Sequence[int]) -> list[int]:
        if 1 in items:
            await hangs.wait()
        return list(items)

    batches = Batches(fetch, 0.05, late.append)
    waiting = soon(batches.ask([1]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await batches.ask([2]) == [2]
    with pytest.raises(NoAnswer, match="slow"):
        await waiting
    assert late == ["slow"]
    await batches.close()


async def test_closing_ends_what_waits(server: Server, batches: Batches[int, int]) -> None:
    """Nobody hangs, and no task is left."""
    server.open.clear()
    crowd = []
    for number in range(8):
        crowd.append(soon(batches.ask([number])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await batches.close()
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["closed"] * 8
    assert len(asyncio.all_tasks()) == 1
