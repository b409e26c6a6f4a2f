"""What waits, and what runs next. Pure: no clock, no thread, no I/O."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from onecard.batching.budget import Limit
from onecard.batching.rows import Rows, lay_out

TokenIds = Sequence[int]
"""One text as the model reads it, special tokens included."""

Lane = Literal["interactive", "bulk"]
"""Interactive goes first; bulk is for whoever can wait."""
LANES: tuple[Lane, ...] = ("interactive", "bulk")

BULK_TURN = 4
"""While both lanes wait, every so-manieth batch begins with bulk, so that it cannot starve."""
FILL_SHARE = 4
"""An interactive batch is filled up with bulk texts to this part (1/4) of the token budget: so much costs the
interactive ones little, and the device is not left idle between them."""


@dataclass(eq=False)
class Ticket:
    """The texts of one request."""

    texts: Sequence[TokenIds]
    lane: Lane
    deadline: float
    """Second on the caller's clock after which nobody waits for the answer."""
    taken: int = 0
    """Texts before this one have been handed out, or passed over; they are handed out in order."""
    dropped: bool = False
    withdrawn: set[int] = field(default_factory=set)
    """Indices of texts that are passed over."""

    @property
    def waiting(self) -> Iterator[int]:
        """Indices of the texts not handed out yet."""
        return (index for index in range(self.taken, len(self.texts)) if index not in self.withdrawn)

    @property
    def waiting_tokens(self) -> int:
        """Tokens not handed out yet."""
        return 0 if self.dropped else sum(len(self.texts[index]) for index in self.waiting)


@dataclass(frozen=True)
class Piece:
    """One text of a ticket."""

    ticket: Ticket
    index: int

    @property
    def ids(self) -> TokenIds:
        """Its tokens."""
        return self.ticket.texts[self.index]


@dataclass(frozen=True)
class Batch:
    """What the device runs at once."""

    pieces: Sequence[Piece]
    rows: Rows

    @classmethod
    def of(cls, texts: Sequence[TokenIds], multiple: int = 1) -> "Batch":
        """Texts that no queue handed out: to warm up, to measure. `multiple` as in `lay_out`."""
        ticket = Ticket(texts, "interactive", deadline=0)
        pieces = [Piece(ticket, index) for index in range(len(texts))]
        return cls(pieces, lay_out([len(text) for text in texts], multiple=multiple))

    @property
    def texts(self) -> list[TokenIds]:
        """Token ids of each text."""
        return [piece.ids for piece in self.pieces]

    @property
    def tokens(self) -> int:
        """Tokens of text, padding left out."""
        return sum(len(piece.ids) for piece in self.pieces)


