"""Writes that leave together."""

import asyncio
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from onecard.protocol.write_coalescing import MAX_COALESCED_BYTES, CoalescingTransport


class Wire(asyncio.Transport):
    """What has left, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def writelines(self, lines: Iterable[bytes | bytearray | memoryview]) -> None:
        self.writes.append(b"".join(lines))

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True

    def write_eof(self) -> None:
        self.writes.append(b"<end>")

    def is_closing(self) -> bool:
        return self.closed


async def test_a_head_and_its_body_leave_together() -> None:
    wire = Wire()
    corked = CoalescingTransport(wire, asyncio.get_running_loop())
    corked.write(b"head")
    corked.write(b"body")
    assert wire.writes == []
    await asyncio.sleep(0)
    corked.write(b"next")
    await asyncio.sleep(0)
    assert wire.writes == [b"headbody", b"next"]


async def test_closing_sends_what_is_held_and_nothing_after_it() -> None:
    wire = Wire()
    corked = CoalescingTransport(wire, asyncio.get_running_loop())
    corked.write(b"last")
    corked.close()
    corked.write(b"late")
    await asyncio.sleep(0)
    assert (wire.writes, corked.is_closing()) == ([b"last"], True)


async def test_what_is_written_after_the_end_is_dropped() -> None:
    """A request's app may still answer when the connection has been told its last."""
    wire = Wire()
    corked = CoalescingTransport(wire, asyncio.get_running_loop())
    corked.write(b"last")
    corked.write_eof()
    corked.write(b"late")
    await asyncio.sleep(0)
    assert wire.writes == [b"last", b"<end>"]


@given(st.lists(st.integers(0, 2 * MAX_COALESCED_BYTES), max_size=12))
async def test_all_leaves_in_order_and_little_is_held(sizes: list[int]) -> None:
    """However long the loop does not turn: the transport has to see how slow its client is."""
    wire = Wire()
    corked = CoalescingTransport(wire, asyncio.get_running_loop())
    sent = b""
    for number, size in enumerate(sizes):
        data = bytes([number]) * size
        corked.write(data)
        sent += data
        assert corked.get_write_buffer_size() == len(sent) - sum(map(len, wire.writes)) <= MAX_COALESCED_BYTES
    await asyncio.sleep(0)
    assert b"".join(wire.writes) == sent
