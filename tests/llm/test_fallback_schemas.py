"""What the Transformers engine does not know is refused where it would change the answer, at every depth of a body."""

from typing import Any

import pytest

from llm_service.fallback.schemas import ChatRequest, DetokenizeRequest, KnownFields, TokenizeRequest
from onecard.errors import InvalidRequest

USER = {"role": "user", "content": "국물이 어때요?"}
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("kind", "body", "param"),
    [
        (ChatRequest, {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]}, "messages"),
        (ChatRequest, {"messages": [USER, {"role": "tool", "content": "맑음", "tool_call_id": "a"}]}, "messages"),
        (ChatRequest, {"messages": [{"role": "assistant", "refusal": "싫어요"}]}, "messages"),
        (TokenizeRequest, {"messages": [{"role": "assistant", "tool_calls": [CALL]}]}, "messages"),
        (TokenizeRequest, {"prompt": "a", "tools": [{}]}, "tools"),
        (DetokenizeRequest, {"tokens": [1], "skip_special_tokens": True}, "skip_special_tokens"),
        (
            ChatRequest,
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "x"}}]}
                ]
            },
            "messages",
        ),
        (
            ChatRequest,
            {"messages": [USER], "stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options",
        ),
    ],
    ids=[
        "calls",
        "result of a call",
        "refusal",
        "calls to count",
        "tools to count",
        "tokens",
        "part",
        "usage in each chunk",
    ],
)
def test_what_would_change_the_answer_is_refused(kind: type[KnownFields], body: dict[str, Any], param: str) -> None:
    """A conversation without its tool calls is another one."""
    with pytest.raises(InvalidRequest) as refused:
        kind.model_validate(body)
    assert refused.value.param == param


def test_an_answer_of_ours_can_be_sent_back() -> None:
    """With all the fields that the official client has in it."""
    said = {"role": "assistant", "content": "진해요", "refusal": None, "annotations": [], "audio": None}
    said |= {"function_call": None, "tool_calls": None}
    for calls in (None, []):
        request = ChatRequest.model_validate({"messages": [USER, {**said, "tool_calls": calls}, {**USER, "name": "a"}]})
    assert [message.for_template() for message in request.messages] == [
        USER,
        {"role": "assistant", "content": "진해요"},
        {**USER, "name": "a"},
    ]