@dataclass
class Queue:
    """Tickets in two lanes, first come first served within each."""

    width_multiple: int = 1
    """What the width of a batch's rows is a multiple of."""
    _lanes: dict[Lane, deque[Ticket]] = field(default_factory=lambda: {lane: deque() for lane in LANES})
    _tokens: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(LANES, 0))
    _returned: deque[Piece] = field(default_factory=deque)
    _since_bulk: int = 0

    def tokens(self, lane: Lane) -> int:
        """Tokens that wait in a lane, those that came back included."""
        return self._tokens[lane]

    def __bool__(self) -> bool:
        return any(self._tokens.values())

    def put(self, ticket: Ticket) -> None:
        """Add a ticket at the end of its lane."""
        self._lanes[ticket.lane].append(ticket)
        self._tokens[ticket.lane] += ticket.waiting_tokens

    def put_back(self, pieces: Sequence[Piece]) -> None:
        """Pieces that were taken and could not be run: they go before everything else, in their order."""
        alive = [piece for piece in pieces if not piece.ticket.dropped]
        self._returned.extendleft(reversed(alive))
        for piece in alive:
            self._tokens[piece.ticket.lane] += len(piece.ids)

    def drop(self, ticket: Ticket) -> None:
        """Forget a ticket: answered, left by its client, or failed. None of its texts is handed out again."""
        if ticket.dropped:
            return
        self._tokens[ticket.lane] -= ticket.waiting_tokens
        ticket.dropped = True
        if ticket.taken < len(ticket.texts):
            self._lanes[ticket.lane].remove(ticket)
        self._keep_returned(lambda piece: piece.ticket is not ticket)

    def withdraw(self, ticket: Ticket, indices: Collection[int]) -> set[int]:
        """Forget some texts of a ticket; returns which. What has been handed out cannot be called back."""
        waiting = set() if ticket.dropped else set(indices).intersection(ticket.waiting)
        self._tokens[ticket.lane] -= sum(len(ticket.texts[index]) for index in waiting)
        ticket.withdrawn |= waiting
        return waiting

    def _keep_returned(self, wanted: Callable[[Piece], bool]) -> None:
        for piece in self._returned:
            self._tokens[piece.ticket.lane] -= 0 if wanted(piece) else len(piece.ids)
        self._returned = deque(filter(wanted, self._returned))

    def take(self, limit: Limit, now: float) -> Batch | None:
        """The next batch; None when nothing waits.

        It is within `limit` unless it is a single text. Tickets past their deadline are passed over; whoever keeps
        the clock drops them.
        """
        self._keep_returned(lambda piece: piece.ticket.deadline > now)
        pieces = self._fitting(limit, now)
        if not pieces:
            return None
        batch = _within(pieces, limit, self.width_multiple)
        if not self._returned:
            bulk_waits = self._tokens["bulk"] > 0 and batch.pieces[0].ticket.lane != "bulk"
            self._since_bulk = self._since_bulk + 1 if bulk_waits else 0
        for piece in batch.pieces:
            self._hand_out(piece)
        for lane in self._lanes.values():
            while lane and lane[0].taken == len(lane[0].texts):
                lane.popleft()
        return batch

    def _fitting(self, limit: Limit, now: float) -> list[Piece]:
        """Pieces in the order in which they run, as many as `limit` allows if there were no padding."""
        if self._returned:
            return _first(iter(self._returned), limit.texts, limit.tokens, [])
        interactive, bulk = (self._waiting(lane, now) for lane in LANES)
        if self._since_bulk >= BULK_TURN - 1:
            return _first(chain(bulk, interactive), limit.texts, limit.tokens, [])
        pieces = _first(interactive, limit.texts, limit.tokens, [])
        return _first(bulk, limit.texts, limit.tokens // FILL_SHARE if pieces else limit.tokens, pieces)

    def _waiting(self, lane: Lane, now: float) -> Iterator[Piece]:
        return (
            Piece(ticket, index) for ticket in self._lanes[lane] if ticket.deadline > now for index in ticket.waiting
        )

    def _hand_out(self, piece: Piece) -> None:
        self._tokens[piece.ticket.lane] -= len(piece.ids)
        if self._returned:
            self._returned.popleft()
        else:
            piece.ticket.taken = piece.index + 1


def _first(waiting: Iterator[Piece], texts: int, tokens: int, pieces: list[Piece]) -> list[Piece]:
    """`pieces` and as many of `waiting`, in order, as fit; one even if it does not."""
    used = sum(len(piece.ids) for piece in pieces)
    for piece in waiting:
        used += len(piece.ids)
        if pieces and (used > tokens or len(pieces) >= texts):
            break
        pieces.append(piece)
    return pieces


def _within(pieces: list[Piece], limit: Limit, multiple: int) -> Batch:
    """As many of `pieces`, from the front, as stay within the limit once they lie in rows."""
    while True:
        rows = lay_out([len(piece.ids) for piece in pieces], multiple=multiple)
        if rows.area <= limit.tokens or len(pieces) == 1:
            return Batch(pieces, rows)
        # The area is over the limit, so that this is fewer of them.
        pieces = pieces[: max(1, len(pieces) * limit.tokens // rows.area)]
