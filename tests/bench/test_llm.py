"""The LLM benchmark's prompts and its report."""

import json
from typing import Any

import pytest

from bench.llm import as_json, as_markdown, prompts
from bench.measurements import Measurement
from tests.bench.test_report import HEAD, even_tables


def visit(contender: str, clients: int, number: int, rate: float) -> Measurement:
    figures = {"tokens_per_second": rate, "requests_per_second": rate / 64, "p50_ms": 1.0, "p99_ms": None, "errors": 0}
    return Measurement(contender, str(clients), number, figures)


def document(part: slice = slice(None)) -> dict[str, Any]:
    rates = {("vllm", 1): 100.0, ("vllm", 8): 400.0, ("gateway", 1): 98.0, ("gateway", 8): 396.0, ("before", 1): 33.0}
    visits = [visit(name, clients, number, rate) for number in range(3) for (name, clients), rate in rates.items()]
    first = [{"vllm": [10.0, 11.0, 12.0], "gateway": [12.0, 13.0, 14.0 + number]} for number in range(3)]
    return as_json(HEAD, {"vllm": "it"}, visits[part], first if part == slice(None) else [])


def test_no_prompt_is_sent_twice() -> None:
    """vLLM keeps the beginnings of prompts that it has seen, so each contender and round has its own."""
    made = [request for seed in ("round 0 vllm 1", "round 0 gateway 1") for request in prompts(50, seed)]
    assert len(set(made)) == 100


def test_what_the_gateway_costs() -> None:
    """Throughput against vLLM's own, and what it adds to the first token's median, round by round."""
    made = document()
    assert made["ratios"]["gateway/vllm"] == {"1": 0.98, "8": 0.99}
    assert made["over_before"] == {"1": round(98 / 33, 3), "8": 12.0}
    assert made["first_token"]["added_p50_ms"] == 2.0


@pytest.mark.parametrize("part", [slice(None), slice(2)])
def test_the_report_is_well_formed(part: slice) -> None:
    """Also where a contender was not measured with as many clients, or not at all."""
    made = document(part)
    assert json.loads(json.dumps(made))["medians"]
    even_tables(as_markdown(made))
