"""The queue by single cases, at the edges where one more or one less changes what runs. See docs/mutation.md."""

from dataclasses import FrozenInstanceError

import pytest

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

WIDE = BatchLimit(64, 10_000)


def ticket(*lengths: int, lane: Lane = "interactive", deadline: float = 100.0) -> QueuedRequest:
    return QueuedRequest([[1] * length for length in lengths], lane, deadline)


def queue_of(*tickets: QueuedRequest) -> RequestQueue:
    queue = RequestQueue()
    for one in tickets:
        queue.put(one)
    return queue


def took(queue: RequestQueue, limit: BatchLimit = WIDE, now: float = 0.0) -> list[int]:
    """Lengths of the texts of the next batch; none where there is none."""
    batch = queue.next_batch(limit, now)
    return [len(ids) for ids in batch.texts] if batch else []


def test_the_defaults_are_what_the_documents_say() -> None:
    """Every fourth batch begins with bulk, bulk fills up a quarter, interactive comes first."""
    assert (BULK_INTERVAL, BULK_FILL_DIVISOR, LANES) == (4, 4, ("interactive", "bulk"))
    fresh = ticket(1)
    assert (fresh.next_index, fresh.dropped, fresh.withdrawn) == (0, False, set())
    assert RequestQueue().width_multiple == 1


def test_a_ticket_waits_for_what_is_neither_taken_nor_withdrawn() -> None:
    """By index, and by tokens; dropped, for nothing."""
    one = ticket(1, 2, 4, 8)
    one.next_index, one.withdrawn = 1, {2}
    assert list(one.pending_indices) == [1, 3]
    assert one.pending_tokens == 10
    one.dropped = True
    assert one.pending_tokens == 0


def test_tickets_of_the_same_texts_are_two() -> None:
    """They are found by who they are: two clients may ask for the same."""
    first, second = ticket(3), ticket(3)
    assert first != second
    queue = queue_of(first, second)
    queue.drop(second)
    assert queue.tokens("interactive") == 3
    batch = queue.next_batch(WIDE, 0)
    assert batch is not None
    assert batch.items[0].request is first


def test_a_batch_that_no_queue_made() -> None:
    """Each text once, in order, in rows of the width asked for."""
    batch = Batch.from_texts([[5], [6, 7]], multiple=8)
    assert batch.texts == [[5], [6, 7]]
    assert (batch.tokens, batch.packing.width) == (3, 8)
    assert (batch.items[0].request.lane, batch.items[0].request.deadline) == ("interactive", 0)
    assert Batch.from_texts([[5], [6, 7]]).packing.width == 3
    with pytest.raises(FrozenInstanceError):
        batch.items[0].index = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        batch.items = []  # type: ignore[misc]


@pytest.mark.parametrize("lane", LANES)
def test_a_queue_is_true_while_anything_waits(lane: Lane) -> None:
    """In either lane; and each lane has its own count."""
    assert not RequestQueue()
    queue = queue_of(ticket(2, 3, lane=lane))
    assert queue
    assert [queue.tokens(one) for one in LANES] == [5 if one == lane else 0 for one in LANES]
    assert took(queue) == [2, 3]
    assert not queue
    assert queue.next_batch(WIDE, 0) is None


def test_only_what_still_waits_counts_when_a_ticket_comes() -> None:
    """A ticket of which a part was taken, or withdrawn, before."""
    one = ticket(1, 2, 4)
    one.next_index, one.withdrawn = 1, {1}
    assert queue_of(one).tokens("interactive") == 4


def test_a_ticket_may_be_dropped_twice_and_in_any_state() -> None:
    """Waiting, half taken, taken, and come back: its tokens are gone, and those of others stay."""
    for taken in (0, 1, 2):
        one, other = ticket(3, 5), ticket(7, lane="bulk")
        queue = queue_of(one, other)
        if taken:
            took(queue, BatchLimit(taken, 100))
        queue.drop(one)
        queue.drop(one)
        assert (queue.tokens("interactive"), queue.tokens("bulk")) == (0, 7)
        assert took(queue) == [7]
    one, other = ticket(3, 5), ticket(7)
    queue = queue_of(one, other)
    batch = queue.next_batch(WIDE, 0)
    assert batch is not None
    queue.requeue(batch.items)
    queue.drop(one)
    assert queue.tokens("interactive") == 7
    assert took(queue) == [7]


