"""LangChain."""

from cases import BASE_URL, EMBEDDING, KEY, LLM, PENALTY, PROMPT, TEXTS, TOOL, UNKNOWN, failure, run
from langchain_openai import ChatOpenAI, OpenAIEmbeddings


def model(name=LLM, max_tokens=20):
    return ChatOpenAI(
        model=name,
        base_url=BASE_URL,
        api_key=KEY,
        max_retries=0,
        timeout=120,
        max_completion_tokens=max_tokens,
        frequency_penalty=PENALTY,
    )


def chat():
    return model().invoke(PROMPT).content


def stream():
    return [chunk.content for chunk in model().stream(PROMPT)]


def tools():
    call = model(max_tokens=300).bind_tools([TOOL], tool_choice="get_weather", strict=True).invoke(PROMPT).tool_calls[0]
    return {"name": call["name"], "arguments": call["args"]}


def embeddings():
    # It sends token ids of OpenAI's own tokenizer by default, which no other model understands; this is its switch.
    one = OpenAIEmbeddings(model=EMBEDDING, base_url=BASE_URL, api_key=KEY, check_embedding_ctx_length=False)
    return one.embed_documents(TEXTS)


def error():
    return failure(lambda: model(UNKNOWN).invoke(PROMPT))


run(chat=chat, stream=stream, tools=tools, embeddings=embeddings, error=error)
