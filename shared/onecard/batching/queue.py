"""What waits, and what runs next. Pure: no clock, no thread, no I/O."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from onecard.batching.batch_limit import BatchLimit
from onecard.batching.sequence_packing import PackedRows, pack

TokenIds = Sequence[int]
"""One text as the model reads it, special tokens included."""

Lane = Literal["interactive", "bulk"]
"""Interactive goes first; bulk is for whoever can wait."""
LANES: tuple[Lane, ...] = ("interactive", "bulk")

BULK_INTERVAL = 4
"""While both lanes wait, every so-manieth batch begins with bulk, so that it cannot starve."""
BULK_FILL_DIVISOR = 4
"""An interactive batch is filled up with bulk texts to this part (1/4) of the token budget: so much costs the
interactive ones little, and the device is not left idle between them."""


@dataclass(eq=False)
class QueuedRequest:
    """The texts of one request."""

    texts: Sequence[TokenIds]
    lane: Lane
    deadline: float
    """Second on the caller's clock after which nobody waits for the answer."""
    next_index: int = 0
    """Texts before this one have been handed out, or passed over; they are handed out in order."""
    dropped: bool = False
    withdrawn: set[int] = field(default_factory=set)
    """Indices of texts that are passed over."""

    @property
    def pending_indices(self) -> Iterator[int]:
        """Indices of the texts not handed out yet."""
        return (index for index in range(self.next_index, len(self.texts)) if index not in self.withdrawn)

    @property
    def pending_tokens(self) -> int:
        """Tokens not handed out yet."""
        return 0 if self.dropped else sum(len(self.texts[index]) for index in self.pending_indices)


@dataclass(frozen=True)
class QueuedText:
    """One text of a ticket."""

    request: QueuedRequest
    index: int

    @property
    def ids(self) -> TokenIds:
        """Its tokens."""
        return self.request.texts[self.index]


@dataclass(frozen=True)
class Batch:
    """What the device runs at once."""

    items: Sequence[QueuedText]
    packing: PackedRows

    @classmethod
    def from_texts(cls, texts: Sequence[TokenIds], multiple: int = 1) -> "Batch":
        """Texts that no queue handed out: to warm up, to measure. `multiple` as in `pack`."""
        ticket = QueuedRequest(texts, "interactive", deadline=0)
        pieces = [QueuedText(ticket, index) for index in range(len(texts))]
        return cls(pieces, pack([len(text) for text in texts], multiple=multiple))

    @property
    def texts(self) -> list[TokenIds]:
        """Token ids of each text."""
        return [piece.ids for piece in self.items]

    @property
    def tokens(self) -> int:
        """Tokens of text, padding left out."""
        return sum(len(piece.ids) for piece in self.items)


