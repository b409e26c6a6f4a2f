"""An LLM service that writes what it is told: `POST /tell` gives it the texts of its next answers.

`POST /wait` says how many requests wait for it, by its metrics; `POST /become` which model it has, by a name;
`POST /write-as` which one its answers name instead, in a list: none for the empty name.
"""

import os
from collections import deque
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from onecard.client_traffic import INTERNAL_HEADER
from onecard.models.identity import MODEL_HEADER, ModelIdentity

app = FastAPI()
texts: deque[str] = deque()
seen: list[Any] = []
internal: list[str | None] = []
"""Who says that the request is Onecard's own."""
waiting: list[int] = [0]
names: list[str] = ["canned"]
writers: list[str] = []


def model_header(name: str) -> dict[str, str]:
    """The header that names a model."""
    return {MODEL_HEADER: ModelIdentity(name, "r1", "0" * 16).header_value()} if name else {}


@app.get("/health/ready")
async def ready() -> Response:
    return JSONResponse({"status": "ok"}, headers=model_header(names[0]))


@app.get("/seen")
async def seen_so_far() -> list[Any]:
    return seen


@app.get("/internal")
async def internal_so_far() -> list[str | None]:
    return internal


@app.post("/tell")
async def set_texts(request: Request) -> None:
    texts.clear()
    seen.clear()
    texts.extend(await request.json())


@app.post("/wait")
async def set_waiting(request: Request) -> None:
    waiting[0] = await request.json()


@app.post("/become")
async def set_model(request: Request) -> None:
    names[0] = await request.json()


@app.post("/write-as")
async def set_writers(request: Request) -> None:
    writers[:] = await request.json()


@app.get("/metrics")
async def metrics() -> PlainTextResponse:
    return PlainTextResponse(f'vllm:num_requests_waiting{{engine="0"}} {waiting[0]}\n')


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """The next text; `500` and `cut` are faults."""
    seen.append(await request.json())
    internal.append(request.headers.get(INTERNAL_HEADER))
    text = texts.popleft()
    if text == "500":
        return JSONResponse({"error": {"message": "x"}}, 500)
    choice = {"message": {"content": text}, "finish_reason": "length" if text == "cut" else "stop"}
    return JSONResponse({"choices": [choice]}, headers=model_header(writers[0] if writers else names[0]))


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["CANNED_PORT"]), log_level="warning")
