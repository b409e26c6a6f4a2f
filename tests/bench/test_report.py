"""Figures and tables of the encoders' benchmark."""

import json
from typing import Any

import pytest

from bench import report
from bench.command import rotated
from bench.load import LoadCell
from bench.measurements import median_of_present, percentile, ratio
from bench.rounds import EncoderResults, EncoderSchedule, cosine

HEAD = {
    "date": "2026-01-01", "cpu": "a <fast> one", "cores": 2, "flags": ["avx2"], "memory_gb": 8.0, "load_at_start": 0.1,
    "python": "3.11", "torch": "2", "transformers": "5", "command": "bench",
}  # fmt: skip


def even_tables(text: str) -> list[list[str]]:
    """The tables of a report, each of which has the same number of columns in every row."""
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({row.count("|") for row in rows}) == 1 for rows in tables)
    return tables


def measured(contender: str, number: int, cell: LoadCell, rate: float, p50: float | None = 10.0) -> dict[str, Any]:
    return {
        "contender": contender, "round": number, "texts": cell.texts, "clients": cell.clients, "requests": 10,
        "texts_per_second": rate, "p50_ms": p50, "p95_ms": 20.0, "p99_ms": 30.0, "errors": {"503": 1}, "unfinished": 0,
        "peak_rss_mb": 100.0 + number, "cosine_to_fp32": 0.9999,
    }  # fmt: skip


def results() -> EncoderResults:
    cells = [LoadCell(1, 1), LoadCell(1, 32)]
    made = [
        measured(name, number, cell, rate * (number + 1) * cell.clients, p50=12.0)
        for name, rate in (("onecard", 40.0), ("infinity", 10.0))
        for number in range(3)
        for cell in cells
    ]
    offline = [
        {
            "round": number, "precision": precision, "texts_per_second": {"8": 50.0, "32": 80.0 + number},
            "direct_p50_ms": 10.0, "direct_p95_ms": 15.0,
        }
        for number in range(3)
        for precision in ("float32", "bfloat16")
    ]  # fmt: skip
    return EncoderResults(made, offline)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_percentile_is_a_sample(share: float, expected: float) -> None:
    """Of 1 to 100 the percentile is that very number, in any order."""
    assert percentile([*range(100, 0, -1)], share) == expected


def test_nothing_measured_is_no_figure() -> None:
    """Without samples there is no percentile, no median and no ratio, rather than a zero."""
    assert percentile([], 0.5) is None
    assert median_of_present([None]) is None
    assert median_of_present([None, 3.0, 1.0]) == 2.0
    assert ratio(1.0, None) is None
    assert ratio(None, 1.0) is None
    assert ratio(1.0, 0.0) is None


def test_ratios_are_of_medians() -> None:
    """Throughput is divided median by median, latency by the direct call in this project's precision."""
    document = report.as_json(HEAD, EncoderSchedule(3, 1, 6.0, 300.0, []), {}, results())
    assert document["medians"]["onecard"]["32x1"]["texts_per_second"] == 40 * 2 * 32
    assert document["medians"]["onecard"]["1x1"]["peak_rss_mb"] == 102
    assert document["medians"]["onecard"]["1x1"]["errors"] == 3
    assert document["ratios"]["onecard/infinity"] == {"1x1": 4.0, "32x1": 4.0}
    assert document["offline"]["bfloat16"]["best_texts_per_second"] == 81
    assert document["ratios"]["onecard/offline"]["1x1"] == round(80 / 81, 3)
    assert document["ratios"]["single_client_p50/direct_p50"] == 1.2


def test_each_of_our_engines_is_compared() -> None:
    """With the others, and with the default; the single text's latency is stated for each."""
    engine = [measured("onecard-openvino-int8", 0, LoadCell(1, 1), 160.0, p50=6.0)]
    all_of_them = EncoderResults([*results().cells, *engine], results().offline)
    document = report.as_json(HEAD, EncoderSchedule(3, 1, 6.0, 300.0, []), {}, all_of_them)
    assert document["ratios"]["onecard-openvino-int8/onecard"] == {"1x1": 2.0}
    assert document["ratios"]["onecard-openvino-int8/infinity"] == {"1x1": 8.0}
    assert "onecard/onecard-openvino-int8" not in document["ratios"]
    assert "onecard-openvino-int8 6.0 ms, 0.60× float32" in report.as_markdown(document)


def test_the_report_is_well_formed() -> None:
    """The JSON has every cell, and tables have the same number of columns in every row."""
    document = report.as_json(HEAD, EncoderSchedule(3, 1, 6.0, 300.0, []), {"onecard": "ours"}, results())
    assert len(json.loads(json.dumps(document))["cells"]) == 12
    assert len(even_tables(report.as_markdown(document))) == 4


def test_a_part_of_the_contenders_is_a_report_too() -> None:
    """Without this project, without the offline round, or with a cell that nothing was answered in."""
    cell = LoadCell(32, 128)
    only = EncoderResults([measured("before", 0, cell, 0.0, p50=None)])
    document = report.as_json(HEAD, EncoderSchedule(1, 1, 6.0, 300.0, [cell]), {}, only)
    assert "–" in report.as_markdown(document)


def test_every_contender_comes_first_once() -> None:
    """Over as many rounds as contenders, each place is taken by each."""
    orders = [rotated(["a", "b", "c"], number) for number in range(3)]
    assert {tuple(sorted(place)) for place in zip(*orders, strict=True)} == {("a", "b", "c")}


def test_heavy_cells_are_visited_in_the_first_rounds_only() -> None:
    """And light cells in all."""
    cells = [LoadCell(texts, clients) for texts in (1, 32) for clients in (1, 128)]
    schedule = EncoderSchedule(3, 1, 6.0, 300.0, cells)
    assert [len(schedule.cells_of(number)) for number in range(3)] == [4, 3, 3]


def test_cosine() -> None:
    """1 for the same direction, an error for what is no vector."""
    assert cosine([1.0, 2.0], [2.0, 4.0]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="zero"):
        cosine([0.0, 0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="longer"):
        cosine([1.0], [1.0, 1.0])
