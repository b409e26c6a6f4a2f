"""The async shell: requests hand in token ids and wait for results."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from onecard import logs
from onecard.batching.admission import Throughput, seconds_alone, seconds_too_many
from onecard.batching.budget import Budget, Limit
from onecard.batching.engine import Engine, OutOfMemory
from onecard.batching.metrics import BatchMetrics
from onecard.batching.queue import BULK_TURN, LANES, Lane, Queue, Ticket, TokenIds
from onecard.batching.thread import DeviceThread
from onecard.batching.worker import Done, Worker
from onecard.errors import DeadlineExceeded, InternalError, OnecardError, TooBusy, Unavailable

Result = TypeVar("Result")

RESTART_SECONDS = 15
"""What clients are told to wait when the model is lost: a new process loads it in 5 to 15 s."""

log = logs.logger()


@dataclass(frozen=True)
class Bounds:
    """What a batcher keeps to."""

    most: Limit
    """Largest batch."""
    tokens_per_second: float
    """First estimate of the device's throughput, from warming up."""
    queue_tokens: int
    """While more tokens wait in a lane, requests for it are refused."""
    hang_seconds: float
    """A batch that takes longer is taken for lost, and the device with it."""
    width_multiple: int = 1
    """What the width of a batch's rows is a multiple of."""


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of a request."""

    results: list[Result]
    """In the order of its texts."""
    queue_seconds: float
    """From handing in to the first text on the device."""
    inference_seconds: float
    """From there to the last result."""


@dataclass(eq=False)
class _Request(Ticket, Generic[Result]):
    results: dict[int, Result] = field(default_factory=dict)
    begun: float | None = None
    answer: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher(Generic[Result]):
    """Joins the texts of all waiting requests into batches for one engine, on the thread that loaded it.

    Made, used and closed on one event loop. An engine that hangs or is lost ends the batcher: every request is
    answered with 503, and `on_lost` is called, once, so that the process can end and be started anew.
    """

    def __init__(
        self,
        engine: Engine[Result],
        bounds: Bounds,
        *,
        thread: DeviceThread,
        metrics: BatchMetrics,
        on_lost: Callable[[], None],
    ) -> None:
        self._thread = thread
        self._bounds = bounds
        self._metrics = metrics
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._queue = Queue(bounds.width_multiple)
        self._throughput = Throughput(bounds.tokens_per_second)
        self._open: set[_Request[Result]] = set()
        self._is_lost = False
        budget = Budget(bounds.most)
        self._worker = Worker(
            engine,
            queue=self._queue,
            budget=budget,
            throughput=self._throughput,
            metrics=metrics,
            deliver=lambda done: self._call(self._take_in, done),
            lost=lambda error: self._call(self._lose, error),
        )
        metrics.watch(self._queue.tokens, budget.limit.tokens)
        thread.run(self._worker.run)
        self._watching = asyncio.create_task(self._watch())

    @property
    def alive(self) -> bool:
        """Whether batches can be run."""
        return not self._is_lost

    async def submit(self, texts: Sequence[TokenIds], *, lane: Lane, timeout_seconds: float) -> Outcome[Result]:
        """The result of each text. When the caller is cancelled, what has not begun is not run.

        Raises:
            TooBusy: too much waits for an answer in time; the error says when to come back.
            DeadlineExceeded: not answered in time; or not accepted, since it could not be even on an idle device.
            InternalError: the engine failed on a batch with one of the texts.
            Unavailable: a single text does not fit the device's memory, or the device is lost.
        """
        self.check_room(lane, sum(map(len, texts)), timeout_seconds)
        entered = time.monotonic()
        request: _Request[Result] = _Request(texts, lane, entered + timeout_seconds)
        self._open.add(request)
        with self._worker.lock:
            self._queue.put(request)
            self._worker.lock.notify()
        try:
            async with asyncio.timeout(timeout_seconds):
                await request.answer
        except TimeoutError:
            self._metrics.late(lane)
            raise DeadlineExceeded(
                f"No answer within {timeout_seconds:g} s. Send fewer or shorter inputs a request, or try again later."
            ) from None
        finally:
            self._open.discard(request)
            with self._worker.lock:
                self._queue.drop(request)
        ended = time.monotonic()
        begun = request.begun or ended
        self._metrics.waited(lane, begun - entered)
        return Outcome([request.results[index] for index in range(len(texts))], begun - entered, ended - begun)

    def check_room(self, lane: Lane, tokens: int, timeout_seconds: float) -> None:
        """Refuse what could not be answered in time; cheap, so that it can be asked before a text is even read.

        Raises:
            TooBusy, DeadlineExceeded, Unavailable: as in `submit`.
        """
        if self._is_lost:
            raise Unavailable("The model is being restarted. Try again shortly.", retry_after=RESTART_SECONDS)
        with self._worker.lock:
            ahead = self._ahead(lane)
            rate = self._throughput.tokens_per_second
        alone = seconds_alone(tokens, rate)
        if alone > timeout_seconds:
            raise DeadlineExceeded(
                f"These texts need about {alone:.0f} s, and the time limit is {timeout_seconds:g} s. "
                "Send fewer or shorter inputs a request."
            )
        over = seconds_too_many(
            ahead_tokens=ahead, own_tokens=tokens, tokens_per_second=rate, patience_seconds=timeout_seconds
        )
        over = max(over, (self._queue.tokens(lane) - self._bounds.queue_tokens) / rate)
        if over > 0:
            self._metrics.refused(lane)
            raise TooBusy("Too many texts are waiting. Try again after the time in Retry-After.", retry_after=over)

    def _ahead(self, lane: Lane) -> int:
        """Tokens that will be computed before those of a new request in this lane."""
        waiting = {one: self._queue.tokens(one) for one in LANES}
        if lane == "bulk":
            return self._worker.running_tokens + sum(waiting.values())
        bulk_meanwhile = min(waiting["bulk"], waiting["interactive"] // (BULK_TURN - 1))
        return self._worker.running_tokens + waiting["interactive"] + bulk_meanwhile

    def _call(self, function: Callable[..., None], argument: object) -> None:
        """Run a function on the event loop, from the worker's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)

    def _take_in(self, done: Done[Result]) -> None:
        for place, piece in enumerate(done.batch.pieces):
            request = piece.ticket
            assert isinstance(request, _Request)  # noqa: S101  Nothing else is ever put into the queue.
            request.begun = request.begun or done.started
            if done.error:
                _settle(request, _as_answer(done.error))
                continue
            request.results[piece.index] = done.results[place]
            if len(request.results) == len(request.texts):
                _settle(request, None)

    def _lose(self, error: BaseException) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        log.critical("model lost", exc_info=error)
        for request in list(self._open):
            _settle(
                request, Unavailable("The model was lost while it computed. Try again.", retry_after=RESTART_SECONDS)
            )
        self._on_lost()

    async def _watch(self) -> None:
        limit = self._bounds.hang_seconds
        while not self._is_lost:
            await asyncio.sleep(min(1.0, limit / 4))
            if self._worker.stuck_seconds() > limit:
                self._lose(TimeoutError(f"a batch has not ended within {limit:g} s"))

    async def close(self, seconds: float = 5.0) -> None:
        """Run what has begun to its end, for at most `seconds`, and nothing else."""
        self._watching.cancel()
        self._worker.stop()
        await asyncio.to_thread(self._thread.end, seconds)


def _settle(request: _Request[Result], error: OnecardError | None) -> None:
    if request.answer.done():
        return
    if error:
        request.answer.set_exception(error)
    else:
        request.answer.set_result(None)


def _as_answer(error: Exception) -> OnecardError:
    if isinstance(error, OutOfMemory):
        return Unavailable(
            "One of the texts does not fit the device's memory now. Shorten it, or try again.", retry_after=5
        )
    return InternalError("The model failed on this request.")
