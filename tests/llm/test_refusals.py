"""Bad requests: each has its 4xx in the one shape, and leaves the engine as it was."""

import json
import re
import socket
from typing import Any

import httpx
import pytest

from tests.llm.conftest import STAND_IN, Target
from tests.support import KEY, serving

CHAT, GENERATE = "/v1/chat/completions", "/generate"
A_PATH = re.compile(r"(?<!\w)/[\w.\-]+/[\w.\-]+")
OK: dict[str, Any] = {"model": STAND_IN, "messages": [{"role": "user", "content": "안녕하세요"}], "max_tokens": 2}


def chat(**changed: Any) -> bytes:
    """A good chat request, with some fields changed."""
    return json.dumps({**OK, **changed}).encode()


BAD: dict[str, tuple[str, bytes, int]] = {
    "malformed JSON": (CHAT, b'{"model": ', 400),
    "empty body": (CHAT, b"", 400),
    "not an object": (CHAT, b"[1]", 400),
    "empty object": (CHAT, b"{}", 400),
    "wrong type of messages": (CHAT, chat(messages="hello"), 400),
    "empty messages": (CHAT, chat(messages=[]), 400),
    "a message that is null": (CHAT, chat(messages=[None]), 400),
    "a message without role": (CHAT, chat(messages=[{"content": "a"}]), 400),
    "content of a wrong type": (CHAT, chat(messages=[{"role": "user", "content": 5}]), 400),
    "an image for a text model": (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b"}}]}]),
        400,
    ),
    "negative max_tokens": (CHAT, chat(max_tokens=-1), 400),
    "max_tokens as a word": (CHAT, chat(max_tokens="many"), 400),
    "more tokens than the window": (CHAT, chat(max_tokens=10_000_000), 400),
    "temperature out of range": (CHAT, chat(temperature=-1), 400),
    "top_p out of range": (CHAT, chat(top_p=7), 400),
    "n out of range": (CHAT, chat(n=0), 400),
    "n beyond reason": (CHAT, chat(n=100_000), 400),
    "a tool that is no tool": (CHAT, chat(tools=[{"type": "function"}]), 400),
    "a tool with nonsense for a schema": (CHAT, chat(tools=[{"type": "function", "function": {"name": 5}}]), 400),
    "an answer format that is none": (CHAT, chat(response_format={"type": "poem"}), 400),
    "a list for structured outputs": (CHAT, chat(structured_outputs=[None]), 400),
    "prompt over the window": (CHAT, chat(messages=[{"role": "user", "content": "맛있어요 " * 20_000}]), 400),
    "unknown model": (CHAT, chat(model="gpt-4o"), 404),
    "lone surrogate": (CHAT, chat(messages=[{"role": "user", "content": "\ud800"}]), 400),
    "NUL": (CHAT, chat(messages=[{"role": "user", "content": "a\0b"}]), 400),
    "not UTF-8": (CHAT, b'{"model": "\xff"}', 400),
    "3 MB": (CHAT, chat(user="a" * 3_000_000), 413),
    "empty prompt": ("/v1/completions", json.dumps({"model": STAND_IN, "prompt": ""}).encode(), 400),
    "5,000 prompts": ("/v1/completions", json.dumps({"prompt": ["a"] * 5_000}).encode(), 400),
    "5,000 prompts of token ids": ("/v1/completions", json.dumps({"prompt": [[5]] * 5_000}).encode(), 400),
    "100 prompts, 8 times each": ("/v1/completions", json.dumps({"prompt": ["a"] * 100, "n": 8}).encode(), 400),
    "token ids outside the vocabulary": ("/v1/completions", b'{"prompt": [[99999999]]}', 400),
    "generate without prompt": (GENERATE, b"{}", 400),
    "generate with an empty prompt": (GENERATE, b'{"prompt": ""}', 400),
    "generate with a wrong type": (GENERATE, b'{"prompt": 5}', 400),
    "generate with negative max_tokens": (GENERATE, b'{"prompt": "a", "max_tokens": -1}', 400),
    "generate with an unknown field": (GENERATE, b'{"prompt": "a", "max_token": 5}', 400),
    "generate over the window": (GENERATE, json.dumps({"prompt": "맛있어요 " * 20_000}).encode(), 400),
    "tokens of a wrong type": ("/detokenize", b'{"tokens": "abc"}', 400),
    "a route that resizes the server": ("/scale_elastic_ep", b'{"new_data_parallel_size": 2}', 404),
    "wrong path": ("/v1/nothing", b"{}", 404),
}


