"""Figures and report of the benchmark of overload."""

from typing import Any

from bench import machine, overload
from bench.overload import PoliteClients, Seen


def flood() -> dict[str, Any]:
    accepted = [Seen(200, step / 10, 1.0, 0) for step in range(599)] + [Seen(200, 59.9, 31.0, 0)]
    refused = [Seen(429, 1.0, 0.002, 5)] * 1_800
    polite = PoliteClients(retries=10, rejected_retries=1, retries_until_accepted=[1] * 8 + [2])
    return overload.figures([*accepted, *refused, Seen(504, 31.0, 31.0, 0)], polite, 0.0, 60.0)


def test_what_the_clients_saw() -> None:
    """Throughput once the queue is full; what was late, whoever said so; who came again as told and was let in."""
    made = flood()
    assert round(made["texts_per_second"]) == 10
    assert (made["late"], made["let_in"], made["returns_until_let_in"]) == (2, 0.9, {1: 8, 2: 1})
    assert (made["statuses"], made["retry_after_s"]) == ({"200": 600, "429": 1_800, "504": 1}, {5: 1_800})


def test_what_polite_clients_got_counts_for_throughput() -> None:
    """And for latencies, but not for the flood's statuses."""
    made = overload.figures([], PoliteClients([Seen(200, 30.0, 2.0, 0)] * 40), 0.0, 60.0)
    assert (made["texts_per_second"], made["accepted_p50_s"], made["statuses"]) == (1.0, 2.0, {})


def test_the_report_names_each_flood() -> None:
    """Also where nobody was refused, or let in."""
    sample = {"queue_tokens": 5.0, "onecard_mb": 1_000.0, "overload-gateway_mb": 80.0}
    floods = [
        {
            "name": name,
            "round": 0,
            **one,
            **overload.summarize_samples([sample] * 9),
            "of_peak": 0.9,
        }
        for name, one in (("alone", flood()), ("gateway", overload.figures([], PoliteClients(), 0.0, 60.0)))
    ]
    made = {"sent_per_second": 40.0, "seconds": 60.0, "peaks": [10.0], "gateway_over_alone": [0.9], "floods": floods}
    text = overload.as_markdown({"machine": machine.describe("bench"), "overload": made})
    assert "**0.90**" in text
    assert "| % of these let in | 90.0 | \u2013 |" in text
