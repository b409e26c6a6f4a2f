"""What one request may ask for, on both engines: none starves the others, and hostile parameters are a 400."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_service.request_limits import (
    MAX_ITEMS,
    MAX_LENGTH_BOUNDS,
    MAX_PRIORITY,
    MAX_PROPERTIES,
    MAX_STREAM_INTERVAL,
    RequestLimits,
    check_request,
)
from onecard.errors import OnecardError
from tests.llm.conftest import STAND_IN, Target
from tests.llm.test_refusals import CHAT, OK, assert_refused, assert_still_works

TEXT: dict[str, Any] = {"model": STAND_IN, "prompt": "국물이 ", "max_tokens": 2}
BOUNDS = RequestLimits(max_texts=32, max_tokenize_bytes=1000, max_schema_bytes=2000)
HUGE = 10**30


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": properties}}}


TOO_MUCH: dict[str, tuple[dict[str, Any], str]] = {
    "n": ({"n": 384}, "n"),
    "n as a text": ({"n": "384"}, "n"),
    "n as a fraction": ({"n": 1e30}, "n"),
    "n below one": ({"n": -1}, "n"),
    "best_of": ({"best_of": 384}, "best_of"),
    "priority": ({"priority": -(10**9)}, "priority"),
    "priority as a text": ({"priority": "-5"}, "priority"),
    "priority beyond": ({"priority": MAX_PRIORITY + 1}, "priority"),
    "top_k": ({"top_k": HUGE}, "top_k"),
    "top_k as a text": ({"top_k": str(HUGE)}, "top_k"),
    "stream_interval": ({"stream_interval": MAX_STREAM_INTERVAL + 1}, "stream_interval"),
    "repetition_penalty": ({"repetition_penalty": 5e-324}, "repetition_penalty"),
    "repetition_detection": ({"repetition_detection": {"max_pattern_size": HUGE}}, "repetition_detection"),
    "stop": ({"stop": ["a"] * 17}, "stop"),
}
ON_VLLM: dict[str, tuple[dict[str, Any], str | None]] = {
    "a text of digits within": ({"repetition_detection": {"max_pattern_size": str(HUGE)}}, "repetition_detection"),
    "numbers for extensions": ({"vllm_xargs": {"a": HUGE}}, "vllm_xargs"),
    "a grammar of itself": ({"structured_outputs": {"grammar": "root ::= root"}}, None),
    "a schema of itself": ({"structured_outputs": {"json": {"$ref": "#"}}}, None),
    "properties": ({"response_format": schema(**{f"a{n}": {} for n in range(MAX_PROPERTIES + 1)})}, "response_format"),
    "lengths": (
        {"response_format": schema(**{f"a{n}": {"maxLength": 9} for n in range(MAX_LENGTH_BOUNDS + 1)})},
        "response_format",
    ),
    "a schema of 100 kB": ({"response_format": schema(a={"enum": ["a" * 100_000]})}, "response_format"),
    "a pattern with a length": (
        {"response_format": schema(a={"type": "string", "pattern": "a", "maxLength": 4})},
        None,
    ),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_what_asks_for_too_much_is_a_400(target: Target, case: str) -> None:
    """It names the field, also in a stream, and the engine goes on. 384 texts or a priority of −10⁹ starved others."""
    changed, param = TOO_MUCH[case]
    for path, body in (("/v1/completions", TEXT), (CHAT, OK)):
        for stream in (False, True):
            answer = target.http().post(path, json={**body, **changed, "stream": stream})
            error = assert_refused(answer, 400)
            assert error["param"] == param or (target.engine == "transformers" and error["param"])
    assert_still_works(target)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", ON_VLLM)
def test_constraints_that_cannot_be_are_a_400(vllm_target: Target, case: str, stream: bool) -> None:
    """As a stream, too, unless it has begun: then an error in the one shape is its end, without `[DONE]`."""
    changed, param = ON_VLLM[case]
    answer = vllm_target.http().post(CHAT, json={**OK, **changed, "stream": stream})
    if answer.status_code == 200:
        assert stream
        *_, last = (line for line in answer.text.splitlines() if line)
        error = json.loads(last.removeprefix("data: "))["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_value")
    else:
        assert assert_refused(answer, 400)["param"] == param
    assert_still_works(vllm_target)


def test_a_responses_stream_that_fails_ends_with_an_error(vllm_target: Target) -> None:
    """It was torn, in the middle of a chunked body."""
    body = {"model": STAND_IN, "input": "a", "stream": True, "structured_outputs": {"regex": "("}}
    answer = vllm_target.http().post("/v1/responses", json=body)
    if answer.status_code == 200:
        assert '"invalid_value"' in answer.text.splitlines()[-2]
        assert "[DONE]" not in answer.text
    else:
        assert_refused(answer, 400)


def test_a_header_lowers_a_priority_and_raises_none(engine: Target) -> None:
    """vLLM takes it before the body's."""
    for value, status in (("-1000000000", 400), (str(-HUGE), 400), ("soon", 400), ("5", 200)):
        answer = engine.http().post("/v1/completions", json=TEXT, headers={"x-vllm-priority": value})
        assert answer.status_code == status, value


