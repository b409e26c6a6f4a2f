"""Haystack."""

from cases import BASE_URL, CITIES, EMBEDDING, KEY, LLM, PENALTY, PROMPT, TEXTS, UNKNOWN, failure, run
from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret

SECRET = Secret.from_token(KEY)


def model(name=LLM, max_tokens=20, **options):
    return OpenAIChatGenerator(
        api_key=SECRET,
        api_base_url=BASE_URL,
        model=name,
        max_retries=0,
        timeout=120,
        generation_kwargs={
            "max_completion_tokens": max_tokens,
            "frequency_penalty": PENALTY,
            **options.pop("generation", {}),
        },
        **options,
    )


def messages():
    return [ChatMessage.from_user(PROMPT)]


def chat():
    return model().run(messages())["replies"][0].text


def stream():
    seen = []
    model(streaming_callback=lambda chunk: seen.append(chunk.content)).run(messages())
    return seen


def tools():
    parameters = {"type": "object", "properties": {"city": {"type": "string", "enum": CITIES}}, "required": ["city"]}
    parameters["additionalProperties"] = False
    tool = Tool(name="get_weather", description="Weather", parameters=parameters, function=lambda city: city)
    choice = {"type": "function", "function": {"name": "get_weather"}}
    answer = model(max_tokens=300, tools=[tool], tools_strict=True, generation={"tool_choice": choice}).run(messages())[
        "replies"
    ][0]
    return {"name": answer.tool_calls[0].tool_name, "arguments": answer.tool_calls[0].arguments}


def embeddings():
    embedder = OpenAITextEmbedder(api_key=SECRET, api_base_url=BASE_URL, model=EMBEDDING, max_retries=0)
    return [embedder.run(text)["embedding"] for text in TEXTS]


def error():
    return failure(lambda: model(UNKNOWN).run(messages()))


run(chat=chat, stream=stream, tools=tools, embeddings=embeddings, error=error)
