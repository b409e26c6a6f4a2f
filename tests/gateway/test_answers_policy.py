"""Which requests are one request, and which answers are whole."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answers import cache_policy, completeness
from gateway.answers.cache_policy import Bypass, CacheableRequest
from gateway.request_body import MAX_EXACT_BYTES, JsonBody
from onecard.cache.keys import CacheKind, JsonValue, canonical

CHAT: CacheKind = "chat"
JSON_TYPE = "application/json"

texts = st.text(max_size=8)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))

MATTERS: dict[str, st.SearchStrategy[Any]] = {
    "model": texts,
    "messages": st.lists(st.fixed_dictionaries({"role": texts, "content": texts}), max_size=3),
    "temperature": st.floats(0, 0.29),
    "top_p": st.floats(0.01, 0.94),
    "max_tokens": st.integers(17, 2**70),
    "n": st.integers(2, 9),
    "seed": st.integers(0, 2**70),
    "stop": texts | st.lists(texts, min_size=1, max_size=2),
    "stream": st.just(True),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}),
    "tools": st.lists(values, min_size=1, max_size=2),
    "tool_choice": texts,
    "response_format": st.fixed_dictionaries({"type": texts}),
    "logprobs": st.just(True),
    "top_k": st.integers(0, 9),
    "repetition_penalty": st.floats(1, 2),
    "cache_salt": texts,
    "something_new": values,
}
"""Fields that an answer depends on, with values that are none of the defaults."""

IGNORED: dict[str, st.SearchStrategy[Any]] = {
    "user": texts,
    "safety_identifier": texts,
    "metadata": st.dictionaries(texts, texts, max_size=2),
    "store": st.booleans(),
    "service_tier": texts,
    "prompt_cache_key": texts,
    "priority": st.integers(),
    "request_id": texts,
    "session_id": texts,
}
SAID_ANYWAY: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([None, 0.3]),
    "top_p": st.sampled_from([None, 0.95]),
    "n": st.just(1),
    "stream": st.just(False),
    "frequency_penalty": st.none(),
    "seed": st.none(),
}
"""Fields with the values that they have when they are left out."""


def some_of(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def read(body: object, kind: CacheKind = CHAT) -> CacheableRequest | Bypass:
    return cache_policy.cacheable(kind, JSON_TYPE, exact(json.dumps(body).encode()), 0.3)


def exact(body: bytes) -> JsonBody:
    return JsonBody(body, is_exact=True)


def material(body: object, kind: CacheKind = CHAT) -> JsonValue:
    question = read(body, kind)
    assert isinstance(question, CacheableRequest), question
    return question.key_fields


@given(some_of(MATTERS), st.sampled_from(sorted(MATTERS)), st.data())
def test_requests_that_differ_in_a_field_that_matters_share_no_key(
    fields: dict[str, Any], name: str, data: st.DataObject
) -> None:
    """Also in fields that the gateway has never heard of."""
    other = {**fields, name: data.draw(MATTERS[name])}
    assert (canonical(material(fields)) == canonical(material(other))) == (canonical(fields) == canonical(other))


@given(some_of(MATTERS), some_of(IGNORED), some_of(SAID_ANYWAY), st.randoms(), st.sampled_from([None, 1, 4]))
def test_requests_that_differ_in_nothing_that_matters_share_a_key(
    fields: dict[str, Any], ignored: dict[str, Any], said_anyway: dict[str, Any], order: Any, indent: int | None
) -> None:
    """Order, white space, defaults that are written out, and fields that no answer depends on."""
    pairs = list({**said_anyway, **fields, **ignored}.items())
    order.shuffle(pairs)
    body = json.dumps(dict(pairs), indent=indent, ensure_ascii=indent is None)
    question = cache_policy.cacheable(
        CHAT, "application/json; charset=utf-8", exact(body.encode("utf-8", "surrogatepass")), 0.3
    )
    assert isinstance(question, CacheableRequest)
    assert canonical(question.key_fields) == canonical(material(fields))


@given(some_of(IGNORED), some_of(IGNORED))
def test_requests_that_an_engine_may_refuse_each_on_its_own_tell_so(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Whatever has no effect on an answer may still be refused, except `user`."""
    told = [
        canonical(question.unkeyed_fields) for question in map(read, (one, other)) if not isinstance(question, Bypass)
    ]
    sent = [canonical({name: body[name] for name in body if name != "user"}) for body in (one, other)]
    assert (told[0] == told[1]) == (sent[0] == sent[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"n": 1, "n": 2}', b'{"n": 2, "n": 1}'),
        (b'{"seed": 36893488147419103233}', b'{"seed": 36893488147419103234}'),
        (b'{"seed": 1}', b'{"seed": 1.0}'),
        (b'{"frequency_penalty": 0}', b"{}"),
        (b'{"n": 1}', b'{"n": true}'),
        (b'{"logprobs": false}', b'{"logprobs": 0}'),
        (b'{"top_p": 1}', b'{"top_p": "1"}'),
        (b'{"user": "a"}', b'{"user": 5}'),
        (b'{"stream": false}', b'{"stream": null}'),
        (b'{"chat_template_kwargs": {"a": null}}', b'{"chat_template_kwargs": {}}'),
    ],
)
def test_odd_bodies_that_a_service_tells_apart_share_no_key(one: bytes, other: bytes) -> None:
    """The last of several fields counts; long integers keep their digits; a wrong type is not the default."""
    questions = [cache_policy.cacheable(CHAT, JSON_TYPE, exact(body), 0.3) for body in (one, other)]
    told = [canonical(q.key_fields) if isinstance(q, CacheableRequest) else b"" for q in questions]
    assert told[0] != told[1]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b'{"temperature": 0.3', "body"),
        (b"[" * 100_000, "body"),
        ('{"prompt": "a"}'.encode("utf-16"), "body"),
        (b'\xef\xbb\xbf{"prompt": "a"}', "body"),
        (b'{"seed": ' + b"9" * 5_000 + b"}", "body"),
        (b'{"prompt": "' + b"a" * MAX_EXACT_BYTES + b'"}', "size"),
        (b'{"temperature": 0.31}', "temperature"),
        (b'{"temperature": NaN}', "temperature"),
        (b'{"temperature": 1e400}', "temperature"),
        (b'{"temperature": "0"}', "temperature"),
        (b'{"temperature": false}', "temperature"),
        (b'{"temperature": [0]}', "temperature"),
        (b'{"stream": "true"}', "stream"),
        (b'{"stream": 1}', "stream"),
        (b'{"kv_transfer_params": {"remote": 1}}', "transfer"),
    ],
)
def test_what_is_only_relayed(body: bytes, reason: str) -> None:
    """What the gateway cannot read as the service will, and what is too hot."""
    assert cache_policy.cacheable(CHAT, JSON_TYPE, exact(body), 0.3) == Bypass(reason)


