"""Bytes that are nearly right."""

import random

TOKENS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b",",
    b";",
    b"\t",
    b"\xff",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"%00",
    b"HTTP/1.1",
)
NUMBERS = (0, 1, 2, 16, 255, 256, 16384, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


def mutate(chance: random.Random, data: bytes) -> bytes:
    """`data` with a few changes: bits, bytes, tokens, pieces doubled, moved, cut out or repeated very often."""
    for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 4, 16))):
        data = _change(chance, data)
    return data


def _change(chance: random.Random, data: bytes) -> bytes:
    at, to = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
    match chance.randrange(8):
        case 0 if data:
            at = min(at, len(data) - 1)
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + chance.choice(TOKENS) + data[at:]
        case 2:
            return data[:at] + data[to:]
        case 3:
            return data[:to] + data[at:]
        case 4:
            return data[:at] + chance.randbytes(chance.randrange(1, 40)) + data[at:]
        case 5:
            return data[:at] + data[at : at + 20] * chance.choice((2, 10, 1000)) + data[at:]
        case 6:
            return data[:at]
        case _:
            return data[:at] + str(chance.choice(NUMBERS)).encode() + data[at:]


def split_into_packets(chance: random.Random, data: bytes) -> list[bytes]:
    """`data` as it may come in packets."""
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 0, 1, 2, 5))))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]
