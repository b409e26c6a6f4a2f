"""LiteLLM's SDK."""

import json

import litellm
from cases import BASE_URL, EMBEDDING, KEY, LLM, MESSAGES, PENALTY, TEXTS, TOOL, UNKNOWN, failure, run

litellm.suppress_debug_info = True
WHERE = {"api_base": BASE_URL, "api_key": KEY, "timeout": 120, "num_retries": 0, "max_retries": 0}


def ask(model=LLM, **options):
    return litellm.completion(model=f"openai/{model}", messages=MESSAGES, **{"max_tokens": 20, **options}, **WHERE)


def chat():
    return ask().choices[0].message.content


def stream():
    return [chunk.choices[0].delta.content or "" for chunk in ask(stream=True)]


def tools():
    choice = {"type": "function", "function": {"name": "get_weather"}}
    call = (
        ask(tools=[TOOL], tool_choice=choice, max_tokens=300, frequency_penalty=PENALTY)
        .choices[0]
        .message.tool_calls[0]
        .function
    )
    return {"name": call.name, "arguments": json.loads(call.arguments)}


def embeddings():
    return [one["embedding"] for one in litellm.embedding(model=f"openai/{EMBEDDING}", input=TEXTS, **WHERE).data]


def error():
    return failure(lambda: ask(UNKNOWN))


run(chat=chat, stream=stream, tools=tools, embeddings=embeddings, error=error)
