"""An LLM service with fixed responses, sent at once, so that only what surrounds it is measured.

`python -m bench.canned PORT CHUNKS MILLISECONDS`. A request with `"stream": true` gets a stream of so many chunks, with
so much time between them; one for a summary of reviews gets a summary whose evidence is the first of them.
"""

import asyncio
import json
import sys
from typing import Any

import httptools
import uvloop

from onecard.models.identity import MODEL_HEADER, ModelIdentity

MODEL = "bench"
"""Name of the model; the field `model` of the requests."""
PATH = "/v1/chat/completions"
STREAM_MARKER = b'"stream": true'
REVIEW_MARKER = b"review_id"
METRICS = b'vllm:num_requests_waiting{engine="0"} 0\n'
_OK = f"HTTP/1.1 200 OK\r\n{MODEL_HEADER}: {ModelIdentity(MODEL, 'canned', '0' * 16).header_value()}\r\n"
"""The header names a model, because the gateway caches no response without one."""
STREAM_HEAD = f"{_OK}content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".encode()


def chat(kind: str, **choice: Any) -> dict[str, Any]:
    """Make a response or a chunk of one."""
    return {"id": "chatcmpl-0", "object": kind, "created": 0, "model": MODEL, "choices": [{"index": 0, **choice}]}


def answer(content: str) -> bytes:
    """Render a whole chat response."""
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    made = {**chat("chat.completion", message=message, finish_reason="stop"), "usage": usage}
    return json.dumps(made, ensure_ascii=False).encode()


RESPONSE_BODY = answer("It is good.")


def summary(request: bytes) -> bytes:
    """Answer a request for a summary, with the first review of its prompt as evidence."""
    prompt = json.loads(request)["messages"][-1]["content"]
    first = json.loads(next(line for line in prompt.split("\n") if line.startswith("{")))
    evidence = {"review_id": first["review_id"], "snippet": first["text"]}
    texts = dict.fromkeys(("overall_summary", "positive_summary", "negative_summary"), "음식 맛이 좋습니다.")
    return answer(json.dumps({**texts, "evidence": [evidence]}, ensure_ascii=False))


def whole(body: bytes) -> bytes:
    """Render a complete HTTP response."""
    return f"{_OK}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


RESPONSE = whole(RESPONSE_BODY)


def events(count: int) -> list[bytes]:
    """Render `count` chunks of a stream (numbered words, then the finish reason) and `[DONE]`."""
    words: list[tuple[dict[str, str], str | None]] = [({"content": f"{number} "}, None) for number in range(count - 1)]
    chunks = [
        chat("chat.completion.chunk", delta=delta, finish_reason=reason) for delta, reason in [*words, ({}, "stop")]
    ]
    return [*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


class CannedUpstream(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, stream: list[bytes], seconds: float) -> None:
        self._stream = [b"%x\r\n%s\r\n" % (len(event), event) for event in stream]
        self._stream[-1] += b"0\r\n\r\n"
        self._seconds = seconds
        self._parser = httptools.HttpRequestParser(self)
        self._url = self._body = b""
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

    def on_url(self, url: bytes) -> None:
        """Called by httptools."""
        self._url += url

    def on_body(self, body: bytes) -> None:
        """Called by httptools."""
        self._body += body

    def on_message_complete(self) -> None:
        """Called by httptools."""
        url, body, self._url, self._body = self._url, self._body, b"", b""
        if STREAM_MARKER in body:
            self._transport.write(STREAM_HEAD)
            self._next(0, asyncio.get_running_loop().time())
        elif url == b"/metrics":
            self._transport.write(whole(METRICS))
        elif url == b"/health/ready":
            self._transport.write(whole(b'{"status": "ok"}'))
        else:
            self._transport.write(whole(summary(body)) if REVIEW_MARKER in body else RESPONSE)

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