def test_nothing_comes_back_for_a_ticket_that_was_dropped() -> None:
    """It was dropped while the batch ran out of memory; the rest of the batch comes back."""
    one, other = ticket(3), ticket(5)
    queue = queue_of(one, other)
    batch = queue.next_batch(WIDE, 0)
    assert batch is not None
    queue.drop(one)
    queue.requeue(batch.items)
    assert queue.tokens("interactive") == 5
    assert took(queue) == [5]


def test_what_comes_back_later_goes_first() -> None:
    """Two batches that were begun one after the other, and failed in that order from the end."""
    queue = queue_of(ticket(1, 2, 3, 4))
    first, second = queue.next_batch(BatchLimit(2, 100), 0), queue.next_batch(BatchLimit(2, 100), 0)
    assert first is not None
    assert second is not None
    queue.requeue(second.items)
    queue.requeue(first.items)
    assert queue.tokens("interactive") == 10
    assert took(queue, BatchLimit(3, 100)) == [1, 2, 3]
    assert took(queue) == [4]


def test_only_what_waits_can_be_withdrawn() -> None:
    """What was taken, or withdrawn before, or belongs to a dropped ticket, is not returned, and costs no tokens."""
    one = ticket(1, 2, 4, 8)
    queue = queue_of(one)
    took(queue, BatchLimit(1, 100))
    assert queue.withdraw(one, [0, 1, 3]) == {1, 3}
    assert queue.withdraw(one, [1]) == set()
    assert queue.tokens("interactive") == 4
    assert took(queue) == [4]
    other = ticket(1, 2)
    queue.put(other)
    queue.drop(other)
    assert queue.withdraw(other, [0]) == set()
    assert queue.tokens("interactive") == 0


def test_a_deadline_that_is_now_is_over() -> None:
    """For what waits, and for what came back; a moment earlier it is not."""
    queue = queue_of(ticket(3, deadline=5.0), ticket(4, deadline=6.0))
    assert took(queue, now=5.0) == [4]
    queue = queue_of(ticket(3, deadline=5.0))
    batch = queue.next_batch(WIDE, now=4.9)
    assert batch is not None
    queue.requeue(batch.items)
    assert queue.tokens("interactive") == 3
    assert queue.next_batch(WIDE, now=5.0) is None
    assert queue.tokens("interactive") == 0


def test_every_fourth_batch_begins_with_bulk() -> None:
    """While both wait; the rest of that batch is interactive. Full batches leave no room for filling up."""
    queue = queue_of(ticket(*[10] * 20), ticket(*[11] * 4, lane="bulk"))
    batches = [took(queue, BatchLimit(4, 40)) for _ in range(8)]
    assert batches[:3] == [[10] * 4] * 3
    assert batches[3] == [11, 11, 11]  # A fourth would be over 40 tokens.
    assert batches[4:6] == [[10] * 4] * 2
    assert [len(batch) for batch in batches[6:]] == [1, 0]


def test_bulks_turn_is_filled_up_with_interactive_texts() -> None:
    """And the turns are counted anew after it."""
    queue = queue_of(ticket(*[10] * 40), ticket(9, lane="bulk"))
    batches = [took(queue, BatchLimit(4, 40)) for _ in range(3)]
    queue.put(ticket(8, 8, lane="bulk"))
    batches += [took(queue, BatchLimit(4, 40)) for _ in range(5)]
    assert [batch[0] for batch in batches] == [10, 10, 10, 9, 10, 10, 10, 10]
    assert batches[3] == [9, 8, 8, 10]


def test_no_turn_is_counted_while_no_bulk_waits() -> None:
    """Bulk that comes then has to let three batches go first."""
    queue = queue_of(ticket(*[10] * 100))
    for _ in range(6):
        took(queue, BatchLimit(4, 40))
    queue.put(ticket(9, lane="bulk"))
    assert [took(queue, BatchLimit(4, 40))[0] for _ in range(4)] == [10, 10, 10, 9]