@dataclass
class RequestQueue:
    """Tickets in two lanes, first come first served within each."""

    width_multiple: int = 1
    """What the width of a batch's rows is a multiple of."""
    _lanes: dict[Lane, deque[QueuedRequest]] = field(default_factory=lambda: {lane: deque() for lane in LANES})
    _tokens: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(LANES, 0))
    _requeued: deque[QueuedText] = field(default_factory=deque)
    _since_bulk: int = 0

    def tokens(self, lane: Lane) -> int:
        """Tokens that wait in a lane, those that came back included."""
        return self._tokens[lane]

    def __bool__(self) -> bool:
        return any(self._tokens.values())

    def put(self, ticket: QueuedRequest) -> None:
        """Add a ticket at the end of its lane."""
        self._lanes[ticket.lane].append(ticket)
        self._tokens[ticket.lane] += ticket.pending_tokens

    def requeue(self, pieces: Sequence[QueuedText]) -> None:
        """Pieces that were taken and could not be run: they go before everything else, in their order."""
        alive = [piece for piece in pieces if not piece.request.dropped]
        self._requeued.extendleft(reversed(alive))
        for piece in alive:
            self._tokens[piece.request.lane] += len(piece.ids)

    def drop(self, ticket: QueuedRequest) -> None:
        """Forget a ticket: answered, left by its client, or failed. None of its texts is handed out again."""
        if ticket.dropped:
            return
        self._tokens[ticket.lane] -= ticket.pending_tokens
        ticket.dropped = True
        if ticket.next_index < len(ticket.texts):
            self._lanes[ticket.lane].remove(ticket)
        self._filter_requeued(lambda piece: piece.request is not ticket)

    def withdraw(self, ticket: QueuedRequest, indices: Collection[int]) -> set[int]:
        """Forget some texts of a ticket; returns which. What has been handed out cannot be called back."""
        waiting = set() if ticket.dropped else set(indices).intersection(ticket.pending_indices)
        self._tokens[ticket.lane] -= sum(len(ticket.texts[index]) for index in waiting)
        ticket.withdrawn |= waiting
        return waiting

    def _filter_requeued(self, wanted: Callable[[QueuedText], bool]) -> None:
        for piece in self._requeued:
            self._tokens[piece.request.lane] -= 0 if wanted(piece) else len(piece.ids)
        self._requeued = deque(filter(wanted, self._requeued))

    def next_batch(self, limit: BatchLimit, now: float) -> Batch | None:
        """The next batch; None when nothing waits.

        It is within `limit` unless it is a single text. Tickets past their deadline are passed over; whoever keeps
        the clock drops them.
        """
        self._filter_requeued(lambda piece: piece.request.deadline > now)
        pieces = self._candidates(limit, now)
        if not pieces:
            return None
        batch = _pack_within_limit(pieces, limit, self.width_multiple)
        if not self._requeued:
            bulk_waits = self._tokens["bulk"] > 0 and batch.items[0].request.lane != "bulk"
            self._since_bulk = self._since_bulk + 1 if bulk_waits else 0
        for piece in batch.items:
            self._mark_taken(piece)
        for lane in self._lanes.values():
            while lane and lane[0].next_index == len(lane[0].texts):
                lane.popleft()
        return batch

    def _candidates(self, limit: BatchLimit, now: float) -> list[QueuedText]:
        """Pieces in the order in which they run, as many as `limit` allows if there were no padding."""
        if self._requeued:
            return _take_while_fitting(iter(self._requeued), limit.texts, limit.tokens, [])
        interactive, bulk = (self._pending(lane, now) for lane in LANES)
        if self._since_bulk >= BULK_INTERVAL - 1:
            return _take_while_fitting(chain(bulk, interactive), limit.texts, limit.tokens, [])
        pieces = _take_while_fitting(interactive, limit.texts, limit.tokens, [])
        return _take_while_fitting(
            bulk, limit.texts, limit.tokens // BULK_FILL_DIVISOR if pieces else limit.tokens, pieces
        )

    def _pending(self, lane: Lane, now: float) -> Iterator[QueuedText]:
        return (
            QueuedText(ticket, index)
            for ticket in self._lanes[lane]
            if ticket.deadline > now
            for index in ticket.pending_indices
        )

    def _mark_taken(self, piece: QueuedText) -> None:
        self._tokens[piece.request.lane] -= len(piece.ids)
        if self._requeued:
            self._requeued.popleft()
        else:
            piece.request.next_index = piece.index + 1


def _take_while_fitting(
    waiting: Iterator[QueuedText], texts: int, tokens: int, pieces: list[QueuedText]
) -> list[QueuedText]:
    """`pieces` and as many of `waiting`, in order, as fit; one even if it does not."""
    used = sum(len(piece.ids) for piece in pieces)
    for piece in waiting:
        used += len(piece.ids)
        if pieces and (used > tokens or len(pieces) >= texts):
            break
        pieces.append(piece)
    return pieces


def _pack_within_limit(pieces: list[QueuedText], limit: BatchLimit, multiple: int) -> Batch:
    """As many of `pieces`, from the front, as stay within the limit once they lie in rows."""
    while True:
        rows = pack([len(piece.ids) for piece in pieces], multiple=multiple)
        if rows.padded_tokens <= limit.tokens or len(pieces) == 1:
            return Batch(pieces, rows)
        # The area is over the limit, so that this is fewer of them.
        pieces = pieces[: max(1, len(pieces) * limit.tokens // rows.padded_tokens)]
