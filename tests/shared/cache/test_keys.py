"""Keys: alike exactly if the values may be shared."""

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.cache.keys import JsonValue, Keyspace, ServingConfig, canonical, fingerprint

FACTS = ServingConfig(tokenizer="t1", precision="fp16", engine="torch 2", window=128, truncation="right")
SPACE = Keyspace("embedding", "org/model", "r1", FACTS)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
)


def typed(value: JsonValue) -> object:
    """An independent idea of equality, in which 1, 1.0 and true differ and fields have no order."""
    if isinstance(value, dict):
        return ("object", frozenset((name, typed(item)) for name, item in value.items()))
    if isinstance(value, list):
        return ("array", tuple(typed(item) for item in value))
    return (type(value).__name__, repr(value))


@given(values, values)
def test_two_requests_share_a_key_exactly_if_they_are_equal(one: JsonValue, other: JsonValue) -> None:
    """Over any two JSON values."""
    assert (canonical(one) == canonical(other)) == (typed(one) == typed(other))


@given(values)
def test_every_part_of_a_request_counts(value: JsonValue) -> None:
    """Wrapped, or with a field more, it is another request."""
    others: list[JsonValue] = [[value], {"": value}, [value, None], {"a": value, "b": None}, json.dumps(value)]
    keys = {canonical(other) for other in [value, *others]}
    assert len(keys) == 1 + len(others)


def test_look_alikes_differ() -> None:
    """What compares equal in Python, or reads alike in JSON, does not share an answer."""
    alike: list[JsonValue] = [1, 1.0, "1", True, False, 0, 0.0, -0.0, None, "", [], {}, [[]], [{}], {"a": None}, "None"]
    assert len({SPACE.for_json(value) for value in alike}) == len(alike)


def test_the_order_of_fields_does_not_count_and_that_of_items_does() -> None:
    """As in JSON."""
    assert SPACE.for_json({"a": 1, "b": 2}) == SPACE.for_json({"b": 2, "a": 1})
    assert SPACE.for_json([1, 2]) != SPACE.for_json([2, 1])


def test_depth_and_size_are_no_limit() -> None:
    """A body that is nested as deep as the parser allows, and an integer of any length, have keys."""
    deep: JsonValue = []
    for _ in range(5000):
        deep = [deep]
    assert SPACE.for_json(deep) != SPACE.for_json([deep])
    assert SPACE.for_json(10**5000) != SPACE.for_json(10**5000 + 1)


@pytest.mark.parametrize("value", [b"bytes", {1: "a"}, object(), [b""]])
def test_what_is_not_json_has_no_key(value: JsonValue) -> None:
    """It is refused rather than taken for something else."""
    with pytest.raises((TypeError, AttributeError)):
        SPACE.for_json(value)


@pytest.mark.parametrize("name", [field.name for field in fields(ServingConfig)])
def test_every_fact_makes_another_key(name: str) -> None:
    """A switch of tokenizer, precision, engine, window, truncation or anything else finds no old value."""
    changed = replace(FACTS, **{name: {"window": 256, "details": (("pooling", "cls"),)}.get(name, "other")})
    assert fingerprint(changed) != fingerprint(FACTS)
    assert not set(replace(SPACE, serving_config=changed).for_texts(["a"])) & set(SPACE.for_texts(["a"]))


@pytest.mark.parametrize("other", [{"model": "org/other"}, {"revision": "r2"}, {"kind": "sentiment"}])
def test_another_model_revision_or_kind_makes_another_key(other: dict[str, str]) -> None:
    """Nor does a switch of these."""
    assert replace(SPACE, **other).for_texts(["a"]) != SPACE.for_texts(["a"])  # type: ignore[arg-type]


@given(st.text(), st.text(), st.text(), st.text())
def test_names_cannot_run_into_each_other(model: str, revision: str, other_model: str, other_revision: str) -> None:
    """A name that holds a separator is still one name."""
    one = Keyspace("chat", model, revision, FACTS).prefix
    other = Keyspace("chat", other_model, other_revision, FACTS).prefix
    assert (one == other) == ((model, revision) == (other_model, other_revision))


@given(st.lists(st.text(), unique=True))
def test_texts_share_a_key_only_with_themselves(texts: list[str]) -> None:
    """No trimming, no normalisation: 'é' in one code point and in two are two texts to a tokenizer."""
    assert len(set(SPACE.for_texts(texts))) == len(texts)


def test_texts_token_ids_and_requests_never_share_a_key() -> None:
    """Even where their bytes are the same."""
    text = "\x01" + "\x00" * 7
    (by_text,), (by_ids,) = SPACE.for_texts([text]), SPACE.for_token_ids([[1]])
    assert len({by_text, by_ids, SPACE.for_json(text)}) == 3


def test_a_key_reads_as_the_design_says() -> None:
    """`onecard:{kind}:{model}@{revision}:{fingerprint}:{digest}`."""
    (key,) = SPACE.for_texts(["a"])
    assert key.decode().startswith(f"onecard:embedding:org/model@r1:{fingerprint(FACTS)}:")
    assert len(key.decode().rsplit(":", 1)[1]) == 40
