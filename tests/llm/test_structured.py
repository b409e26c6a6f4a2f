"""Tools, schemas and grammars on a real vLLM: whichever comes first, all of them work, in streams and through the
gateway, too."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from review_service.insight.prompts import chat_request as summary_request
from review_service.schemas import StoredReview
from tests.llm.conftest import STAND_IN
from tests.support import KEY, VLLM_START_SECONDS, Server, serving

CHAT = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["서울", "부산"]}, "days": {"type": "integer", "minimum": 1, "maximum": 3}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TEXTS = ["국물이 진하고 고기도 부드러워요. 또 갈게요.", "직원이 친절해요."]
REVIEWS = [
    StoredReview(review_id=f"r-{n}", restaurant_id="a", text=text, sentiment="positive", sentiment_score=0.9)
    for n, text in enumerate(TEXTS)
]
SUMMARY = summary_request(REVIEWS, temperature=0.3, priority=0)
NAMED = {"type": "function", "function": {"name": "weather"}}
Holds = Callable[[dict[str, Any]], bool]


def tools(**more: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA, **more}}]


def calls(message: dict[str, Any]) -> bool:
    """Calls of the one tool.

    (Its arguments need not end: the stand-in, which has learnt nothing of weather, may fill
    them until its tokens are used up; then the beginning of a call is the content of a whole answer.)"""
    names = [call["function"]["name"] for call in message.get("tool_calls") or []]
    return set(names) == {"weather"} or (message["content"] or "").startswith('<tool_call>{"name": "weather", ')


def calls_strictly(message: dict[str, Any]) -> bool:
    """As `calls`, and the arguments are those of its schema, as far as they go."""
    text = message["content"] or message["tool_calls"][0]["function"]["arguments"]
    return calls(message) and any(f'{{"city": "{city}"' in text for city in ("서울", "부산"))


def says(message: dict[str, Any]) -> bool:
    """A text or a call, as the model likes."""
    return bool(message["content"] or message.get("tool_calls"))


def json_with(*names: str) -> Holds:
    return lambda message: set(json.loads(message["content"])) == set(names)


def one_of(*texts: str) -> Holds:
    return lambda message: message["content"] in texts


TOOLS: dict[str, tuple[dict[str, Any], Holds]] = {
    "required": ({"tools": tools(), "tool_choice": "required"}, calls),
    "named": ({"tools": tools(), "tool_choice": NAMED}, calls),
    "strict": ({"tools": tools(strict=True)}, says),
    "strict and required": ({"tools": tools(strict=True), "tool_choice": "required"}, calls_strictly),
    "auto": ({"tools": tools(), "tool_choice": "auto"}, says),
}
SUMMARIES = {"summary": (SUMMARY, json_with(*SUMMARY["response_format"]["json_schema"]["schema"]["properties"]))}
SHAPES: dict[str, tuple[dict[str, Any], Holds]] = {
    "json_schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "w", "strict": True, "schema": SCHEMA}}},
        json_with("city", "days"),
    ),
    "json_object": ({"response_format": {"type": "json_object"}}, lambda message: message["content"].startswith("{")),
    "choice": ({"structured_outputs": {"choice": ["좋음", "나쁨"]}}, one_of("좋음", "나쁨")),
    "regex": ({"structured_outputs": {"regex": "[0-9]{3}-(a|b);"}}, lambda message: message["content"][3] == "-"),
    "grammar": ({"structured_outputs": {"grammar": 'root ::= ("ab" | "cd") "!"'}}, one_of("ab!", "cd!")),
    "json": ({"structured_outputs": {"json": SCHEMA}}, json_with("city", "days")),
}


@pytest.fixture(params=["tools first", "summary first"], scope="module")
def fresh(request: pytest.FixtureRequest, llm_env: dict[str, str]) -> Iterator[tuple[Server, list[str]]]:
    """A vLLM that has had no such request yet, and the order in which it gets them."""
    cases = [TOOLS, SUMMARIES, SHAPES] if request.param == "tools first" else [SUMMARIES, TOOLS, SHAPES]
    with serving("llm_service", port_variable="VLLM_PORT", env=llm_env, ready_within=VLLM_START_SECONDS) as server:
        yield server, [name for some in cases for name in some]


def ask(url: str, body: dict[str, Any]) -> httpx.Response:
    plain = {"model": STAND_IN, "messages": [{"role": "user", "content": "서울의 날씨는?"}], "max_tokens": 60}
    body = {**plain, "temperature": 0, **body}
    return httpx.post(url + CHAT, json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=120)


def joined(answer: httpx.Response) -> dict[str, Any]:
    """The message that a stream comes to."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    message: dict[str, Any] = {"content": "", "tool_calls": []}
    for line in lines[:-1]:
        for choice in json.loads(line)["choices"]:
            message["content"] += choice["delta"].get("content") or ""
            for part in choice["delta"].get("tool_calls") or []:
                if part["index"] == len(message["tool_calls"]):
                    message["tool_calls"].append({"function": {"name": "", "arguments": ""}})
                for name, text in part["function"].items():
                    message["tool_calls"][part["index"]]["function"][name] += text or ""
    return message


def test_all_kinds_of_structure_work_in_either_order(fresh: tuple[Server, list[str]]) -> None:
    """Twice over, whole and as a stream. Left to choose, vLLM took a compiler that could not read tools."""
    server, order = fresh
    for name in order * 2:
        body, holds = {**TOOLS, **SUMMARIES, **SHAPES}[name]
        whole = ask(server.url, body)
        assert whole.status_code == 200, (name, whole.text)
        assert holds(whole.json()["choices"][0]["message"]), (name, whole.text)
        stream = ask(server.url, {**body, "stream": True})
        assert stream.status_code == 200, (name, stream.text)
        assert '"error"' not in stream.text, (name, stream.text)
        assert holds(joined(stream)), (name, stream.text)
