"""Long texts are tokenised on one thread, whatever becomes of who waits for it."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from onecard.errors import DeadlineExceeded, InputTooLong, TooBusy
from onecard.inference.encoder import Encoder
from onecard.inference.requests import INLINE_CHARACTERS
from onecard.inference.tokenization import Truncation
from onecard.web.disconnect import ClientDisconnected
from tests.shared.batching.support import OpenBatcher, SumEngine, blocking_device, open_batcher
from tests.shared.cache.support import eventually
from tests.shared.inference.support import a_request, encoder_over, inference_over

LONG = "7 " * INLINE_CHARACTERS
TRUNCATIONS = [None, Truncation(8, "right", special_tokens=True), Truncation(None, "right", special_tokens=False)]

pytestmark = pytest.mark.parametrize("truncation", TRUNCATIONS, ids=["window", "eight tokens", "no special tokens"])


class Gate:
    """Holds every thread that tokenises, until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.inside = 0
        self.most_inside = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """On the thread."""
        with self._lock:
            self.inside += 1
            self.most_inside = max(self.inside, self.most_inside)
        self.opened.wait(20)
        with self._lock:
            self.inside -= 1


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Opened at the end, so that no thread is left."""
    gate = Gate()
    yield gate
    gate.opened.set()


def service(at: OpenBatcher, gate: Gate) -> Encoder[float]:
    return encoder_over(at, inference_over(at, gate))


async def threads_have_begun() -> None:
    """Whatever was given to a thread before has one by now."""
    for _ in range(5):
        await asyncio.to_thread(lambda: None)


async def test_a_client_that_leaves_frees_no_thread(gate: Gate, truncation: Truncation | None) -> None:
    """Its text is tokenised to the end, and the others wait for that."""
    async with open_batcher(SumEngine(), tokens=10**5) as at:
        encoder, leaves = service(at, gate), asyncio.Event()
        requests = [a_request(leaves=leaves), a_request(), a_request()]
        first, *others = [
            asyncio.create_task(encoder.infer([LONG], truncate=True, request=request, truncation=truncation))
            for request in requests
        ]
        await eventually(lambda: gate.inside == 1)
        leaves.set()
        with pytest.raises(ClientDisconnected):
            await first
        await threads_have_begun()
        assert gate.inside == 1
        gate.opened.set()
        tokens = truncation.max_tokens if truncation and truncation.max_tokens else INLINE_CHARACTERS
        assert [(await each).results for each in others] == [[7 * tokens]] * 2
        assert gate.most_inside == 1


async def test_waiting_for_the_thread_is_part_of_the_time_limit(gate: Gate, truncation: Truncation | None) -> None:
    """As is what went before it, from the end of the body on: a 504, and nothing is left that holds the thread."""
    async with open_batcher(SumEngine(), tokens=10**5) as at:
        encoder = service(at, gate)
        hurried = a_request({"x-onecard-timeout-ms": "200"}), a_request({"x-onecard-timeout-ms": "200"})
        late = a_request(waited_seconds=encoder.settings.request_timeout_seconds)
        for request in (*hurried, late):
            with pytest.raises(DeadlineExceeded):
                await encoder.infer([LONG], truncate=True, request=request, truncation=truncation)
        assert at.metric("queue_late_total", lane="interactive") == 3
        assert gate.most_inside == 1
        gate.opened.set()
        await encoder.infer([LONG], truncate=True, request=a_request(), truncation=truncation)


async def test_what_would_be_refused_later_is_not_tokenised(gate: Gate, truncation: Truncation | None) -> None:
    """While too much waits for the device."""
    event, wait = blocking_device()
    engine = SumEngine(wait)
    async with open_batcher(engine, queue=1) as at:
        first = asyncio.create_task(at.ask([1]))
        await eventually(lambda: engine.begun == [1])
        second = asyncio.create_task(at.ask([2, 3]))
        await at.waits(2)
        with pytest.raises(TooBusy):
            await service(at, gate).infer([LONG], truncate=True, request=a_request(), truncation=truncation)
        assert gate.most_inside == 0
        event.set()
        await asyncio.gather(first, second)


async def test_an_error_of_the_thread_is_the_requests(gate: Gate, truncation: Truncation | None) -> None:
    """And the next one is answered."""
    gate.opened.set()
    async with open_batcher(SumEngine(), tokens=10**5) as at:
        encoder = service(at, gate)
        too_long = [LONG * 3]
        if truncation is None or truncation.max_tokens is None:
            with pytest.raises(InputTooLong):
                await encoder.infer(too_long, truncate=False, request=a_request(), truncation=truncation)
        answered = await encoder.infer(too_long, truncate=True, request=a_request(), truncation=truncation)
        assert answered.cut == [True]
