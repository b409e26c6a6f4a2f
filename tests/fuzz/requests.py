"""Requests of HTTP/1.1 and HTTP/2, right and nearly right."""

import random
import struct

from tests.fuzz.mutate import NUMBERS, mutate
from tests.protocol.frames import (
    CONTINUATION,
    HEADERS,
    INITIAL_WINDOW,
    PREFACE,
    SETTINGS,
    frame,
    literal,
    request,
    setting,
    window,
)

_PATHS = (
    b"/echo",
    b"/health/live",
    b"/three",
    b"/big?size=70000",
    b"/",
    b"*",
    b"http://x/echo",
    b"/%00",
    b"//",
    b"/seen",
)
_WINDOWS = (0, 1, 10, 1000, 5000, 65_535, 200_000)
"""Lower and higher than the answers to the paths that are asked for with them."""
_METHODS = (b"GET", b"POST", b"HEAD", b"OPTIONS", b"DELETE", b"CONNECT", b"PRI", b"get", b"hEAD")
_VERSIONS = (b"HTTP/1.1",) * 6 + (b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2")
_HEADERS = (
    b"host: x", b"host: y", b"content-type: application/json", b"connection: close", b"connection: keep-alive, upgrade",
    b"upgrade: h2c", b"upgrade: websocket", b"expect: 100-continue", b"transfer-encoding: chunked",
    b"transfer-encoding: gzip, chunked", b"transfer-encoding: identity", b"content-length: 0", b"content-length: 5",
    b"content-length: 18446744073709551617", b"content-length: -1", b"te: trailers", b"x-a: \xff\xfe", b"cookie: a=b",
    b'cache-control: "\\"\\"', b"x-request-id: a", b"authorization: Bearer a", b" folded: yes", b": none",
)  # fmt: skip


def http1(chance: random.Random) -> bytes:
    """A few requests on one connection."""
    return b"".join(mutate(chance, _request(chance)) for _ in range(chance.choice((1, 1, 2, 3))))


def _request(chance: random.Random) -> bytes:
    body = chance.randbytes(chance.choice((0, 1, 5, 100, 3000)))
    headers = [b"host: x", *chance.sample(_HEADERS, chance.choice((0, 0, 1, 2)))]
    if chance.random() < 0.4:
        headers.append(b"transfer-encoding: chunked")
        body = _chunked(chance, body)
    elif body:
        headers.append(b"content-length: %d" % len(body))
    chance.shuffle(headers)
    odd = b" ".join((chance.choice(_METHODS), chance.choice(_PATHS), chance.choice(_VERSIONS)))
    line = chance.choice((odd, b"POST /echo HTTP/1.1", b"GET /three HTTP/1.1"))
    return b"\r\n".join([line, *headers, b"", b""]) + body


def _chunked(chance: random.Random, body: bytes) -> bytes:
    out, at = b"", 0
    while at < len(body):
        size = chance.randrange(1, len(body) - at + 1)
        extension = chance.choice((b"", b"", b";a=b", b';a="\\"', b" ", b";" + b"a" * 100))
        out += b"%x" % size + extension + b"\r\n" + body[at : at + size] + b"\r\n"
        at += size
    trailer = chance.choice((b"", b"", b"x-a: b\r\n", b"content-length: 5\r\n", b"host: z\r\n"))
    return out + chance.choice((b"0", b"000", b"0;a")) + b"\r\n" + trailer + b"\r\n"


def http2(chance: random.Random) -> bytes:
    """A preface and frames, of which some are requests and some nonsense."""
    frames = [frame(SETTINGS, 0, 0)]
    frames += [_frame(chance, 2 * number + 1) for number in range(chance.choice((1, 3, 10, 40)))]
    stream = b"".join(frames)
    return PREFACE + (mutate(chance, stream) if chance.random() < 0.5 else stream)


def _frame(chance: random.Random, stream: int) -> bytes:
    match chance.randrange(8):
        case 0 | 1:
            body = chance.randbytes(chance.choice((0, 0, 5, 20_000)))[:16384]
            extra = [literal(chance.choice((b"x-a", b"te", b"host", b"Connection", b":path", b"")), b"trailers")]
            headers = chance.choice(([], [], extra, [chance.randbytes(9)]))
            return request(stream, chance.choice(_PATHS), *headers, method=chance.choice(_METHODS), body=body)
        case 2:
            settings = [
                struct.pack(">HI", chance.randrange(9), chance.choice(NUMBERS)) for _ in range(chance.randrange(4))
            ]
            return frame(SETTINGS, chance.choice((0, 0, 1)), 0, b"".join(settings))
        case 3:
            block = literal(b":path", b"/") + b"\x82\x86\x41\x01x"
            cut = chance.randrange(len(block))
            return frame(HEADERS, 1, stream, block[:cut]) + frame(CONTINUATION, 4, stream, block[cut:])
        case 4 | 5:
            path = chance.choice((b"/big?size=70000", b"/three", b"/health/live", b"/nowhere"))
            asked = request(stream, path, method=chance.choice((b"GET", b"GET", b"HEAD")))
            return b"".join([asked, *(_window_change(chance, stream) for _ in range(chance.randrange(1, 6)))])
        case _:
            payload = chance.choice((b"", struct.pack(">I", chance.choice(NUMBERS)), chance.randbytes(8), b"\0" * 5))
            flags, number = chance.choice((0, 1, 4, 8, 0x20, 0x2D)), chance.choice((0, 1, stream, stream, 2**31 - 1))
            return frame(chance.randrange(12), flags, number, payload)


def _window_change(chance: random.Random, stream: int) -> bytes:
    """The windows of all streams are lowered or raised, or more may come on one or on the connection."""
    if chance.random() < 0.5:
        return setting(INITIAL_WINDOW, chance.choice(_WINDOWS))
    return window(chance.choice((0, stream, stream)), chance.choice(_WINDOWS[1:]))
