"""How many tokens an answer cost, counted as it passes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.token_usage import MAX_PARSED_BYTES, MAX_READ_BYTES, TokenUsage, TokenUsageCounter


def metered(chunks: list[bytes], content_type: bytes = b"application/json", status: int = 200, asked: int = 40) -> int:
    meter = TokenUsageCounter(asked)
    meter.begin(status, content_type)
    for chunk in chunks:
        meter.feed(chunk)
    return meter.tokens()


STREAM = b"text/event-stream; charset=utf-8"
EVENTS = b'data: {"a": 1, "usage": null}\n\ndata: {"a": "\\"usage\\""}\n\n'
LAST = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}\n\n'
CALLS = b'[{"function": {"arguments": "{}"}}]'
MANY = b'data: {"choices": [{"delta": {"content": "0123456789", "tool_calls": ' + CALLS + b"}}]}\n\n"
RESPONSES = b'event: response.completed\ndata: {"response": {"usage": {"total_tokens": 9}}}\n\n'
TOOL = b'{"parameters": {"usage": {"total_tokens": 0}}}'
CREATED = b'data: {"response": {"tools": [' + TOOL + b'], "usage": null, "metadata": ' + TOOL + b"}}\n\n"


@pytest.mark.parametrize(
    ("answer", "content_type", "tokens"),
    [
        (b'{"usage": {"prompt_tokens": 3, "total_tokens": 7}}', b"application/json", 7),
        (b'{"text": "\\"usage\\": {}"}', b"application/json", 10 + 6),
        (EVENTS + LAST + b"data: [DONE]\n\n", STREAM, 7),
        (EVENTS + RESPONSES, STREAM, 9),
        (CREATED + EVENTS, STREAM, 10 + 3),
        (CREATED + RESPONSES, STREAM, 9),
        (EVENTS + b"data: [DONE]\n\n", STREAM, 10 + 2),
        (EVENTS + MANY + b'data: {"choices": [{"text": "012345678"}]}\n\n', STREAM, 10 + 2 + 3 + 2),
        (b'data: {"choices": [{"delta": {"content": ""}}]}\n\ndata: {"choices": 1}\n\n', STREAM, 10 + 2),
        (b'data: {"choices": [{"delta": {"content": "01234567", "tool_calls": [{"id": "a"}]}}]}\n\n', STREAM, 10 + 2),
        (b'[{"embedding": "' + b"a" * MAX_PARSED_BYTES + b'"}]', b"application/json", 10),
        (b'{"data": "' + b"a" * MAX_PARSED_BYTES + b'", "usage": {"total_tokens": 7}}', b"application/json", 7),
        (b"data: " + b"a" * MAX_PARSED_BYTES + b"\n\n" + LAST, STREAM, 7),
    ],
    ids=[
        "usage",
        "no usage",
        "stream with usage",
        "responses",
        "a response that was left, with tools of the caller's",
        "a response with tools of the caller's",
        "stream without",
        "many tokens in an event",
        "odd events",
        "a tool call that begins",
        "huge",
        "huge with usage",
        "huge event",
    ],
)
@given(data=st.data())
def test_tokens_are_those_of_the_usage_or_an_estimate(
    data: st.DataObject, answer: bytes, content_type: bytes, tokens: int
) -> None:
    """However the answer is cut into chunks."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=8)))
    chunks = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    assert metered(chunks, content_type) == tokens


def continuous(choice: int, completion: int) -> bytes:
    """An event as `continuous_usage_stats` has it: with what its choice alone has cost so far."""
    usage = {"prompt_tokens": 12, "completion_tokens": completion, "total_tokens": 12 + completion}
    event = {"choices": [{"index": choice, "delta": {"content": "01234567"}}], "usage": usage}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def test_a_choice_that_reports_its_own_tokens_does_not_stand_for_all() -> None:
    """A client that leaves before the end pays for all choices; at the end the usage of all counts, as it is."""
    sent = [continuous(choice, completion) for completion in (2, 4) for choice in range(32)]
    assert metered(sent, STREAM) == 10 + 2 * 64
    assert metered([continuous(0, 500)], STREAM) == 512, "an event may hold more tokens than its text shows"
    assert metered([*sent, LAST], STREAM) == metered([*sent, LAST, *sent], STREAM) == 7


@pytest.mark.parametrize("kind", ["output_text", "reasoning_text", "function_call_arguments"])
def test_events_of_the_responses_api_count_by_their_text(kind: str) -> None:
    """As those of chat do; one without a text counts as one token."""
    event = {"type": f"response.{kind}.delta", "delta": "0123456789" * 20, "logprobs": []}
    added = b"event: response\ndata: " + json.dumps(event).encode() + b"\n\n"
    assert metered([CREATED, added, added], STREAM) == 10 + 1 + 2 * 50
    assert metered([CREATED, added, RESPONSES], STREAM) == 9


@pytest.mark.parametrize("size", [200_000, 1_200_000])
@given(data=st.data())
def test_a_usage_counts_whatever_comes_behind_it(data: st.DataObject, size: int) -> None:
    """The log-probabilities of a prompt come last, and may be most of an answer. However it is cut."""
    logprob = b'{"1234": {"logprob": -1.5, "rank": 1, "decoded_token": "\\"usage\\""}}'
    behind = b"[" + b",".join([logprob] * (size // len(logprob))) + b"]"
    answer = b'{"choices": [], "usage": {"total_tokens": 7}, "prompt_logprobs": ' + behind + b"}"
    near = st.integers(0, 100) | st.integers(0, len(answer))
    cuts = sorted(data.draw(st.lists(near, max_size=20)))
    chunks = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    assert metered(chunks) == 7


@pytest.mark.parametrize("content_type", [STREAM, b"application/json"])
def test_where_nothing_is_limited_an_answer_is_still_asked_what_it_cost(content_type: bytes) -> None:
    """For the metrics; its events are not read for that, and only its end is kept."""
    meter = TokenUsageCounter(40, estimates=False)
    meter.begin(200, content_type)
    for chunk in (*[MANY] * 10_000, EVENTS, LAST, b"data: [DONE]\n\n"):
        meter.feed(chunk)
    assert meter.usage() == TokenUsage(3, 4, 7)
    assert len(meter._pending) <= 2 * MAX_READ_BYTES


@given(st.text() | st.sampled_from(['"usage": {"total_tokens": 9}', '"usage', '"usage"']), st.booleans())
def test_no_text_passes_for_usage(text: str, spaced: bool) -> None:
    """Whatever an answer says in words, before its `usage` and after it."""
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    answer = {"content": text, "response": {"usage": usage}, "tokens": [text]}
    meter = TokenUsageCounter(0)
    meter.begin(200, b"application/json")
    meter.feed(json.dumps(answer, ensure_ascii=False, separators=None if spaced else (",", ":")).encode())
    assert meter.usage() == TokenUsage(3, 4, 7)


def test_errors_cost_nothing() -> None:
    """Nor does a request that was never answered."""
    body = json.dumps({"usage": {"total_tokens": 7}}).encode()
    assert metered([body], status=503) == 0
    assert metered([body], status=0) == 0
