"""An LLM service on CANNED_PORT that answers at once, so that only the cache is measured."""

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from onecard.models.identity import MODEL_HEADER, ModelIdentity

MODEL = "canned/model"
PIECES = 16
"""Number of chunks of a stream."""

app = FastAPI()


@app.get("/health/ready")
async def ready() -> Response:
    """Always answer that it is ready."""
    return _with_model(JSONResponse({"status": "ok"}))


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """Return a fixed response, as JSON or as a stream."""
    if (await request.json()).get("stream"):
        return _with_model(StreamingResponse(_events(), media_type="text/event-stream"))
    message = {"role": "assistant", "content": "It is good."}
    return _with_model(JSONResponse(_answer("chat.completion", {"message": message, "finish_reason": "stop"})))


async def _events() -> AsyncIterator[bytes]:
    for number in range(PIECES):
        finish_reason = "stop" if number == PIECES - 1 else None
        choice = {"delta": {"content": f"{number} "}, "finish_reason": finish_reason}
        yield f"data: {json.dumps(_answer('chat.completion.chunk', choice))}\n\n".encode()
    yield b"data: [DONE]\n\n"


def _answer(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "canned-0", "object": kind, "created": 0, "model": MODEL, "choices": [{"index": 0, **choice}]}


def _with_model(response: Response) -> Response:
    """Add the header that names the model, because the gateway caches no response without one."""
    response.headers[MODEL_HEADER] = ModelIdentity(MODEL, "canned", "0" * 16).header_value()
    return response


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["CANNED_PORT"]), log_level="warning")