def test_tokenizing_has_a_bound(target: Target) -> None:
    """A body over it is a 413 that says how much fits; below it all is as before."""
    for path, field in (("/tokenize", {"prompt": "가" * 90_000}), ("/detokenize", {"tokens": [1] * 130_000})):
        assert "256 kB" in assert_refused(target.http().post(path, json=field), 413)["message"]
    assert target.http().post("/tokenize", json={"prompt": "가" * 60_000}).status_code == 200


def test_only_what_is_offered_is_served(vllm_target: Target) -> None:
    """vLLM's other routes take what is bounded here in fields of their own."""
    http = vllm_target.http()
    for path in ("/invocations", "/v1/messages", "/v1/chat/completions/batch", "/inference/v1/generate", "/v2/chat"):
        assert http.post(path, json=OK).status_code == 404, path


def refused(path: str, body: Any, size: int = 100) -> bool:
    try:
        check_request(path, [], size, body, BOUNDS)
    except OnecardError as error:
        return error.status in (400, 413)
    return False


@given(st.integers(), st.integers(min_value=1, max_value=100))
def test_prompts_times_n_are_bounded(n: int, prompts: int) -> None:
    """However they are shared out."""
    assert refused("/v1/completions", {"n": n, "prompt": ["a"] * prompts}) == (not 1 <= n * prompts <= 32 or n < 1)


@given(st.integers())
def test_a_priority_is_only_lowered(priority: int) -> None:
    """Larger numbers wait for smaller ones."""
    assert refused(CHAT, {"priority": priority}) == (not 0 <= priority <= MAX_PRIORITY)


@given(st.integers() | st.floats(min_value=1))
def test_an_event_of_a_stream_has_a_bound(interval: float) -> None:
    """Else a client could leave a stream before its one event, and nothing would have been counted."""
    assert refused(CHAT, {"stream_interval": interval}) == (interval > MAX_STREAM_INTERVAL or interval <= -(2**63))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
FIELDS = [
    *("n", "best_of", "priority", "logprobs", "top_logprobs", "logit_bias", "stop", "stop_token_ids", "bad_words"),
    *("min_tokens", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty"),
    *("prompt_logprobs", "echo", "suffix", "truncate_prompt_tokens", "structured_outputs", "response_format", "tools"),
    *("tool_choice", "chat_template_kwargs", "allowed_token_ids", "stream_options", "repetition_detection"),
    *("thinking_token_budget", "stream_interval", "vllm_xargs", "messages", "prompt", "input", "tokens", "text"),
    *("skip_special_tokens", "ignore_eos", "use_beam_search", "cache_salt", "request_id", "kv_transfer_params"),
]


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
def test_no_body_breaks_the_check(body: dict[str, Any]) -> None:
    """It refuses, or leaves the rest to the engine."""
    refused(CHAT, body)


def test_nesting_does_not_break_the_check() -> None:
    """As deep as the parser lets it come."""
    deep: Any = {"type": "string"}
    for _ in range(1000):
        deep = {"properties": {"a": deep}}
    check_request(CHAT, [], 100, {"vllm_xargs": deep, "tools": [deep]}, BOUNDS)
    assert refused(CHAT, {"response_format": deep})
    for name, most in MAX_ITEMS.items():
        assert refused(CHAT, {name: ["a"] * (most + 1)}), name


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/generate"])
def test_no_parameter_is_a_500(vllm_target: Target, path: str) -> None:
    """Any value in any field, of any type: an answer or a 4xx, in the one shape."""
    base = {**TEXT, "messages": OK["messages"], "input": "a"}
    with vllm_target.http() as http:

        @settings(max_examples=60, suppress_health_check=list(HealthCheck))
        @given(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=2), st.booleans())
        def ask(changed: dict[str, Any], stream: bool) -> None:
            body = {**base, **changed, "stream": stream, "max_tokens": 2, "max_output_tokens": 2}
            content = json.dumps(body).encode("utf-8", "surrogatepass")
            answer = http.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            elif '{"error"' in answer.text:
                assert "[DONE]" not in answer.text.partition('{"error"')[2]

        ask()
    assert_still_works(vllm_target)
