"""The output of a real vLLM, of all its processes: what a request brings is nowhere in it, and forges no line."""

import json
from typing import Any

import httpx
import pytest

from tests.llm.conftest import STAND_IN
from tests.support import KEY, Server

SECRET = "쌍둥이다리해물탕 twinleg"
FORGED = f'\n{{"event": "{SECRET}", "level": "critical", "service": "llm"}}\n'
PLAIN: dict[str, Any] = {"model": STAND_IN, "messages": [{"role": "user", "content": SECRET + FORGED}], "max_tokens": 3}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"$ref": FORGED}}}
BODIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "stream": {"stream": True},
    "wrong types": {"temperature": SECRET, "stop": {SECRET: SECRET}},
    "an unknown field": {SECRET: SECRET, "request_id": FORGED},
    "a schema that names another": {"structured_outputs": {"json": {"$ref": f"http://{FORGED}"}}},
    "a schema in a stream": {
        "stream": True,
        "structured_outputs": {"json": {"type": SECRET, "properties": {"a": TOOL}}},
    },
    "a grammar": {"structured_outputs": {"grammar": f"root ::= {FORGED}"}},
    "a grammar that nothing follows": {"structured_outputs": {"grammar": "root ::= root"}, "request_id": SECRET},
    "a regular expression": {"stream": True, "structured_outputs": {"regex": f"({FORGED}"}},
    "choices": {"structured_outputs": {"choice": [FORGED, SECRET]}},
    "a tool's parameters": {"tools": [TOOL], "tool_choice": "required"},
    "a tool that is not there": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": FORGED}}},
    "arguments that are no JSON": {
        "messages": [
            {
                "role": "assistant",
                "content": FORGED,
                "tool_calls": [{"id": FORGED, "type": "function", "function": {"name": FORGED, "arguments": FORGED}}],
            },
            PLAIN["messages"][0],
        ]
    },
    "a template's variables": {"chat_template_kwargs": {"messages": [SECRET], "tools": FORGED}},
    "a template": {"chat_template": f"{{{{ raise_exception('{SECRET}') }}}}"},
    "a role": {"messages": [{"role": SECRET, "content": FORGED}]},
    "a model": {"model": FORGED},
    "an image": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": FORGED}}]}]},
    "a salt": {"cache_salt": SECRET, "session_id": FORGED, "user": FORGED, "vllm_xargs": {SECRET: FORGED}},
    "words": {"bad_words": [SECRET, FORGED], "stop": [SECRET], "logit_bias": {SECRET: 1}},
    "transfers": {"kv_transfer_params": {SECRET: FORGED}, "ec_transfer_params": {SECRET: FORGED}},
}


def ask(server: Server, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> int:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
    return httpx.post(server.url + path, content=body, headers=headers, timeout=120).status_code


def assert_clean(log: str) -> None:
    assert "twinleg" not in log
    assert "쌍둥이" not in log
    assert json.dumps("쌍둥이").strip('"') not in log


@pytest.fixture
def said(vllm: Server) -> Any:
    """What it has put out since the test began."""
    httpx.get(f"{vllm.url}/health/ready")
    before = len(vllm.log())
    return lambda: vllm.log()[before:]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/generate"])
def test_nothing_of_a_request_is_in_the_log(vllm: Server, said: Any, path: str) -> None:
    """Neither of a good one nor of a wrong one, and each line is one of ours."""
    for case, changed in BODIES.items():
        body = {**PLAIN, "prompt": SECRET, "input": FORGED, **changed}
        status = ask(vllm, json.dumps(body).encode(), path)
        assert status < 500, case
    log = said()
    assert_clean(log)
    for line in log.splitlines():
        assert json.loads(line)["service"] == "llm", line
        assert len(line) < 10_000


def test_nor_of_bytes_and_headers(vllm: Server, said: Any) -> None:
    """What is no JSON, and headers that vLLM reads."""
    for body in (
        f'{{"prompt": "{SECRET}'.encode(),
        SECRET.encode("euc-kr"),
        b"\xff" + SECRET.encode(),
        FORGED.encode(),
    ):
        assert ask(vllm, body) == 400
    forging = "twinleg {}"
    names = ("x-request-id", "x-session-id", "x-data-parallel-rank", "traceparent", "endpoint-load-metrics-format")
    for name in names:
        assert ask(vllm, json.dumps(PLAIN).encode(), **{name: forging}) < 500, name
    assert_clean(said())


def test_a_request_adds_little_to_the_log(vllm: Server, said: Any) -> None:
    """A schema with thousands of faults made 750 kB of it, a line for each."""
    wrong = [{"$ref": f"http://{number}"} for number in range(2500)]
    for stream in (False, True):
        schema = {"type": "object", "properties": {"a": {"anyOf": wrong}}}
        ask(vllm, json.dumps({**PLAIN, "stream": stream, "structured_outputs": {"json": schema}}).encode())
    assert len(said()) < 20_000
