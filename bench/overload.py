"""`python -m bench.overload` (`make bench-overload`): floods an encoder with four times its peak load.

The encoder is flooded directly and through the gateway, by turns. Its peak is measured by 32 clients in a closed loop,
before and after each flood, because machines drift. A flood is an open loop at four times the first peak; at the same
time some clients obey `Retry-After`. Expected: throughput stays near the peak, directly and almost as much through the
gateway; memory and queue stay bounded; no accepted request is answered late; a rejected client that waits for
`Retry-After` is accepted.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Annotated, Any, NamedTuple

import psutil
import typer
import uvloop

from bench import encoders, machine
from bench.clients import HttpLoadClient, HttpResponse, Tally, exchange, open_loop, request_bytes
from bench.command import Out, Quick, benchmark, rotated, say
from bench.contenders import contenders
from bench.load import LoadCell, LoadSpec, body, drive
from bench.measurements import percentile, percentiles
from bench.servers import ContenderServer, Servers, service
from bench.tables import number, page, table
from bench.workload import SHORT
from onecard.inference.settings import EncoderSettings

DIRECT, GATEWAY = "alone", "gateway"
SAMPLE_SECONDS = 1.0
WARM_UP_SECONDS = 20.0
"""Left out at the start (or a third of a shorter flood): until the queue is full, more is accepted than answered."""
PEAK_SECONDS = 5.0
POLITE_CLIENTS = 16
"""Number of clients that obey `Retry-After`, and send a new text once they are accepted."""
DEADLINE_SECONDS = float(EncoderSettings.model_fields["request_timeout_seconds"].default)


class Seen(NamedTuple):
    """One response of a flood."""

    status: int
    at: float
    """Clock at its end."""
    seconds: float
    """Latency."""
    retry_after: int

    @classmethod
    def of(cls, answer: HttpResponse) -> "Seen":
        """Note a response that has just come."""
        return cls(answer.status, time.perf_counter(), answer.seconds, int(answer.headers.get("retry-after", 0)))


@dataclass
class PoliteClients:
    """What clients saw that obey `Retry-After`."""

    answers: list[Seen] = field(default_factory=list)
    retries: int = 0
    """Requests that came again as told."""
    rejected_retries: int = 0
    """Those of them that were rejected again."""
    retries_until_accepted: list[int] = field(default_factory=list)
    """How often each request came again that was rejected at first, and accepted later."""


async def obey_retry_after(url: str, supply: Iterator[bytes], until: float, polite: PoliteClients) -> None:
    """Send requests until a clock; repeat each rejected one after its `Retry-After`, then go on with the next."""
    seen, tally = list[Seen](), Tally()
    async with HttpLoadClient(url) as client:
        for request in supply:
            for times in itertools.count():
                await exchange(client, request, tally, time.perf_counter(), note=lambda it: seen.append(Seen.of(it)))
                last = seen.pop() if seen else Seen(0, time.perf_counter(), 0.0, 0)
                polite.answers.append(last)
                polite.retries += times > 0
                if last.status != 429:
                    break
                polite.rejected_retries += times > 0
                if time.perf_counter() + last.retry_after > until:
                    return
                await asyncio.sleep(last.retry_after)
            if time.perf_counter() > until:
                return
            if times:
                polite.retries_until_accepted.append(times)


async def sample(servers: Sequence[ContenderServer], into: list[dict[str, float]]) -> None:
    """Sample the encoder's queue and the memory of all servers once per second, until cancelled."""
    while True:
        waiting = await asyncio.to_thread(servers[0].metric, "onecard_queue_tokens")
        resident = {f"{server.contender.name}_mb": server.resident_mb() for server in servers}
        into.append({"queue_tokens": waiting, **resident})
        await asyncio.sleep(SAMPLE_SECONDS)


def supply_of(count: int, seed: str) -> Iterator[bytes]:
    """Prepare requests with one new text each."""
    texts = SHORT.texts(count, seed=seed)
    return iter([request_bytes("/v1/embeddings", body([text], SHORT.model.name), {}) for text in texts])


