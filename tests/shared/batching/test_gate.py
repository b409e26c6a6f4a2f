"""What an encoder's gate makes of a request before it is parsed."""

import json
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.batching.batcher import Batcher
from onecard.batching.queue import Lane
from onecard.errors import TooBusy
from onecard.inference import encoder, scheduling
from onecard.inference.scheduling import WAITED_HEADER, max_text_count
from onecard.inference.settings import EncoderSettings
from onecard.web.recent_bodies import RecentBodies
from tests.shared.batching.support import SumEngine, blocking_device, open_batcher

texts = st.lists(st.text(), min_size=1, max_size=40) | st.lists(
    st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=40
)


@given(texts, st.sampled_from([(",", ":"), (" ,\n ", " : "), (", ", ": ")]), st.booleans())
def test_no_texts_are_overlooked(inputs: list[Any], separators: tuple[str, str], escaped: bool) -> None:
    """However a body is written; other fields and quotes in texts may add a few, never take one away."""
    body = {"model": "m", "input": inputs, "encoding_format": "float"}
    written = json.dumps(body, ensure_ascii=escaped, separators=separators).encode(errors="replace")
    assert max_text_count(written, enough=2048) >= len(inputs)
    assert max_text_count(written, enough=3) >= min(4, len(inputs))


def test_one_text_is_one() -> None:
    """Whatever commas it has; the token ids of one text are one, too."""
    for one in ("국물, 고기, 밥, 김치가 다 좋아요", [101, 7, 8, 102]):
        assert max_text_count(json.dumps({"input": one}).encode(), 16) == 1
        assert max_text_count(json.dumps({"model": "m", "input": [one]}).encode(), 16) == 2


class CountedPattern:
    """Counts the matches that are taken of a pattern."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern
        self.matches = 0

    def finditer(self, body: bytes) -> Iterator[re.Match[bytes]]:
        for match in self._pattern.finditer(body):
            self.matches += 1
            yield match


def test_a_million_texts_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """That took a tenth of a second of the event loop, for each request."""
    pattern = CountedPattern(scheduling._NEXT_TEXT)
    monkeypatch.setattr(scheduling, "_NEXT_TEXT", pattern)
    assert max_text_count(b'["a"' + b',"a"' * 10_000 + b"]", enough=16) == 17
    assert pattern.matches == 16


async def test_the_gate_counts_as_far_as_the_lane_depends_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to one text more than an interactive request has."""
    pattern = CountedPattern(scheduling._NEXT_TEXT)
    monkeypatch.setattr(scheduling, "_NEXT_TEXT", pattern)
    async with open_batcher(SumEngine()) as it:
        gate(it.batcher)({}, {"input": ["a"] * 10_000})
    assert pattern.matches == EncoderSettings().interactive_texts


def fill(batcher: Batcher[int], lane: Lane = "interactive", seconds: float = 30) -> None:
    """Queue work in a lane until there is too much of it."""
    while True:
        batcher.enqueue([[1] * 1000], lane=lane, timeout_seconds=seconds, deliver=lambda _: None)


def gate(batcher: Batcher[int]) -> Callable[[dict[str, str], dict[str, Any]], None]:
    """A service's gate, which is asked with headers and a body's fields."""
    service = SimpleNamespace(settings=EncoderSettings(), batcher=batcher, recent_bodies=RecentBodies())
    app: Any = SimpleNamespace(state=SimpleNamespace(service=service))

    def check(headers: dict[str, str], fields: dict[str, Any]) -> None:
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        encoder.load_shedder("/v1/embeddings")(app).check({"type": "http", "headers": raw}, json.dumps(fields).encode())

    return check


@pytest.mark.parametrize(
    ("count", "headers", "let_in"),
    [
        (1, {}, False),
        (16, {}, False),
        (32, {}, True),
        (32, {"x-onecard-lane": "interactive"}, False),
        (1, {"x-onecard-lane": "bulk"}, True),
        (32, {"x-onecard-timeout-ms": "30000"}, False),
    ],
)
async def test_a_request_is_judged_in_its_own_lane(count: int, headers: dict[str, str], let_in: bool) -> None:
    """While interactive ones are refused, a bulk request that may wait ten times as long is let in, as the batcher
    would."""
    event, wait = blocking_device()
    async with open_batcher(SumEngine(wait), rate=1000, tokens=1000, texts=32, queue=262_144) as it:
        with pytest.raises(TooBusy):
            fill(it.batcher)
        body = {"input": ["text"] * count}
        if let_in:
            gate(it.batcher)(headers, body)
        else:
            with pytest.raises(TooBusy):
                gate(it.batcher)(headers, body)
        event.set()


@pytest.mark.parametrize("count", [1, 32])
async def test_who_has_waited_is_judged_as_one_who_has(count: int) -> None:
    """Whether its lane is known here or not."""
    event, wait = blocking_device()
    async with open_batcher(SumEngine(wait), rate=1000, tokens=1000, texts=32, queue=262_144) as it:
        for lane in ("interactive", "bulk"):
            with pytest.raises(TooBusy):
                fill(it.batcher, lane, EncoderSettings().request_timeout_seconds)  # 7.5 s, and the running batch.
        check = gate(it.batcher)
        body = {"input": ["text"] * count}
        lane_and_limit = {"x-onecard-timeout-ms": "30000"}
        with pytest.raises(TooBusy):
            check(lane_and_limit, body)
        for value in ("0", "true", ""):
            with pytest.raises(TooBusy):
                check({**lane_and_limit, WAITED_HEADER: value}, body)
        check({**lane_and_limit, WAITED_HEADER: "1"}, body)
        event.set()


async def test_an_import_refuses_no_interactive_request() -> None:
    """Not even one whose other fields, as OpenAI's SDK writes them, look like further texts. One that is counted as
    refused is refused in its own lane."""
    event, wait = blocking_device()
    async with open_batcher(SumEngine(wait), rate=1000, tokens=1000, texts=32, queue=262_144) as it:
        with pytest.raises(TooBusy):
            fill(it.batcher, "bulk", EncoderSettings().bulk_timeout_seconds)
        bulk, check = {"x-onecard-lane": "bulk"}, gate(it.batcher)
        for count in (1, 15, 16):
            body = {"input": ["text"] * count, "model": "m", "encoding_format": "base64"}
            before = it.metric("queue_refused_total", lane="bulk")
            check({}, body)
            assert it.metric("queue_refused_total", lane="bulk") == before
            with pytest.raises(TooBusy):
                check(bulk, body)
            assert it.metric("queue_refused_total", lane="bulk") == before + 1
        assert it.metric("queue_refused_total", lane="interactive") == 0
        event.set()
