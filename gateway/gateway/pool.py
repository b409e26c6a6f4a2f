"""The replicas of one service, as those who call it see them: each request leases one."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import TracebackType

from gateway.deadlines import Deadline
from gateway.metrics import UpstreamFigures
from gateway.replicas import Failure, Reason, Replicas, Ticket, Verdict
from gateway.retries import Budget, Retries
from gateway.trail import Outcome, Trail
from gateway.transport import Origin
from onecard import logs
from onecard.models.identity import ModelIdentity
from onecard.models.served_models import ServedModels

log = logs.logger()


class Patience:
    """A time limit on one wait for a replica, which is over early when the replica turns out to be frozen and others
    are not.

    Raises:
        TimeoutError: at the end of the context, if the limit is over.
    """

    def __init__(self, waits: dict[asyncio.Timeout, float], seconds: float) -> None:
        """Wait with all those in `waits`."""
        self._waits = waits
        self._limit = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._waits[self._limit] = time.monotonic()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        del self._waits[self._limit]
        await self._limit.__aexit__(kind, error, tb)


class Lease:
    """One replica for one attempt, from its first byte out to its last byte in. Closing it, once or more, ends it.

    An attempt that is given up for no fault of the replica (the client has left, its time is over) reports nothing.
    """

    def __init__(self, pool: "Pool", ticket: Ticket, trail: Trail) -> None:
        self._pool = pool
        self._ticket = ticket
        self._open = True
        self._began = time.monotonic()
        self._answered = False
        self._outcome: Outcome | None = None
        self._trail = trail
        self._span = trail.span.attempt(pool.name, ticket.replica) if trail.span else None
        self.headers: Mapping[str, str] = self._span.headers if self._span else {}
        """What the service is to be told of the trace."""
        self.replica = ticket.replica
        """Its number."""
        self.origin = pool.origins[ticket.replica]
        """Where it is, to go no further than the connection: neither into a log nor into an answer."""

    def patience(self, seconds: float) -> Patience:
        """A time limit on one wait for the replica."""
        return Patience(self._pool.waits[self.replica], seconds)

    def answered(self) -> None:
        """The first byte of an answer is here that says nothing against the replica."""
        seconds = time.monotonic() - self._began
        self._answered = True
        self._pool.figures.head_seconds.observe(seconds)
        self._pool.replicas.answered(self._ticket, seconds)
        self._pool.tell(self.replica)

    def ended(self) -> None:
        """The last byte of an answer is here."""
        self._outcome = self._outcome or "ok"

    def failed(self, failure: Failure) -> None:
        """The replica failed. Also for one that breaks off when part of its answer is here."""
        self._outcome = self._outcome or ("broken_off" if self._answered and failure != "silent" else failure)
        self._pool.replicas.failed(self._ticket, failure)
        self._pool.tell(self.replica)

    def close(self) -> None:
        """The attempt is over."""
        if self._open:
            self._open = False
            seconds, outcome = time.monotonic() - self._began, self._outcome or "given_up"
            self._trail.upstream_seconds += seconds
            self._pool.figures.ended(outcome, seconds)
            if self._span is not None:
                self._span.end(outcome)
            self._pool.replicas.give_back(self._ticket)


class Pool:
    """The replicas of one service."""

    def __init__(self, name: str, addresses: Sequence[str], figures: UpstreamFigures) -> None:
        """Take the service's name, which is what the log calls it, and a base URL for each replica."""
        self.name = name
        self.figures = figures
        self.origins = tuple(map(Origin.of, addresses))
        self.replicas = Replicas(len(self.origins), time.monotonic)
        self.budget = Budget(time.monotonic, figures.retry)
        self.waits: tuple[dict[asyncio.Timeout, float], ...] = tuple({} for _ in self.origins)
        """Time limits of those who wait for something from a replica, by replica, and since when they wait."""
        self.suspected = tuple(asyncio.Event() for _ in self.origins)
        """Set when connections to a replica fail: a check then says at once whether it is there."""
        self.served = ServedModels(len(self.origins))
        self._told: list[Reason | None] = [None for _ in self.origins]
        for number in range(len(self.origins)):
            figures.show(number, partial(self.replicas.in_flight, number), partial(self._in_service, number))

    def lease(self, tried: Collection[int], trail: Trail) -> Lease | None:
        """A lease of the replica that is the best bet; None when the service is out and cannot be asked just now.

        Args:
            trail: of the request.
        """
        ticket = self.replicas.take(tried)
        if ticket is None:
            self.figures.none_free.inc()
            return None
        return Lease(self, ticket, trail)

    @property
    def model(self) -> ModelIdentity | None:
        """The model that is served now; the last one that was, while the service is away; None if it does not tell."""
        return self.served.model(self._in_service)

    def _in_service(self, number: int) -> bool:
        return self.replicas.out(number) is None

    def retries(self, deadline: Deadline) -> Retries:
        """The rules for one request's attempts."""
        return Retries(self.replicas.elsewhere, self.budget, deadline)

    def checked(self, number: int, verdict: Verdict, began: float) -> None:
        """A readiness check that began at second `began` of the monotonic clock is over."""
        frozen = self.replicas.checked(number, verdict, began)
        self.tell(number)
        if frozen:
            for limit, since in self.waits[number].items():
                # A stream that has flowed while the check was waited for is not cut.
                if since < began and not limit.expired():
                    limit.reschedule(asyncio.get_running_loop().time())

    def tell(self, number: int) -> None:
        """Say once when the replica leaves service, or comes back, or is out for another reason."""
        reason = self.replicas.out(number)
        if reason == self._told[number]:
            return
        self._told[number] = reason
        if reason is None:
            log.info("replica is back", upstream=self.name, replica=number)
            return
        self.figures.ejected(reason)
        log.warning("replica is out", upstream=self.name, replica=number, reason=reason)
        if reason == "away":
            self.suspected[number].set()