def cpu_seconds(server: ContenderServer) -> float:
    """Read the CPU time that a server has used so far, in seconds."""
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)


async def under_flood(
    servers: Sequence[ContenderServer], through: ContenderServer, rate: float, seconds: float, seed: str
) -> dict[str, Any]:
    """Flood `through` at `rate` requests a second and watch `servers`, the encoder first. Returns the figures."""
    requests, others = supply_of(int(rate * seconds), seed), supply_of(2_000, f"{seed} polite")
    samples: list[dict[str, float]] = []
    sampling = asyncio.create_task(sample(servers, samples))
    used = [cpu_seconds(server) for server in servers]
    started, seen, polite = time.perf_counter(), list[Seen](), PoliteClients()
    waiting = [obey_retry_after(through.url, others, started + seconds, polite) for _ in range(POLITE_CLIENTS)]
    loading = open_loop(through.url, requests, rate=rate, note=lambda answer: seen.append(Seen.of(answer)))
    await asyncio.gather(loading, *waiting)
    sampling.cancel()
    used = [cpu_seconds(server) - before for server, before in zip(servers, used, strict=True)]
    return {**figures(seen, polite, started, seconds), **summarize_samples(samples), "cpu_s": used}


def figures(seen: Sequence[Seen], polite: PoliteClients, started: float, seconds: float) -> dict[str, Any]:
    """Summarise one flood. What polite clients got counts for throughput and latencies, and not for the statuses."""
    begin, statuses = min(WARM_UP_SECONDS, seconds / 3), Counter(one.status for one in seen)
    accepted = [one for one in (*seen, *polite.answers) if one.status == 200]
    rejected = [one for one in seen if one.status == 429]
    waits, refusals = [one.seconds for one in accepted], percentiles([one.seconds * 1000 for one in rejected], 50, 99)
    return {
        "texts_per_second": sum(begin <= one.at - started <= seconds for one in accepted) / (seconds - begin),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "accepted_p50_s": percentile(waits, 0.5),
        "accepted_max_s": max(waits, default=None),
        "late": sum(wait > DEADLINE_SECONDS for wait in waits) + statuses[504],
        **{f"refused_{name}": value or 0 for name, value in refusals.items()},
        "retry_after_s": dict(sorted(Counter(one.retry_after for one in rejected).items())),
        "returned_as_told": polite.retries,
        "let_in": 1 - polite.rejected_retries / polite.retries if polite.retries else None,
        "returns_until_let_in": dict(sorted(Counter(polite.retries_until_accepted).items())),
    }


