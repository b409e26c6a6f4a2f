"""Answers of a service that is hostile, or ill: made from a seed, so that a failure can be made again."""

import random
from collections.abc import Callable

PartGenerator = Callable[[random.Random], bytes]
STATUSES = (
    b"200",
    b"200",
    b"204",
    b"304",
    b"400",
    b"404",
    b"429",
    b"500",
    b"503",
    b"099",
    b"101",
    b"103",
    b"600",
    b"999",
    b"2000",
    b"OK",
    b"-1",
)
VERSIONS = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"ICE/1.0", b"http/1.1")
LINE_ENDINGS = (b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\n ", b"\0\r\n")
FIELDS = (
    b"content-length: 5",
    b"content-length: 0",
    b"content-length: 6",
    b"content-length: +5",
    b"content-length: 99999999999999999999999",
    b"Content-Length : 5",
    b"transfer-encoding: chunked",
    b"transfer-encoding: chunked, chunked",
    b"transfer-encoding: gzip",
    b"content-encoding: gzip",
    b"content-type: application/json",
    b"content-type: text/event-stream",
    b"connection: close",
    b"connection: upgrade\r\nupgrade: h2c",
    b"x-request-id: of-another-request",
    b"retry-after: 1",
    b"retry-after: \xff",
    b"server-timing: total;dur=x, , ;;",
    b"x-onecard-model: a b c",
    b"age: 1\r\n\tfolded",
    b"no colon at all",
    b": no name",
    b"x-long: " + b"a" * 9000,
)
BODIES = (
    b"hello",
    b"",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"5\nhello\n0\n\n",
    b"ffffffffffffffff1\r\nhello\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"5;ext=1\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n",
    b"zz\r\n",
    b"data: 0\n\ndata: [DONE]\n\n",
    b'{"error": {"message": "m", "type": "t", "param": null, "code": null}}',
)
STRAY_BODY = b'{"id": "STRAY"}'
STRAY_RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\nx-request-id: of-another-request\r\n\r\n" + STRAY_BODY
FLOODS = (
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: ", b"a" * 65536),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", b"x: aaaaaaaaaa\r\n" * 4000),
    (b"HTTP/1.1 200 OK\r\nx: ", b"a" * 65536),
    (b"HTTP/1.1 200 OK\r\n", b"x: aaaaaaaaaa\r\n" * 4000),
    (b"HTTP/1.1 200 ", b"a" * 65536),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;", b"a" * 65536),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1;" + b"a" * 60_000 + b"\r\na\r\n"),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"0" * 65536),
    (b"", b"HTTP/1.1 103 Early Hints\r\na: b\r\n\r\n" * 2000),
    (b"", b"\r\n" * 30_000),
)
"""Beginnings, and what follows them without end."""


def hostile_response(dice: random.Random) -> bytes:
    """Bytes that may be an answer."""
    kind = dice.randrange(5)
    if kind == 0:
        return dice.randbytes(dice.randrange(400))
    said = _structured_response(dice)
    if kind == 1:
        return said
    if kind == 2:
        return said + STRAY_RESPONSE
    if kind == 3:
        return said[: dice.randrange(len(said) + 1)]
    bent = bytearray(said)
    for _ in range(dice.randrange(1, 5)):
        bent[dice.randrange(len(bent))] = dice.randrange(256)
    return bytes(bent)


def _structured_response(dice: random.Random) -> bytes:
    end = dice.choice(LINE_ENDINGS)
    lines = [b"%s %s x" % (dice.choice(VERSIONS), dice.choice(STATUSES))]
    lines += dice.choices(FIELDS, k=dice.randrange(4))
    return b"\r\n" * dice.choice((0, 0, 0, 2)) + end.join([*lines, b"", dice.choice(BODIES)])
