"""Texts under way across requests."""

import asyncio
from collections import Counter
from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.coalescing.batch_single_flight import BatchCall, BatchSingleFlight
from onecard.coalescing.single_flight import FlightCancelled
from tests.shared.cache.test_flight import settle


class FakeModel:
    """Computes `key → upper case`, a text at a time, when told to."""

    def __init__(self, keys: list[bytes]) -> None:
        self.keys = keys
        self.computed: list[bytes] = []
        self.withdrawn: list[bytes] = []
        self.claimed: list[bytes] | None = None
        self.cancelled = False
        self.gate = asyncio.Semaphore(0)

    async def __call__(self, claim: BatchCall[bytes]) -> None:
        """Compute what is claimed."""
        self.claimed = [self.keys[index] for index in claim.indices]
        claim.on_abandoned(self._withdraw)
        try:
            for index in claim.indices:
                await self.gate.acquire()
                if self.keys[index] in self.withdrawn:
                    continue
                self.computed.append(self.keys[index])
                claim.deliver(index, self.keys[index].upper())
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    def _withdraw(self, indices: Collection[int]) -> Collection[int]:
        self.withdrawn += [self.keys[index] for index in indices]
        return indices

    def go(self, texts: int = 1000) -> None:
        """Let it compute so many more."""
        for _ in range(texts):
            self.gate.release()


async def test_each_text_is_computed_once_across_requests_and_inside_one() -> None:
    """The second request claims only what the first has not."""
    flights = BatchSingleFlight[bytes]()
    one, two = FakeModel([b"a", b"b", b"a"]), FakeModel([b"b", b"c", b"c"])
    first = asyncio.create_task(flights.do(one.keys, one))
    await settle()
    second = asyncio.create_task(flights.do(two.keys, two))
    await settle()
    assert (one.claimed, two.claimed) == ([b"a", b"b"], [b"c"])
    one.go()
    two.go()
    assert (await first).results == [b"A", b"B", b"A"]
    assert (await second).results == [b"B", b"C", b"C"]
    assert ((await first).coalesced, (await second).coalesced) == (0, 1)
    assert len(flights) == 0


async def test_a_request_whose_texts_are_all_under_way_computes_nothing() -> None:
    """It only waits, and only for its own texts: not for the rest of the other's batch."""
    flights = BatchSingleFlight[bytes]()
    one, two = FakeModel([b"a", b"b"]), FakeModel([b"a"])
    first = asyncio.create_task(flights.do(one.keys, one))
    await settle()
    second = asyncio.create_task(flights.do(two.keys, two))
    await settle()
    one.go(1)
    assert (await second).results == [b"A"]
    assert two.claimed is None
    assert not first.done()
    one.go()
    await first


async def test_the_owner_leaves_and_the_work_goes_on_for_followers() -> None:
    """For what they wait for; the rest is no longer wanted."""
    flights = BatchSingleFlight[bytes]()
    one, two = FakeModel([b"a", b"b", b"c"]), FakeModel([b"c"])
    first = asyncio.create_task(flights.do(one.keys, one))
    await settle()
    second = asyncio.create_task(flights.do(two.keys, two))
    await settle()
    first.cancel()
    await settle()
    assert not one.cancelled
    one.go()
    assert (await second).results == [b"C"]
    assert (one.computed, one.withdrawn) == ([b"c"], [b"a", b"b"])


async def test_a_text_of_an_owner_who_left_can_be_joined_again() -> None:
    """It has been taken out of the work, so that it is computed anew."""
    flights = BatchSingleFlight[bytes]()
    one, two, three = FakeModel([b"a", b"b"]), FakeModel([b"b"]), FakeModel([b"a"])
    first = asyncio.create_task(flights.do(one.keys, one))
    await settle()
    second = asyncio.create_task(flights.do(two.keys, two))
    await settle()
    first.cancel()
    await settle()
    third = asyncio.create_task(flights.do(three.keys, three))
    await settle()
    one.go()
    three.go()
    assert (await third).results == [b"A"]
    assert (await second).results == [b"B"]
    assert (one.computed, three.computed) == ([b"b"], [b"a"])


async def test_when_all_have_left_the_work_is_cancelled() -> None:
    """And whoever comes in the same moment gets a new one."""
    flights = BatchSingleFlight[bytes]()
    one, two = FakeModel([b"a"]), FakeModel([b"a"])
    first = asyncio.create_task(flights.do(one.keys, one))
    await settle()
    first.cancel()
    await asyncio.sleep(0)
    second = asyncio.create_task(flights.do(two.keys, two))
    await settle()
    assert one.cancelled
    two.go()
    assert (await second).results == [b"A"]


class Busy(Exception):
    """A failure of one request's terms."""


@pytest.mark.parametrize("leader_leaves", [False, True])
async def test_the_terms_of_one_request_do_not_fail_another(leader_leaves: bool) -> None:
    """Who follows a request that is refused computes the rest itself, and keeps what it has begun and been given."""
    flights = BatchSingleFlight[bytes](caller_errors=(Busy,))
    refused = asyncio.Event()

    async def is_refused(claim: BatchCall[bytes]) -> None:
        claim.deliver(0, b"A")
        await refused.wait()
        raise Busy

    two = FakeModel([b"a", b"b", b"c"])
    first = asyncio.create_task(flights.do([b"a", b"b"], is_refused))
    second = asyncio.create_task(flights.do(two.keys, two))
    await settle()
    if leader_leaves:
        first.cancel()
        await settle()
    refused.set()
    await settle()
    two.go()
    assert (await second).results == [b"A", b"B", b"C"]
    assert (two.computed, (await second).coalesced) == ([b"c", b"b"], 1)
    with pytest.raises(asyncio.CancelledError if leader_leaves else Busy):
        await first
    assert len(flights) == 0


