"""The queue in front of the device: what waits, and what runs next. Pure: no clock, no thread, no I/O."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from onecard.batching.batch_limit import BatchLimit
from onecard.batching.sequence_packing import PackedRows, pack

TokenIds = Sequence[int]
"""One text as the model reads it, including special tokens."""

Lane = Literal["interactive", "bulk"]
"""Interactive requests go first; bulk is for requests that can wait."""
LANES: tuple[Lane, ...] = ("interactive", "bulk")

BULK_INTERVAL = 4
"""While both lanes have requests, every fourth batch begins with bulk, so that bulk cannot starve."""
BULK_FILL_DIVISOR = 4
"""An interactive batch is filled up with bulk texts to this part (1/4) of the token limit: that delays the interactive
texts little and leaves no device idle."""


@dataclass(eq=False)
class QueuedRequest:
    """The texts of one request, and how far they have been scheduled."""

    texts: Sequence[TokenIds]
    lane: Lane
    deadline: float
    """Time on the caller's clock, in seconds, after which nobody waits for the results."""
    next_index: int = 0
    """All texts before this index have been scheduled or skipped; texts are scheduled in order."""
    dropped: bool = False
    """Whether the whole request has left the queue."""
    withdrawn: set[int] = field(default_factory=set)
    """Indices of texts to skip."""

    @property
    def pending_indices(self) -> Iterator[int]:
        """Indices of the texts that are not scheduled yet."""
        return (index for index in range(self.next_index, len(self.texts)) if index not in self.withdrawn)

    @property
    def pending_tokens(self) -> int:
        """Tokens that are not scheduled yet."""
        return 0 if self.dropped else sum(len(self.texts[index]) for index in self.pending_indices)


@dataclass(frozen=True)
class QueuedText:
    """One text of a queued request."""

    request: QueuedRequest
    index: int

    @property
    def ids(self) -> TokenIds:
        """Its token ids."""
        return self.request.texts[self.index]


@dataclass(frozen=True)
class Batch:
    """Texts that the device runs together."""

    items: Sequence[QueuedText]
    packing: PackedRows
    """Their layout in rows; indices refer to `items`."""

    @classmethod
    def from_texts(cls, texts: Sequence[TokenIds], multiple: int = 1) -> "Batch":
        """Make a batch of texts that come from no queue, for warm-up and benchmarks.

        Args:
            texts: token ids of each text; at least one text.
            multiple: the width of the rows is a multiple of it.

        Returns:
            A batch with all texts, in this order.
        """
        request = QueuedRequest(texts, "interactive", deadline=0)
        items = [QueuedText(request, index) for index in range(len(texts))]
        return cls(items, pack([len(text) for text in texts], multiple=multiple))

    @property
    def texts(self) -> list[TokenIds]:
        """Token ids of each text."""
        return [item.ids for item in self.items]

    @property
    def tokens(self) -> int:
        """Tokens of text, without padding."""
        return sum(len(item.ids) for item in self.items)


