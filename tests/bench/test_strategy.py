"""The benchmark of the strategy: the day's traffic, and the table of promises."""

import asyncio
import itertools
import json
from collections import Counter
from itertools import islice
from typing import Any

import pytest

from bench.measurements import Measurement
from bench.strategy import __main__ as report
from bench.strategy import traffic
from bench.strategy.__main__ import StrategyResults
from bench.strategy.measure import replay
from bench.strategy.phases import PHASES, RunningPhase
from bench.strategy.promises import NOT_MEASURED, PROMISES
from bench.strategy.traffic import CELLS, MIX, RESTAURANTS, TEXTS, Ask, Cell
from tests.bench.test_report import HEAD

SAMPLES = ["국물이 진하고 맛있어요", "직원이 친절하네요", "주차가 힘들어요", "가격이 비싸요", "양이 많아요"]
NO_REPEATS, ZIPF = CELLS[:2]


def sent(cell: Cell, count: int) -> list[tuple[str, bytes]]:
    return [traffic.request(ask, ready=False) for ask in islice(cell.asks(SAMPLES), count)]


def test_a_day_without_repeats_has_none() -> None:
    """And it is the same day for each phase."""
    made = sent(NO_REPEATS, 400)
    assert len(set(made)) == 400
    assert sent(NO_REPEATS, 400) == made


def test_a_day_repeats_by_zipf() -> None:
    """What is first by Zipf's law is asked for most; the seed decides it all."""
    restaurants = Counter(ask.number for ask in islice(ZIPF.asks(SAMPLES), 2_000) if ask.kind == "restaurant")
    assert set(restaurants) <= set(range(RESTAURANTS))
    assert restaurants.most_common(1)[0][0] == 0
    assert len(set(sent(ZIPF, 400))) < 300


def test_the_mix_is_what_is_written_down() -> None:
    """Kinds come as often as `MIX` says, each with its number of texts."""
    asks = list(islice(NO_REPEATS.asks(SAMPLES), 2_000))
    counted = Counter(ask.kind for ask in asks)
    assert counted == pytest.approx({kind: 20 * share for kind, share in MIX.items()}, rel=0.2)
    assert all(len(ask.texts) == TEXTS[ask.kind] for ask in asks)


def test_a_precomputed_restaurant_is_one_that_is_stored() -> None:
    """It is asked for by its name, and its stored reviews are those that other phases send to be classified."""
    texts = traffic.texts_of(SAMPLES, traffic.DAY, "restaurant", 3)
    service, request = traffic.request(Ask("restaurant", 3, texts), ready=True)
    stored = [one for one in traffic.stored(SAMPLES, traffic.DAY) if one["restaurant_id"] == "rest-3"]
    assert service == "review"
    assert request.startswith(b"GET /v1/restaurants/rest-3/sentiment ")
    body = json.loads(traffic.request(Ask("restaurant", 3, texts), ready=False)[1].split(b"\r\n\r\n", 1)[1])
    assert [one["text"] for one in stored] == body["input"]


async def test_who_is_refused_comes_again() -> None:
    """As `Retry-After` says; it counts as refused, and as answered once."""
    answers = itertools.chain([b"429 Busy\r\nretry-after: 0"], itertools.repeat(b"200 OK\r\nx-cache: hit"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(10_000):
            writer.write(b"HTTP/1.1 " + next(answers) + b"\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        running = RunningPhase(PHASES[0], dict.fromkeys(("review", "sentiment", "llm", "embedding"), url))
        figures = await replay(running, Cell("one client", {"embedding": 1}, repeats=False, clients=1), SAMPLES, 0.05)
    assert figures["refused"] == 1
    assert figures["errors"] == 0
    assert figures["saved_share"] == 1


def results() -> StrategyResults:
    """The start answers 5 requests a second in each part; phase 3 twenty times as many, half of them cached."""

    def figures(rate: float, saved: float) -> dict[str, float | None]:
        return {
            "requests": 100, "per_second": rate, "p50_ms": 1000 / rate, "p99_ms": 2000 / rate, "hit_p50_ms": 2.0,
            "hit_p99_ms": 4.0, "saved_share": saved, "texts_per_request": 400 / rate, "refused": 0, "errors": 0,
            "resident_mb": 1000,
        }  # fmt: skip

    phases = {"before": 5.0, "phase 1": 10.0, "phase 1 + vLLM": 20.0, "phase 2": 50.0, "phase 3": 100.0}
    visits = [
        Measurement(name, cell.name, 0, figures(rate, 0.5 if rate == 50.0 else 0.0))
        for name, rate in phases.items()
        for cell in CELLS
    ]
    return StrategyResults(0.36, visits, {"phase 3": ["openvino bfloat16"]}, {"phase 3": 12.0})


def test_each_promise_stands_beside_what_was_measured() -> None:
    """Ratios to the start, changes in percent, cost at the price, and what no card means."""
    document = report.as_json(HEAD, results())
    measured: dict[str, Any] = {one["what"]: one["measured"] for one in document["promises"]}
    assert measured["Phase 3: speed"] == "20.0 × / 20.0 ×"
    assert measured["Phase 3: cost"] == "−95 % / −95 %"
    assert measured["Phase 2: calls of models"] == "−50 % / −50 %"
    assert measured["Phase 2: latency"] == "−75 %"
    assert measured["Phase 3: load at the peak, by precomputing"] == "−90 %"
    assert measured["Phase 3: answers, by precomputing"] == "restaurant 50 ×, search 50 ×"
    assert measured["Phases 2 and 3: what is cached"] == "phase 2: 2.0, 4.0 ms; phase 3: 2.0, 4.0 ms"
    assert measured["Phase 1: FlashAttention-2, speed"] == NOT_MEASURED
    assert report.cost(50.0, document["price_an_hour"]) == pytest.approx(2.0)


@pytest.mark.parametrize("given", [results(), StrategyResults(0.29)])
def test_the_report_has_a_row_for_each_promise(given: StrategyResults) -> None:
    """Also when nothing was measured; each table has even columns."""
    text = report.as_markdown(report.as_json(HEAD, given))
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables[2].splitlines()) == 2 + len(PROMISES)
    assert all(len({row.count("|") for row in part.splitlines()}) == 1 for part in tables)