async def test_who_follows_is_not_failed_by_its_own_terms() -> None:
    """The other order: one that would be refused shares what another computes, and the other never hears of it."""
    flights = BatchSingleFlight[bytes](caller_errors=(Busy,))

    async def is_refused(claim: BatchCall[bytes]) -> None:
        raise Busy

    one = FakeModel([b"a", b"b"])
    first = asyncio.create_task(flights.do(one.keys, one))
    await settle()
    shares = asyncio.create_task(flights.do([b"b"], is_refused))
    wants_more = asyncio.create_task(flights.do([b"a", b"c"], is_refused))
    await settle()
    with pytest.raises(Busy):
        await wants_more
    one.go()
    assert ((await first).results, (await shares).results) == ([b"A", b"B"], [b"B"])
    assert len(flights) == 0


async def test_an_exception_reaches_whom_it_concerns() -> None:
    """Those who wait for a text that was not delivered; not the one whose text was."""
    flights = BatchSingleFlight[bytes]()

    async def breaks(claim: BatchCall[bytes]) -> None:
        await asyncio.sleep(0.01)
        claim.deliver(0, b"A")
        raise ValueError("wrong")

    one, two = FakeModel([b"a"]), FakeModel([b"b"])
    first = asyncio.create_task(flights.do([b"a", b"b"], breaks))
    await settle()
    lucky = asyncio.create_task(flights.do(one.keys, one))
    unlucky = asyncio.create_task(flights.do(two.keys, two))
    outcomes = await asyncio.gather(first, lucky, unlucky, return_exceptions=True)
    assert isinstance(outcomes[0], ValueError)
    assert outcomes[1].results == [b"A"]  # type: ignore[union-attr]
    assert isinstance(outcomes[2], ValueError)
    assert len(flights) == 0


async def test_what_is_wrong_with_a_text_concerns_those_who_wait_for_it() -> None:
    """The rest of a request that fails for it is computed by those who wait for the rest."""
    flights = BatchSingleFlight[bytes](caller_errors=(ValueError,))
    begun = asyncio.Event()

    async def breaks(claim: BatchCall[bytes]) -> None:
        await begun.wait()
        claim.fail(0, ValueError("wrong"))
        raise ValueError("wrong")

    one, two = FakeModel([b"a"]), FakeModel([b"b"])
    first = asyncio.create_task(flights.do([b"a", b"b"], breaks))
    await settle()
    unlucky = asyncio.create_task(flights.do(one.keys, one))
    lucky = asyncio.create_task(flights.do(two.keys, two))
    await settle()
    two.go()
    begun.set()
    outcomes = await asyncio.gather(first, unlucky, lucky, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[:2]] == [ValueError] * 2
    assert outcomes[2].results == [b"B"]  # type: ignore[union-attr]
    assert (one.claimed, two.claimed) == (None, [b"b"])
    assert len(flights) == 0


@pytest.mark.parametrize(("error", "seen"), [(asyncio.CancelledError(), FlightCancelled), (None, RuntimeError)])
async def test_nobody_waits_for_ever(error: BaseException | None, seen: type[Exception]) -> None:
    """A computation that is cancelled from inside, or forgets a text, is an error to those who wait."""
    flights = BatchSingleFlight[bytes]()

    async def ends(claim: BatchCall[bytes]) -> None:
        if error is not None:
            raise error

    with pytest.raises(seen):
        await flights.do([b"a"], ends)
    assert len(flights) == 0


async def test_no_texts_are_no_work() -> None:
    """An empty request returns at once."""
    model = FakeModel([])
    assert (await BatchSingleFlight[bytes]().do([], model)).results == []
    assert model.claimed is None


steps = st.lists(
    st.tuples(st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=5), st.booleans(), st.integers(0, 3)),
    max_size=8,
)


@settings(max_examples=60)
@given(steps)
def test_any_coming_and_going(requests: list[tuple[list[bytes], bool, int]]) -> None:
    """Whoever stays gets the right results; nothing is computed twice while it is under way; nothing is left over."""

    async def scenario() -> None:
        flights = BatchSingleFlight[bytes]()
        under_way: Counter[bytes] = Counter()
        staying: list[tuple[list[bytes], asyncio.Task[object]]] = []

        def model(keys: list[bytes], patience: int):  # type: ignore[no-untyped-def]
            async def compute(claim: BatchCall[bytes]) -> None:
                mine = [keys[index] for index in claim.indices]
                under_way.update(mine)
                assert all(under_way[key] == 1 for key in mine)
                try:
                    for index in claim.indices:
                        for _ in range(patience):
                            await asyncio.sleep(0)
                        under_way[keys[index]] -= 1
                        mine.remove(keys[index])
                        claim.deliver(index, keys[index].upper())
                finally:
                    under_way.subtract(mine)

            return compute

        for keys, leaves, patience in requests:
            task: asyncio.Task[object] = asyncio.create_task(flights.do(keys, model(keys, patience)))
            await asyncio.sleep(0)
            if leaves:
                task.cancel()
                await settle()
            else:
                staying.append((keys, task))
        for keys, task in staying:
            assert (await task).results == [key.upper() for key in keys]  # type: ignore[attr-defined]
        await settle()
        assert len(flights) == 0

    asyncio.run(scenario())
