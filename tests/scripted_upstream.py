"""An upstream that answers as it is told: for faults that a real engine cannot be made to produce.

`python -m tests.scripted_upstream` serves the services' routes; the body's `case` says what happens. `POST /tell` and
`POST /open` say which model it claims to have, and let answers go on that wait; `POST /ail` says what is wrong with
the whole service, whatever it is asked.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from onecard.models import identity
from onecard.web.model_identity_middleware import ModelIdentityMiddleware

app = FastAPI()
app.add_middleware(ModelIdentityMiddleware, identity=lambda scope: identity.parse_header(seen["model"]))
seen: dict[str, Any] = {"headers": {}, "requests": 0, "callers": [], "model": "", "ailment": ""}
seen |= {"running": 0, "finished": 0, "cancelled": 0, "sent": 0}
gate = asyncio.Event()
RETRY_AFTER = {"retry-after": "3"}


@app.get("/health/ready")
async def ready() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/v1/models")
async def models() -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "canned/stand-in", "object": "model", "stand_in_for": "canned/meant"}]}


@app.get("/seen")
async def seen_so_far() -> dict[str, Any]:
    return seen


@app.post("/tell")
async def set_model(request: Request) -> None:
    seen["model"] = (await request.body()).decode()


@app.post("/ail")
async def set_fault(request: Request) -> None:
    """`500`, `429`, or the seconds that every answer takes; nothing: it is well."""
    seen["ailment"] = (await request.body()).decode()


@app.post("/open")
async def open_gate() -> None:
    gate.set()


def padding(body: dict[str, Any]) -> dict[str, str]:
    """A field as long as `padded` says, for answers that are longer than their requests."""
    return {"padding": "x" * body["padded"]} if "padded" in body else {}


async def scripted_events(body: dict[str, Any], number: int) -> AsyncIterator[bytes]:
    """The body's `events`, each with the number of the request; after the first, it waits for the gate if told to."""
    seen["running"] += 1
    try:
        for index, event in enumerate(body["events"] * body.get("times", 1)):
            if index == 1 and body.get("wait"):
                await gate.wait()
            text = event if isinstance(event, str) else json.dumps({"id": f"answer-{number}", **padding(body), **event})
            yield f"data: {text}\n\n".encode()
        if body.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        seen["finished"] += 1
    except asyncio.CancelledError:
        seen["cancelled"] += 1
        raise
    finally:
        seen["running"] -= 1


async def numbered_events(count: int, seconds: float, *, die: bool, wait: bool) -> AsyncIterator[bytes]:
    seen["running"] += 1
    try:
        for number in range(count):
            yield f"data: {number}\n\n".encode()
            await (gate.wait() if wait else asyncio.sleep(seconds))
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        yield b"data: [DONE]\n\n"
        seen["finished"] += 1
    except asyncio.CancelledError:
        seen["cancelled"] += 1
        raise
    finally:
        seen["running"] -= 1


async def endless_events(size: int) -> AsyncIterator[bytes]:
    """Events without end, as fast as they are taken."""
    seen["running"] += 1
    event = b"data: " + b"x" * size + b"\n\n"
    try:
        while True:
            seen["sent"] += len(event)
            yield event
            await asyncio.sleep(0)  # To a client that has left, sending never waits.
    finally:
        seen["running"] -= 1


async def two_part_body() -> AsyncIterator[bytes]:
    """One answer in two parts, with the gate between them."""
    seen["running"] += 1
    try:
        yield b'{"half": 1,'
        await gate.wait()
        yield b'"other": 2}'
    finally:
        seen["running"] -= 1


async def torn_event() -> AsyncIterator[bytes]:
    yield b"data: 0\n\n"
    yield b'data: {"id": "abc'
    await asyncio.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)


async def slow_response(request: Request, seconds: float) -> Response:
    seen["running"] += 1
    try:
        for _ in range(int(seconds * 20)):
            await asyncio.sleep(0.05)
            if await request.is_disconnected():
                seen["cancelled"] += 1
                break
    finally:
        seen["running"] -= 1
    return JSONResponse({})


@app.post("/v1/chat/completions")
@app.post("/v1/completions")
@app.post("/v1/responses")
@app.post("/generate")
@app.post("/v1/embeddings")
@app.post("/v1/sentiment")
async def respond(request: Request) -> Response:
    body = await request.json()
    seen["requests"] += 1
    seen["callers"].append(body.get("caller"))
    seen["headers"] = dict(request.headers)
    if seen["ailment"] == "500":
        return PlainTextResponse("Traceback: /secret/path 10.0.0.7", 500)
    if seen["ailment"] == "429":
        return JSONResponse(
            {"error": {"message": "Full.", "type": "t", "param": None, "code": "too_busy"}}, 429, RETRY_AFTER
        )
    await asyncio.sleep(float(seen["ailment"] or 0))
    match body["case"]:
        case "say" if "events" in body:
            return StreamingResponse(scripted_events(body, seen["requests"]), media_type="text/event-stream")
        case "say":
            if body.get("wait"):
                await gate.wait()
            answer = {"id": f"answer-{seen['requests']}", **padding(body), **body["answer"]}
            return JSONResponse(answer, body.get("status", 200), body.get("headers"))
        case "stream" | "stream and die":
            die, wait = body["case"] == "stream and die", body.get("wait", False)
            stream = numbered_events(body.get("count", 5), body.get("seconds", 0.1), die=die, wait=wait)
            return StreamingResponse(stream, media_type="text/event-stream")
        case "flood":
            return StreamingResponse(endless_events(body["size"]), media_type="text/event-stream")
        case "halves":
            return StreamingResponse(two_part_body(), media_type="application/json", headers={"content-length": "22"})
        case "slow":
            return await slow_response(request, body["seconds"])
        case "stream and die inside an event":
            return StreamingResponse(torn_event(), media_type="text/event-stream")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "plain error":
            return PlainTextResponse("Traceback: /secret/path 10.0.0.7", 500)
        case "busy":
            return JSONResponse({"error": {"message": "Full.", "type": "t", "param": None, "code": None}}, 503)
        case "refused":
            return JSONResponse({"error": {"message": "no key"}}, 401)
    return JSONResponse(body, headers={"server": "secret", "set-cookie": "a=b", "x-internal": "10.0.0.7"})


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["CANNED_PORT"]), log_level="warning")