def test_a_body_that_is_not_declared_as_json_is_only_relayed() -> None:
    """The service refuses it, whatever it holds."""
    assert cache_policy.cacheable(CHAT, "text/plain", exact(b"{}"), 0.3) == Bypass("body")
    assert cache_policy.cacheable(CHAT, None, exact(b"{}"), 0.3) == Bypass("body")


def test_generate_refuses_fields_that_the_others_ignore() -> None:
    """A request that the service refuses has a key that no answer gets; and it never streams."""
    plain = material({"prompt": "a"}, "generate")
    assert canonical(plain) == canonical(material({"prompt": "a", "max_tokens": 150, "stop": []}, "generate"))
    for wrong in ({"user": "b"}, {"max_tokens": None}, {"stream": False}):
        assert canonical(plain) != canonical(material({"prompt": "a", **wrong}, "generate"))
    question = read({"prompt": "a", "stream": True}, "generate")
    assert isinstance(question, CacheableRequest)
    assert not question.is_stream


def test_temperature_counts_as_it_takes_effect() -> None:
    """One that is left out is the service's own."""
    body = b'{"messages": []}'
    assert isinstance(cache_policy.cacheable(CHAT, JSON_TYPE, exact(body), 0.3), CacheableRequest)
    assert cache_policy.cacheable(CHAT, JSON_TYPE, exact(body), 0.2) == Bypass("temperature")
    assert isinstance(cache_policy.cacheable(CHAT, JSON_TYPE, exact(b'{"temperature": 0}'), 0.0), CacheableRequest)


def chunk(*choices: tuple[int, str | None]) -> bytes:
    told = [{"index": index, "delta": {}, "finish_reason": reason} for index, reason in choices]
    return b"data: " + json.dumps({"choices": told}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("events", "is_whole"),
    [
        (chunk((0, None)) + chunk((0, "stop")) + DONE, True),
        (chunk((0, None), (1, None)) + chunk((1, "length")) + chunk((0, "tool_calls")) + chunk() + DONE, True),
        (chunk((0, None)) + chunk((0, "stop")), False),
        (chunk((0, None)) + DONE, False),
        (chunk((0, None), (1, None)) + chunk((0, "stop")) + DONE, False),
        (chunk((0, "abort")) + DONE, False),
        (chunk((0, "stop")) + b'data: {"error": {"message": "no"}}\n\n' + DONE, False),
        (chunk((0, "stop")) + b'data: {"choi\n\n' + DONE, False),
        (chunk((0, "stop")) + DONE + chunk((0, "stop")), False),
        (chunk((0, "stop")) + DONE[:-1], False),
        (DONE, False),
        (b"", False),
    ],
)
def test_a_stream_is_whole_when_every_choice_has_ended_and_it_says_so(events: bytes, is_whole: bool) -> None:
    """Chunks of the network are not events, so only the whole of it is looked at."""
    assert completeness.is_complete_stream(events) == is_whole


@pytest.mark.parametrize(
    ("body", "is_whole"),
    [
        ({"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]}, True),
        ({"choices": [{"finish_reason": "stop"}, {"finish_reason": None}]}, False),
        ({"choices": [{"finish_reason": "abort"}]}, False),
        ({"choices": []}, False),
        ({"choices": [5]}, False),
        ({"error": {}, "choices": [{"finish_reason": "stop"}]}, False),
        ([], False),
    ],
)
def test_an_answer_is_whole_when_every_choice_has_ended(body: object, is_whole: bool) -> None:
    """`abort`, null and an error are no end."""
    assert completeness.is_complete_response("chat", json.dumps(body).encode()) == is_whole
    assert not completeness.is_complete_response("chat", json.dumps(body).encode()[:-1])


def test_what_is_too_long_to_parse_is_not_whole() -> None:
    """An answer or an event whose parsing would keep everybody waiting; a stream may be longer, event by event."""
    answer = json.dumps({"choices": [{"finish_reason": "stop"}]}).encode()
    longest = answer.ljust(completeness.MAX_PARSED_BYTES)
    assert completeness.is_complete_response("chat", longest)
    assert not completeness.is_complete_response("chat", longest + b" ")
    event = chunk((0, "stop"))[:-2].ljust(completeness.MAX_PARSED_BYTES - 2) + b"\n\n"
    assert completeness.is_complete_stream(event * 3 + DONE)
    padded = event.replace(b'"finish', b" " * completeness.MAX_PARSED_BYTES + b'"finish')
    assert not completeness.is_complete_stream(padded + DONE)
