"""An upstream with one fixed response, sent at once. A request with `"stream": true` gets a paced stream.

`python -m bench.gateway.canned PORT CHUNKS MILLISECONDS`: number of chunks of a stream, and the time between them. If
nginx is installed, it serves the short responses instead, because it is faster.
"""

import asyncio
import json
import sys

import httptools
import uvloop

from bench.gateway.requests import MODEL
from onecard.models.identity import MODEL_HEADER, ModelIdentity

USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
RESPONSE_BODY = json.dumps(
    {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "It is good."}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
)
STREAM_MARKER = b'"stream": true'
_OK = f"HTTP/1.1 200 OK\r\n{MODEL_HEADER}: {ModelIdentity(MODEL, 'canned', '0' * 16).header_value()}\r\n"
"""The header names a model, because the gateway caches no response without one."""
JSON_HEAD = f"{_OK}content-type: application/json\r\ncontent-length: {len(RESPONSE_BODY)}\r\n\r\n"
STREAM_HEAD = f"{_OK}content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".encode()


def events(count: int) -> list[bytes]:
    """Render `count` chunks of a stream (numbered words, then the finish reason) and `[DONE]`."""
    words: list[tuple[dict[str, str], str | None]] = [({"content": f"{number} "}, None) for number in range(count - 1)]
    chunks = [
        {
            "id": "chatcmpl-0",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": MODEL,
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        }
        for delta, reason in [*words, ({}, "stop")]
    ]
    return [*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


class CannedUpstream(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, stream: list[bytes], seconds: float) -> None:
        self._stream = [b"%x\r\n%s\r\n" % (len(event), event) for event in stream]
        self._stream[-1] += b"0\r\n\r\n"
        self._seconds = seconds
        self._parser = httptools.HttpRequestParser(self)
        self._streamed = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Called by httptools."""
        self._streamed = self._streamed or STREAM_MARKER in body

    def on_message_complete(self) -> None:
        """Called by httptools."""
        if self._streamed:
            self._streamed = False
            self._transport.write(STREAM_HEAD)
            self._next(0, asyncio.get_running_loop().time())
        else:
            self._transport.write((JSON_HEAD + RESPONSE_BODY).encode())

    def _next(self, number: int, due: float) -> None:
        """Send one event, and schedule the next for when it is due (at once if this process is late)."""
        self._transport.write(self._stream[number])
        if number + 1 < len(self._stream):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(due + self._seconds, self._next, number + 1, due + self._seconds)


async def serve(port: int, count: int, seconds: float) -> None:
    """Serve on `port` until stopped: streams of `count` chunks, `seconds` apart."""
    loop, stream = asyncio.get_running_loop(), events(count)
    server = await loop.create_server(lambda: CannedUpstream(stream, seconds), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
