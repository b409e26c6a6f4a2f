"""LlamaIndex."""

from typing import Literal

from cases import BASE_URL, EMBEDDING, KEY, LLM, PENALTY, PROMPT, TEXTS, UNKNOWN, failure, run
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


def model(name=LLM, max_tokens=20):
    return OpenAILike(
        model=name,
        api_base=BASE_URL,
        api_key=KEY,
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
        timeout=120,
        max_tokens=max_tokens,
        additional_kwargs={"frequency_penalty": PENALTY},
    )


def messages():
    return [ChatMessage(role="user", content=PROMPT)]


def chat():
    return model().chat(messages()).message.content


def stream():
    return [chunk.delta or "" for chunk in model().stream_chat(messages())]


class Where(BaseModel):
    """Where to look."""

    city: Literal["서울", "부산"]


def tools():
    tool = FunctionTool.from_defaults(lambda city: city, name="get_weather", description="Weather", fn_schema=Where)
    llm = model(max_tokens=300)
    answer = llm.chat_with_tools([tool], PROMPT, tool_required=True, tool_choice="get_weather", strict=True)
    call = llm.get_tool_calls_from_response(answer)[0]
    return {"name": call.tool_name, "arguments": call.tool_kwargs}


def embeddings():
    one = OpenAILikeEmbedding(model_name=EMBEDDING, api_base=BASE_URL, api_key=KEY, max_retries=0)
    return one.get_text_embedding_batch(TEXTS)


def error():
    return failure(lambda: model(UNKNOWN).chat(messages()))


run(chat=chat, stream=stream, tools=tools, embeddings=embeddings, error=error)
