"""Pydantic AI: agents; embeddings by its own embedder."""

from typing import Literal

from cases import BASE_URL, EMBEDDING, KEY, LLM, PENALTY, PROMPT, TEXTS, UNKNOWN, failure, run
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, Embedder, ToolOutput
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings


def provider():
    return OpenAIProvider(openai_client=AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=120))


def agent(name=LLM, max_tokens=20, **options):
    model = OpenAIChatModel(name, provider=provider())
    return Agent(
        model, model_settings=ModelSettings(max_tokens=max_tokens, frequency_penalty=PENALTY), retries=0, **options
    )


class Weather(BaseModel):
    """Weather of a city."""

    city: Literal["서울", "부산"]


def chat():
    return agent().run_sync(PROMPT).output


def stream():
    with agent().run_stream_sync(PROMPT) as answer:
        return list(answer.stream_text(delta=True, debounce_by=None))


def tools():
    output = (
        agent(max_tokens=300, output_type=ToolOutput(Weather, name="get_weather", strict=True)).run_sync(PROMPT).output
    )
    return {"name": "get_weather", "arguments": output.model_dump()}


def embeddings():
    embedder = Embedder(OpenAIEmbeddingModel(EMBEDDING, provider=provider()))
    return [list(vector) for vector in embedder.embed_documents_sync(TEXTS).embeddings]


def error():
    return failure(lambda: agent(UNKNOWN).run_sync(PROMPT))


run(chat=chat, stream=stream, tools=tools, embeddings=embeddings, error=error)
