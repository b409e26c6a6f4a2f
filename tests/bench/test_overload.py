"""Figures and report of the benchmark of overload."""

from bench import machine, overload
from bench.overload import FloodObservations


def seen() -> FloodObservations:
    made = FloodObservations(0.0, answered_at=[step / 10 for step in range(600)], accepted_seconds=[1.0] * 599 + [31.0])
    made.statuses.update({200: 600, 429: 1_800, 504: 1})
    made.retries, made.rejected_retries, made.retries_until_accepted = 10, 1, [1] * 8 + [2]
    return made


def test_what_the_clients_saw() -> None:
    """Throughput once the queue is full; what was late, whoever said so; who came again as told and was let in."""
    made = overload.figures(seen(), 60.0)
    assert round(made["texts_per_second"]) == 10
    assert (made["late"], made["let_in"], made["returns_until_let_in"]) == (2, 0.9, {1: 8, 2: 1})


def test_the_report_names_each_flood() -> None:
    """Also where nobody was refused, or let in."""
    sample = {"queue_tokens": 5.0, "onecard_mb": 1_000.0, "overload-gateway_mb": 80.0}
    floods = [
        {
            "name": name,
            "round": 0,
            **overload.figures(one, 60.0),
            **overload.summarize_samples([sample] * 9),
            "of_peak": 0.9,
        }
        for name, one in (("alone", seen()), ("gateway", FloodObservations(0.0)))
    ]
    made = {"sent_per_second": 40.0, "seconds": 60.0, "peaks": [10.0], "gateway_over_alone": [0.9], "floods": floods}
    text = overload.as_markdown({"machine": machine.describe("bench"), "overload": made})
    assert "**0.90**" in text
    assert "| % of these let in | 90.0 | \u2013 |" in text