@dataclass
class RequestQueue:
    """Requests in two lanes, first come first served within each."""

    width_multiple: int = 1
    """The width of a batch's rows is a multiple of it."""
    _lanes: dict[Lane, deque[QueuedRequest]] = field(default_factory=lambda: {lane: deque() for lane in LANES})
    _tokens: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(LANES, 0))
    _requeued: deque[QueuedText] = field(default_factory=deque)
    """Texts of batches that did not fit into memory; they run before everything else."""
    _since_bulk: int = 0
    """Batches that began with an interactive text while bulk was waiting."""

    def tokens(self, lane: Lane) -> int:
        """Tokens that wait in a lane, including requeued ones."""
        return self._tokens[lane]

    def __bool__(self) -> bool:
        return any(self._tokens.values())

    def put(self, request: QueuedRequest) -> None:
        """Add a request at the end of its lane.

        Args:
            request: with at least one text.
        """
        self._lanes[request.lane].append(request)
        self._tokens[request.lane] += request.pending_tokens

    def requeue(self, items: Sequence[QueuedText]) -> None:
        """Put texts back that were scheduled and could not be run; they go before everything else.

        Args:
            items: texts of one batch, in its order. Those of dropped requests are left out.
        """
        alive = [item for item in items if not item.request.dropped]
        self._requeued.extendleft(reversed(alive))
        for item in alive:
            self._tokens[item.request.lane] += len(item.ids)

    def drop(self, request: QueuedRequest) -> None:
        """Remove a request that is answered, abandoned by its client or failed. None of its texts is scheduled again.

        Args:
            request: may have been dropped already.
        """
        if request.dropped:
            return
        self._tokens[request.lane] -= request.pending_tokens
        request.dropped = True
        if request.next_index < len(request.texts):
            self._lanes[request.lane].remove(request)
        self._filter_requeued(lambda item: item.request is not request)

    def withdraw(self, request: QueuedRequest, indices: Collection[int]) -> set[int]:
        """Remove some texts of a request. Texts that are scheduled already cannot be withdrawn.

        Args:
            request: one that was put into this queue.
            indices: of its texts.

        Returns:
            The indices that were withdrawn.
        """
        waiting = set() if request.dropped else set(indices).intersection(request.pending_indices)
        self._tokens[request.lane] -= sum(len(request.texts[index]) for index in waiting)
        request.withdrawn |= waiting
        return waiting

    def _filter_requeued(self, keep: Callable[[QueuedText], bool]) -> None:
        for item in self._requeued:
            self._tokens[item.request.lane] -= 0 if keep(item) else len(item.ids)
        self._requeued = deque(filter(keep, self._requeued))

    def next_batch(self, limit: BatchLimit, now: float) -> Batch | None:
        """Take the next batch out of the queue.

        Requests past their deadline are skipped; their callers drop them.

        Args:
            limit: of the batch; a single text may be over it.
            now: seconds on the clock of the deadlines.

        Returns:
            The batch; None when there is nothing to run.
        """
        self._filter_requeued(lambda item: item.request.deadline > now)
        items = self._candidates(limit, now)
        if not items:
            return None
        batch = _pack_within_limit(items, limit, self.width_multiple)
        if not self._requeued:
            bulk_waits = self._tokens["bulk"] > 0 and batch.items[0].request.lane != "bulk"
            self._since_bulk = self._since_bulk + 1 if bulk_waits else 0
        for item in batch.items:
            self._mark_taken(item)
        for lane in self._lanes.values():
            while lane and lane[0].next_index == len(lane[0].texts):
                lane.popleft()
        return batch

    def _candidates(self, limit: BatchLimit, now: float) -> list[QueuedText]:
        """Texts in the order in which they run, as many as `limit` would allow without padding."""
        if self._requeued:
            return _take_while_fitting(iter(self._requeued), limit.texts, limit.tokens, [])
        interactive, bulk = (self._pending(lane, now) for lane in LANES)
        if self._since_bulk >= BULK_INTERVAL - 1:
            return _take_while_fitting(chain(bulk, interactive), limit.texts, limit.tokens, [])
        items = _take_while_fitting(interactive, limit.texts, limit.tokens, [])
        return _take_while_fitting(
            bulk, limit.texts, limit.tokens // BULK_FILL_DIVISOR if items else limit.tokens, items
        )

    def _pending(self, lane: Lane, now: float) -> Iterator[QueuedText]:
        return (
            QueuedText(request, index)
            for request in self._lanes[lane]
            if request.deadline > now
            for index in request.pending_indices
        )

    def _mark_taken(self, item: QueuedText) -> None:
        self._tokens[item.request.lane] -= len(item.ids)
        if self._requeued:
            self._requeued.popleft()
        else:
            item.request.next_index = item.index + 1


def _take_while_fitting(
    waiting: Iterator[QueuedText], texts: int, tokens: int, items: list[QueuedText]
) -> list[QueuedText]:
    """Extend `items` from `waiting`, in order, while they fit; at least one text, even one over the limit."""
    used = sum(len(item.ids) for item in items)
    for item in waiting:
        used += len(item.ids)
        if items and (used > tokens or len(items) >= texts):
            break
        items.append(item)
    return items


def _pack_within_limit(items: list[QueuedText], limit: BatchLimit, multiple: int) -> Batch:
    """Pack as many texts, from the front, as stay within the limit including padding."""
    while True:
        rows = pack([len(item.ids) for item in items], multiple=multiple)
        if rows.padded_tokens <= limit.tokens or len(items) == 1:
            return Batch(items, rows)
        # The area is over the limit, so that this is fewer of them.
        items = items[: max(1, len(items) * limit.tokens // rows.padded_tokens)]