def test_what_comes_back_takes_no_turn() -> None:
    """A batch of it is neither one more without bulk nor one with it."""
    queue = queue_of(ticket(*[10] * 40), ticket(9, lane="bulk"))
    for _ in range(2):
        took(queue, BatchLimit(4, 40))
    for _ in range(3):
        batch = queue.next_batch(BatchLimit(4, 40), 0)
        assert batch is not None
        assert [len(ids) for ids in batch.texts] == [10] * 4
        queue.requeue(batch.items)
    assert took(queue, BatchLimit(4, 40)) == [10] * 4
    assert took(queue, BatchLimit(4, 40))[0] == 9


def test_bulk_fills_up_to_a_quarter_and_to_the_last_token() -> None:
    """One interactive text of 10 and 19 of bulk are 200 of 800; alone, bulk has all of it."""
    queue = queue_of(ticket(10), ticket(*[10] * 200, lane="bulk"))
    assert took(queue, BatchLimit(64, 800)) == [10] * 20
    assert took(queue, BatchLimit(200, 800)) == [10] * 80
    queue = queue_of(ticket(10), ticket(*[10] * 200, lane="bulk"))
    assert took(queue, BatchLimit(64, 803)) == [10] * 20
    queue = queue_of(ticket(10), ticket(*[10] * 200, lane="bulk"))
    assert took(queue, BatchLimit(5, 800)) == [10] * 5


def test_a_batch_is_full_to_the_last_token_and_text() -> None:
    """And one text is a batch, however long."""
    assert took(queue_of(ticket(10, 20, 30)), BatchLimit(9, 60)) == [10, 20, 30]
    assert took(queue_of(ticket(10, 20, 30)), BatchLimit(9, 59)) == [10, 20]
    assert took(queue_of(ticket(10, 20, 30)), BatchLimit(2, 60)) == [10, 20]
    assert took(queue_of(ticket(90, 20)), BatchLimit(9, 60)) == [90]
    # In order: what would fit behind one that does not has to wait.
    assert took(queue_of(ticket(10, 60, 5)), BatchLimit(9, 60)) == [10]


def test_padding_counts_against_the_limit() -> None:
    """Texts of 50, 40 and 30 tokens lie in rows of 70: 140 tokens with what is left empty."""
    assert took(queue_of(ticket(50, 40, 30)), BatchLimit(9, 140)) == [50, 40, 30]
    assert took(queue_of(ticket(50, 40, 30)), BatchLimit(9, 139)) == [50, 40]
    queue = queue_of(ticket(100, *[1] * 7))
    assert took(queue, BatchLimit(9, 107)) == [100]
    assert took(queue, BatchLimit(9, 107)) == [1] * 7


def test_a_batch_is_cut_in_proportion_to_what_is_too_much() -> None:
    """Eight texts take 200 tokens of 170, so six of them are tried: a batch of hundreds is not laid out anew for each
    text that it loses."""
    queue = queue_of(ticket(*[10] * 7, 100))
    assert took(queue, BatchLimit(9, 170)) == [10] * 6
    assert [took(queue, BatchLimit(9, 170)) for _ in range(2)] == [[10], [100]]


def test_a_text_that_is_cut_off_a_batch_is_handed_out_next() -> None:
    """Nothing is lost, and nothing runs twice."""
    queue = queue_of(ticket(50, 40, 30), ticket(20))
    assert took(queue, BatchLimit(9, 139)) == [50, 40]
    assert queue.tokens("interactive") == 50
    assert took(queue) == [30, 20]


def test_rows_have_the_width_that_the_device_wants() -> None:
    """Counted before the limit is compared: seven tokens in rows of 8 are 8."""
    queue = RequestQueue(8)
    queue.put(ticket(3, 4, 1))
    batch = queue.next_batch(BatchLimit(9, 8), 0)
    assert batch is not None
    assert (batch.packing.width, batch.packing.padded_tokens, batch.tokens) == (8, 8, 8)
    assert isinstance(batch.items[0], QueuedText)
