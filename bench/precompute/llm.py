"""An LLM service on CANNED_PORT that returns a summary at once, so that only everything around it is measured."""

import json
import os

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from onecard.models.identity import MODEL_HEADER, ModelIdentity

MODEL = ModelIdentity("canned/model", "canned", "0" * 16)

app = FastAPI()


@app.get("/health/ready")
async def ready() -> Response:
    """Always answer that it is ready."""
    return JSONResponse({"status": "ok"}, headers={MODEL_HEADER: MODEL.header_value()})


@app.get("/metrics")
async def metrics() -> Response:
    """Report that no request is waiting."""
    return PlainTextResponse('vllm:num_requests_waiting{engine="0"} 0\n')


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """Return a fixed summary, with the first review of the prompt as evidence."""
    prompt = (await request.json())["messages"][-1]["content"]
    first = json.loads(next(line for line in prompt.split("\n") if line.startswith("{")))
    evidence = {"review_id": first["review_id"], "snippet": first["text"]}
    texts = dict.fromkeys(("overall_summary", "positive_summary", "negative_summary"), "음식 맛이 좋습니다.")
    content = json.dumps({**texts, "evidence": [evidence]}, ensure_ascii=False)
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return JSONResponse({"choices": [choice]}, headers={MODEL_HEADER: MODEL.header_value()})


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["CANNED_PORT"]), log_level="warning")
