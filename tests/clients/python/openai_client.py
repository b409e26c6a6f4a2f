"""The official SDK."""

import json

from cases import BASE_URL, EMBEDDING, KEY, LLM, MESSAGES, PENALTY, TEXTS, TOOL, UNKNOWN, failure, run
from openai import OpenAI

client = OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=120)


def chat():
    return client.chat.completions.create(model=LLM, messages=MESSAGES, max_tokens=20).choices[0].message.content


def stream():
    chunks = client.chat.completions.create(model=LLM, messages=MESSAGES, max_tokens=20, stream=True)
    return [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]


def tools():
    choice = {"type": "function", "function": {"name": "get_weather"}}
    answer = client.chat.completions.create(
        model=LLM, messages=MESSAGES, tools=[TOOL], tool_choice=choice, max_tokens=300, frequency_penalty=PENALTY
    )
    call = answer.choices[0].message.tool_calls[0].function
    return {"name": call.name, "arguments": json.loads(call.arguments)}


def embeddings():
    return [one.embedding for one in client.embeddings.create(model=EMBEDDING, input=TEXTS).data]


def error():
    return failure(lambda: client.chat.completions.create(model=UNKNOWN, messages=MESSAGES))


run(chat=chat, stream=stream, tools=tools, embeddings=embeddings, error=error)
