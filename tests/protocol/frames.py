"""HTTP/2 by the frame, so that a test can say what no library would."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW = 4
ENHANCE_YOUR_CALM = 11
MAX_FRAME_BYTES = 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header that enters no table."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    left, out = len(text) - 127, b"\x7f"
    while left >= 128:
        out, left = out + bytes([left & 127 | 128]), left >> 7
    return out + bytes([left]) + text


def request(
    stream: int, path: bytes, *headers: bytes, method: bytes = b"GET", host: bytes | None = b"x", body: bytes = b""
) -> bytes:
    """The frames of a request; `headers` are encoded already."""
    block = literal(b":method", method) + literal(b":path", path) + b"\x86"
    block += literal(b":authority", host) if host is not None else b""
    block += b"".join(headers)
    first, rest = block[:MAX_FRAME_BYTES], block[MAX_FRAME_BYTES:]
    whole = frame(HEADERS, (0 if rest else END_HEADERS) | (0 if body else END_STREAM), stream, first)
    whole += frame(CONTINUATION, END_HEADERS, stream, rest) if rest else b""
    return whole + (frame(DATA, END_STREAM, stream, body) if body else b"")


def reset(stream: int) -> bytes:
    """The client cancels."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


def setting(name: int, value: int) -> bytes:
    """A SETTINGS frame with one of them."""
    return frame(SETTINGS, 0, 0, struct.pack(">HI", name, value))


def window(stream: int, bytes_more: int) -> bytes:
    """Room for so much more."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", bytes_more))


@dataclass
class Http2Client:
    """A connection that sends what it is told to, and reads frames."""

    connection: socket.socket
    buffer: bytes = b""
    body: dict[int, bytes] = field(default_factory=dict)
    """By stream: what came in DATA frames."""
    heads: dict[int, bytes] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    resets: dict[int, int] = field(default_factory=dict)
    goaway: int | None = None
    """Its error code."""
    pongs: int = 0
    """Answers to PING."""
    closed: bool = False

    def send(self, *frames: bytes) -> None:
        self.connection.sendall(b"".join(frames))

    def read_until(self, *streams: int, seconds: float = 30) -> None:
        """Until all of these have ended, or the connection has."""
        deadline = time.monotonic() + seconds
        while not self.closed and not (streams and all(one in self.ended | set(self.resets) for one in streams)):
            assert time.monotonic() < deadline, "neither an answer nor an end"
            self.read()

    def read(self) -> None:
        """What has come, or will within a fifth of a second."""
        self.connection.settimeout(0.2)
        try:
            piece = self.connection.recv(65536)
        except TimeoutError:
            return
        except OSError:
            piece = b""
        self.closed = not piece
        self.buffer += piece
        while len(self.buffer) >= 9 and len(self.buffer) >= 9 + (size := int.from_bytes(self.buffer[:3], "big")):
            kind, flags, stream = self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9], "big")
            self._handle_frame(kind, flags, stream, self.buffer[9 : 9 + size])
            self.buffer = self.buffer[9 + size :]

    def _handle_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self.body[stream] = self.body.get(stream, b"") + payload
        elif kind == HEADERS:
            self.heads[stream] = payload
        elif kind == RST_STREAM:
            self.resets[stream] = int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
        elif kind == PING and flags & ACK:
            self.pongs += 1
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            self.ended.add(stream)

    def status(self, stream: int) -> int:
        """Of this stream's answer."""
        found = self.heads[stream]
        return 200 if found[0] == 0x88 else int(found[found.index(b"\x03") + 1 :][:3])


@contextmanager
def http2_client(port: int, *settings: bytes) -> Iterator[Http2Client]:
    """A connection that has said hello."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        client = Http2Client(connection)
        client.send(PREFACE, frame(SETTINGS, 0, 0), *settings)
        yield client
