"""The server's parser by itself, which is native code: in a process of its own, very many times.

`FUZZ_SECONDS` is how long, `FUZZ_SEED` makes a run again.
"""

import multiprocessing
import os
import random
import time
from typing import Any

import zttp

from tests.fuzz import requests
from tests.fuzz.mutate import split_into_packets

SECONDS = float(os.environ.get("FUZZ_SECONDS", "8"))
SEED = int(os.environ.get("FUZZ_SEED", str(time.time_ns())))
MAX_BYTES = 2_000_000
"""That one input may make the parser ask to be sent."""


def test_the_parser_raises_nothing_but_its_own_errors() -> None:
    """And never ends the process."""
    print(f"FUZZ_SEED={SEED}")
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_feed, args=(SEED, SECONDS, its))
    process.start()
    its.close()
    last: Any = b""
    try:
        while not isinstance(last := mine.recv(), str):
            assert not isinstance(last, Exception), f"{last!r}"
    except EOFError:
        process.join()
        raise AssertionError(f"the parser has ended its process with {process.exitcode} after {last}") from None
    process.join()
    print(last)


def _feed(seed: int, seconds: float, its: Any) -> None:
    chance, deadline, count, refused = random.Random(seed), time.monotonic() + seconds, 0, 0
    while time.monotonic() < deadline:
        two = chance.random() < 0.5
        sent = chance.randbytes(chance.randrange(2000)) if chance.random() < 0.1 else _input(chance, two)
        if count % 1000 == 0:
            its.send(count)
        try:
            (_http2 if two else _http1)(chance, split_into_packets(chance, sent))
        except zttp.RemoteProtocolError:
            refused += 1
        except Exception as error:  # Whatever else it is, is a fault.
            its.send(AssertionError(f"{error!r}: {sent!r}"))
            return
        count += 1
    its.send(f"{count} inputs, {refused} refused")


def _input(chance: random.Random, two: bool) -> bytes:
    return requests.http2(chance) if two else requests.http1(chance)


def _http1(chance: random.Random, parts: list[bytes]) -> None:
    conn = zttp.Connection(zttp.SERVER)
    for part in parts:
        event: zttp.Event = conn.receive_event(part)
        while event is not zttp.NEED_DATA:
            if isinstance(event, zttp.EndOfMessage) or (isinstance(event, zttp.Request) and event.end_stream):
                conn.send_response(200, [(b"content-length", b"0")])
                conn.end_message()
                conn.data_to_send()
                if conn.should_close():
                    return
                conn.start_next_cycle()
            event = conn.next_event()


def _http2(chance: random.Random, parts: list[bytes]) -> None:
    conn = zttp.Connection(zttp.SERVER, protocol=zttp.HTTP2)
    conn.initiate_connection()
    for part in parts:
        conn.receive_data(part)
        while (event := conn.next_event()) is not zttp.NEED_DATA:
            if isinstance(event, zttp.Request):
                _answer(chance, conn.stream(event.stream_id))
        assert len(conn.data_to_send()) < MAX_BYTES


def _answer(chance: random.Random, stream: zttp.Stream) -> None:
    match chance.randrange(4):
        case 0:
            stream.reset(chance.choice((0, 7, 8)))
        case 1:
            stream.send_response(200, [(b"x-a", b"b")])
            stream.send_data(b"a" * chance.choice((0, 1, 100_000)))
        case 2:
            stream.send_response(204, [], True)
        case _:
            stream.send_response(200, [])
            stream.send_data(b"a" * chance.choice((0, 1, 100_000)))
            stream.end_message()
