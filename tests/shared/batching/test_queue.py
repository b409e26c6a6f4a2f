"""What runs next: the promises of the queue, against random histories."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from onecard.batching.batch_limit import BatchLimit
from onecard.batching.queue import (
    BULK_FILL_DIVISOR,
    BULK_INTERVAL,
    LANES,
    Batch,
    Lane,
    QueuedRequest,
    QueuedText,
    RequestQueue,
)

lanes_ = st.sampled_from(LANES)
lengths_ = st.lists(st.integers(1, 300), min_size=1, max_size=20)
limits_ = st.builds(BatchLimit, texts=st.integers(1, 32), tokens=st.integers(1, 2048))


def ticket(lengths: list[int], lane: Lane = "interactive", deadline: float = 1e9) -> QueuedRequest:
    return QueuedRequest([[1] * length for length in lengths], lane, deadline)


class QueueHistories(RuleBasedStateMachine):
    """Tickets come, leave, are taken, fail to fit and come back, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = RequestQueue()
        self.tickets: list[QueuedRequest] = []
        self.ran: Counter[tuple[int, int]] = Counter()
        self.withdrawn: set[tuple[int, int]] = set()
        self.limit = BatchLimit(1, 1)

    @rule(lengths=lengths_, lane=lanes_)
    def come(self, lengths: list[int], lane: Lane) -> None:
        self.tickets.append(ticket(lengths, lane))
        self.queue.put(self.tickets[-1])

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.queue.drop(data.draw(st.sampled_from(self.tickets)))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.tickets))
        asked = data.draw(st.sets(st.integers(0, len(one.texts) - 1)))
        withdrawn = self.queue.withdraw(one, asked)
        assert withdrawn <= asked
        self.withdrawn |= {(id(one), index) for index in withdrawn}

    @rule(limit=limits_)
    def run(self, limit: BatchLimit) -> None:
        batch = self.take(limit)
        if batch:
            self.ran.update((id(piece.request), piece.index) for piece in batch.items)

    @rule(limit=limits_)
    def run_out_of_memory(self, limit: BatchLimit) -> None:
        batch = self.take(limit)
        if batch:
            self.queue.requeue(batch.items)

    def take(self, limit: BatchLimit) -> Batch | None:
        batch = self.queue.next_batch(limit, now=0)
        if batch is None:
            return None
        assert len(batch.items) == 1 or (
            len(batch.items) <= limit.texts and batch.packing.padded_tokens <= limit.tokens
        )
        assert not any(piece.request.dropped for piece in batch.items)
        for earlier, later in zip(batch.items, batch.items[1:], strict=False):
            if earlier.request is later.request:
                assert earlier.index < later.index
        return batch

    @invariant()
    def nothing_runs_twice(self) -> None:
        assert all(times == 1 for times in self.ran.values())

    @invariant()
    def nothing_runs_that_was_withdrawn(self) -> None:
        assert not self.withdrawn & set(self.ran)

    @invariant()
    def the_counts_are_right(self) -> None:
        for lane in LANES:
            waiting = sum(
                len(ids)
                for one in self.tickets
                if one.lane == lane and not one.dropped
                for index, ids in enumerate(one.texts)
                if (id(one), index) not in self.withdrawn | set(self.ran)
            )
            assert self.queue.tokens(lane) == waiting

    def teardown(self) -> None:
        while self.queue:
            self.run(BatchLimit(32, 2048))
        wanted = {(id(one), index) for one in self.tickets if not one.dropped for index in range(len(one.texts))}
        assert wanted <= self.withdrawn | set(self.ran)


QueueHistories.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestHistories = QueueHistories.TestCase


@given(st.lists(st.tuples(lengths_, lanes_), min_size=1, max_size=20), limits_)
def test_among_equals_the_order_of_arrival_is_kept(requests: list[tuple[list[int], Lane]], limit: BatchLimit) -> None:
    """Within a lane, no text is handed out before one that came earlier."""
    queue = RequestQueue()
    tickets = [ticket(lengths, lane) for lengths, lane in requests]
    for one in tickets:
        queue.put(one)
    taken: list[QueuedText] = []
    while batch := queue.next_batch(limit, now=0):
        taken += batch.items
    for lane in LANES:
        order = [(tickets.index(piece.request), piece.index) for piece in taken if piece.request.lane == lane]
        assert order == sorted(order)


@given(st.lists(lengths_, min_size=1, max_size=5), limits_, st.sampled_from([1, 8]))
def test_widths_are_multiples_of_what_the_device_wants(
    requests: list[list[int]], limit: BatchLimit, multiple: int
) -> None:
    """And the budget counts the width that the device gets."""
    queue = RequestQueue(multiple)
    for lengths in requests:
        queue.put(ticket(lengths))
    while batch := queue.next_batch(limit, now=0):
        assert batch.packing.width % multiple == 0
        assert len(batch.items) == 1 or batch.packing.padded_tokens <= limit.tokens


@given(limits_, st.lists(st.integers(1, 100), min_size=1, max_size=5))
def test_bulk_cannot_starve(limit: BatchLimit, bulk: list[int]) -> None:
    """However much interactive work keeps coming, bulk begins at least every fourth batch."""
    queue = RequestQueue()
    queue.put(ticket(bulk, "bulk"))
    since = 0
    while queue.tokens("bulk"):
        while queue.tokens("interactive") < 10_000:
            queue.put(ticket([50] * 40))
        batch = queue.next_batch(limit, now=0)
        assert batch
        since = 0 if any(piece.request.lane == "bulk" for piece in batch.items) else since + 1
        assert since < BULK_INTERVAL


def test_interactive_goes_first_and_is_not_held_up_by_bulk() -> None:
    """A batch with an interactive text is filled with bulk to a quarter of the budget only."""
    queue = RequestQueue()
    queue.put(ticket([10] * 100, "bulk"))
    queue.put(ticket([10]))
    batch = queue.next_batch(BatchLimit(64, 800), now=0)
    assert batch
    assert batch.items[0].request.lane == "interactive"
    assert batch.tokens <= 800 // BULK_FILL_DIVISOR
    assert len(batch.items) > 1


def test_what_came_back_goes_first_and_in_its_order() -> None:
    """After an out-of-memory error the same texts run in smaller batches, before anything newer."""
    queue = RequestQueue()
    first = ticket([100, 100, 100, 100])
    queue.put(first)
    batch = queue.next_batch(BatchLimit(64, 400), now=0)
    assert batch
    queue.put(ticket([5]))
    queue.requeue(batch.items)
    halves = [queue.next_batch(BatchLimit(64, 200), now=0) for _ in range(2)]
    assert [[piece.index for piece in half.items] for half in halves if half] == [[0, 1], [2, 3]]


def test_nobody_is_waiting_for_what_is_late() -> None:
    """A ticket past its deadline is passed over."""
    queue = RequestQueue()
    queue.put(ticket([5], deadline=1.0))
    queue.put(ticket([6], deadline=9.0))
    batch = queue.next_batch(BatchLimit(8, 100), now=2.0)
    assert batch
    assert [len(ids) for ids in batch.texts] == [6]