def assert_refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    """This status, in the one shape, without a path of the machine."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert isinstance(error["code"], str)
    assert error["message"]
    assert not A_PATH.search(error["message"].replace("GET /v1/models", ""))
    return error


def assert_still_works(target: Target) -> None:
    """A good request is answered."""
    assert target.http().post(CHAT, json=OK).status_code == 200


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_and_the_next_good_one_works(target: Target, case: str) -> None:
    """Each fault has its 4xx; the engine goes on."""
    path, body, status = BAD[case]
    assert_refused(target.http().post(path, content=body, headers={"content-type": "application/json"}), status)
    assert_still_works(target)


def test_more_prompts_than_ever_fit_are_told_the_limit(target: Target) -> None:
    """The message says how many fit; a list of token ids is one prompt, however long."""
    http = target.http()
    answer = http.post("/v1/completions", json={"prompt": ["a"] * 5_000, "max_tokens": 1})
    assert "at most 32 " in assert_refused(answer, 400)["message"]
    assert http.post("/v1/completions", json={"prompt": [5] * 500, "max_tokens": 1}).status_code == 200


def test_wrong_method_and_wrong_type(target: Target) -> None:
    """405 says what the path takes; 415 says what to send."""
    assert "POST" in assert_refused(target.http().get(CHAT), 405)["message"]
    answer = target.http().post(CHAT, content=chat(), headers={"content-type": "text/plain"})
    assert "application/json" in assert_refused(answer, 415)["message"]


@pytest.mark.parametrize("type_", ["application/vnd.api+json", "application/json ; charset=utf-8", "Application/JSON"])
def test_every_spelling_of_the_type_is_taken(target: Target, type_: str) -> None:
    """Also by the routes of the stock server, which by itself knows one."""
    headers = {"content-type": type_}
    for path, body in ((CHAT, chat()), ("/tokenize", b'{"prompt": "a"}')):
        assert target.http().post(path, content=body, headers=headers).status_code == 200


def test_a_body_that_is_missing_is_told(target: Target) -> None:
    """An empty POST that names no type lacks the body, and not the type."""
    assert "body" in assert_refused(target.http().post(CHAT), 400)["message"].lower()


def test_what_is_not_http_is_refused_in_the_one_shape(engine: Target) -> None:
    """A client that speaks something else reads a 400, also from the stock server."""
    with socket.create_connection(("127.0.0.1", engine.server.port), timeout=10) as raw:
        raw.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = raw.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def test_a_slow_body_is_a_408(llm_env: dict[str, str]) -> None:
    """A body that does not come ends its request, and only that."""
    env = {**llm_env, "VLLM_ENABLED": "false", "BODY_TIMEOUT_SECONDS": "0.5"}
    with serving("llm_service", port_variable="VLLM_PORT", env=env) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\ncontent-length: 10\r\n\r\n"
            raw.sendall(head.encode() + b"{")
            answer = raw.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 408")
        assert httpx.post(server.url + CHAT, json=OK, headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def test_texts_are_not_in_the_log(target: Target) -> None:
    """Neither a good text nor a refused one is written to the log."""
    secret = "쌍둥이다리해물탕"
    messages = [{"role": "user", "content": secret}]
    assert target.http().post(CHAT, json={**OK, "messages": messages}).status_code == 200
    assert target.http().post(CHAT, json={**OK, "messages": messages, "temperature": secret}).status_code == 400
    assert target.http().post(GENERATE, json={"prompt": secret, "max_tokens": 2}).status_code == 200
    assert secret not in target.server.log()
    assert json.dumps(secret) not in target.server.log()