def summarize_samples(samples: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Summarise the queue's maximum and the servers' memory: medians of five samples in the middle and at the end."""
    middle = samples[len(samples) // 3 :][:5]
    resident = {
        f"{name}_{when}": median(one[name] for one in some)
        for name in samples[0]
        if name.endswith("_mb")
        for when, some in (("settled", middle), ("end", samples[-5:]))
    }
    return {"queue_tokens_max": max(one["queue_tokens"] for one in samples), **resident}


async def measure(
    encoder: ContenderServer, relay: ContenderServer, rounds: int, seconds: float, factor: float
) -> dict[str, Any]:
    """Run all floods at `factor` times the first peak, directly and through the gateway, in alternating order."""

    async def peak(number: int) -> float:
        load = LoadSpec(encoder.url, SHORT.model.name, LoadCell(1, 32), PEAK_SECONDS, 60.0, f"peak {number}")
        return float((await drive(load))["texts_per_second"])

    peaks = [await peak(0)]
    rate = peaks[0] * factor
    floods: list[dict[str, Any]] = []
    kept = []
    for turn in range(rounds):
        rates = {}
        for name in rotated((DIRECT, GATEWAY), turn):
            say(f"peak {peaks[-1]:.0f} texts/s; now {name}: {rate:.0f} requests/s for {seconds:g} s")
            through = encoder if name == DIRECT else relay
            made = await under_flood([encoder, relay], through, rate, seconds, f"flood {turn}")
            peaks.append(await peak(len(peaks)))
            rates[name] = made["texts_per_second"]
            around = (peaks[-2] + peaks[-1]) / 2
            floods.append({"name": name, "round": turn, **made, "of_peak": rates[name] / around})
        kept.append(rates[GATEWAY] / rates[DIRECT])
    return {"sent_per_second": rate, "seconds": seconds, "peaks": peaks, "gateway_over_alone": kept, "floods": floods}


ROWS = (
    ("texts/s", "texts_per_second", 1, 1),
    ("% of the peaks around it", "of_peak", 1, 100),
    ("answered", "200", 0, 1),
    ("refused", "429", 0, 1),
    ("others", "others", 0, 1),
    ("accepted: p50, s", "accepted_p50_s", 1, 1),
    ("accepted: longest, s", "accepted_max_s", 1, 1),
    (f"answered after {DEADLINE_SECONDS:g} s, or not in time", "late", 0, 1),
    ("refused: p50, ms", "refused_p50_ms", 2, 1),
    ("refused: p99, ms", "refused_p99_ms", 2, 1),
    ("came again as told", "returned_as_told", 0, 1),
    ("% of these let in", "let_in", 1, 100),
    ("most tokens in the queue", "queue_tokens_max", 0, 1),
    *(
        (f"{name}: MB {when}", f"{name}_mb_{when}", 0, 1)
        for name in ("onecard", "overload-gateway")
        for when in ("settled", "end")
    ),
)
"""Head of a row, its figure or status, digits, and what the figure is multiplied by."""


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    made = document["overload"]
    columns: list[dict[str, Any]] = []
    for flood in made["floods"]:
        counts = {"200": 0, "429": 0, **flood["statuses"]}
        others = sum(count for status, count in counts.items() if status not in ("200", "429"))
        columns.append({**flood, **counts, "others": others})
    rows = [["", *(f"{flood['name']}, round {flood['round'] + 1}" for flood in columns)]]
    for head, name, digits, scale in ROWS:
        values = [column.get(name) for column in columns]
        rows.append([head, *(number(None if value is None else value * scale, digits) for value in values)])
    return page(
        "# Four times what the encoder can do",
        machine.line(document["machine"]),
        f"{made['sent_per_second']:.0f} requests/s of one text for {made['seconds']:g} s, by turns; peaks "
        f"{', '.join(f'{one:.0f}' for one in made['peaks'])} texts/s. Through the gateway it keeps "
        f"**{median(made['gateway_over_alone']):.2f}** of what it keeps alone (median of the rounds).",
        table(rows),
    )


def main(
    seconds: Annotated[float, typer.Option(min=5, max=600, help="Length of a flood.")] = 60.0,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="Floods of each.")] = 2,
    factor: Annotated[float, typer.Option(min=1, max=20, help="Requests sent, in multiples of the peak.")] = 4.0,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Flood the embedding service, alone and through the gateway, and write overload.json and .md."""
    if quick:
        seconds, rounds = min(seconds, 15.0), 1
    nobody = dict.fromkeys(("LLM_URL", "SENTIMENT_URL", "REVIEW_URL"), "http://127.0.0.1:9")
    with benchmark("overload", out, quick=quick) as run:
        with Servers() as servers:
            encoders.prepare(SHORT, [])
            encoder = encoders.start_all(servers, SHORT, [contenders(SHORT)["onecard"]])["onecard"]
            # The gateway is live, and not ready, since the other services are not there.
            settings = {"EMBEDDING_URL": encoder.address, **nobody, "CACHE_ENABLED": "false"}
            relay = servers.start(replace(service("gateway", settings, name="overload-gateway"), health="/health/live"))
            results = uvloop.run(measure(encoder, relay, rounds, seconds, factor))
        document = {"machine": run.head, "overload": results}
        run.write(document, as_markdown(document))


if __name__ == "__main__":
    typer.run(main)
