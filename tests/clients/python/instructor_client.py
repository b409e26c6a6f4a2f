"""Instructor: structured answers; it has neither embeddings nor plain chats of its own."""

from typing import Literal

import instructor
from cases import BASE_URL, KEY, LLM, MESSAGES, PENALTY, UNKNOWN, failure, run
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field


class Weather(BaseModel):
    """Weather of a city."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["서울", "부산"]


class Verdict(BaseModel):
    """What a review says."""

    label: Literal["positive", "negative"]
    stars: int = Field(ge=1, le=5)


def client(mode):
    made = instructor.from_openai(OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=120), mode=mode)
    made.on("completion:kwargs", be_strict)
    return made


def be_strict(*_, **sent):
    """Its tools are not strict, and the stand-in, which knows nothing of weather, writes any arguments."""
    for tool in sent.get("tools", ()):
        tool["function"]["strict"] = True


def ask(mode, model=LLM, kind=Weather):
    return client(mode).chat.completions.create(
        model=model, messages=MESSAGES, response_model=kind, max_retries=1, max_tokens=300, frequency_penalty=PENALTY
    )


def tools():
    return {"name": "get_weather", "arguments": ask(instructor.Mode.TOOLS).model_dump()}


def schema():
    return ask(instructor.Mode.JSON_SCHEMA, kind=Verdict).model_dump()


def stream():
    parts = client(instructor.Mode.TOOLS).chat.completions.create_partial(
        model=LLM, messages=MESSAGES, response_model=Weather, max_tokens=300, frequency_penalty=PENALTY
    )
    return [str(part.city) for part in parts if getattr(part, "city", None)]


def error():
    found = failure(lambda: ask(instructor.Mode.TOOLS, model=UNKNOWN))
    return {**found, "status": found["status"] or (404 if "404" in found["text"] else None)}


run(tools=tools, schema=schema, stream=stream, error=error)
