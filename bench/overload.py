"""`python -m bench.overload` (`make bench-overload`): floods an encoder with four times its peak load.

The encoder is flooded directly and through the gateway, by turns. Its peak is measured by 32 clients in a closed loop,
before and after each flood, because machines drift. A flood is an open loop at four times the first peak; at the same
time some clients obey `Retry-After`. Expected: throughput stays near the peak, directly and almost as much through the
gateway; memory and queue stay bounded; no accepted request is answered late; a rejected client that waits for
`Retry-After` is accepted.
"""

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import aiohttp
import psutil
import typer
import uvloop

from bench import encoders, files, machine, memory
from bench.cells import LoadCell, LoadSpec
from bench.command import orderly_exit, say
from bench.contenders import contenders
from bench.load import body, drive
from bench.servers import Contender, ContenderServer
from bench.stats import percentile
from bench.tables import number, table
from bench.workload import SHORT
from onecard.inference.settings import EncoderSettings

DIRECT, GATEWAY = "alone", "gateway"
SAMPLE_SECONDS = 1.0
WARM_UP_SECONDS = 20.0
"""Left out at the start (or a third of a shorter flood): until the queue is full, more is accepted than answered."""
STEP_SECONDS = 0.02
"""Requests are started in steps of this many seconds."""
PEAK_SECONDS = 5.0
POLITE_CLIENTS = 16
"""Number of clients that obey `Retry-After`, and send a new text once they are accepted."""
DEADLINE_SECONDS = float(EncoderSettings.model_fields["request_timeout_seconds"].default)


@dataclass
class FloodObservations:
    """Results of all requests of a flood."""

    started: float
    statuses: Counter[int] = field(default_factory=Counter)
    answered_at: list[float] = field(default_factory=list)
    """Times of successful responses, in seconds after the start."""
    accepted_seconds: list[float] = field(default_factory=list)
    """Latencies of accepted requests, in seconds."""
    rejected_seconds: list[float] = field(default_factory=list)
    """Latencies of rejections, in seconds."""
    retry_after: list[int] = field(default_factory=list)
    retries_until_accepted: list[int] = field(default_factory=list)
    """Number of retries of each request of a polite client that was rejected and later accepted."""
    rejected_retries: int = 0
    """Number of retries after `Retry-After` that were rejected again."""
    retries: int = 0
    """Number of retries after `Retry-After`."""


async def send_request(session: aiohttp.ClientSession, url: str, data: bytes, seen: FloodObservations) -> int:
    """Send a request and record the result. Returns its status."""
    began = time.perf_counter()
    async with session.post(url, data=data) as response:
        await response.read()
    took = time.perf_counter() - began
    seen.statuses[response.status] += 1
    if response.status == 200:
        seen.answered_at.append(time.perf_counter() - seen.started)
        seen.accepted_seconds.append(took)
    elif response.status == 429:
        seen.rejected_seconds.append(took)
        seen.retry_after.append(int(response.headers["retry-after"]))
    return response.status


async def flood(
    session: aiohttp.ClientSession, url: str, supply: Iterator[bytes], rate: float, seen: FloodObservations
) -> None:
    """Start requests at a fixed rate until the supply ends, and wait for all responses.

    Args:
        session: the HTTP client.
        url: the server.
        supply: bodies.
        rate: requests per second.
        seen: where results are recorded.
    """
    under_way: set[asyncio.Task[int]] = set()
    for sent, data in enumerate(supply):
        if (early := sent / rate - (time.perf_counter() - seen.started)) > STEP_SECONDS:
            await asyncio.sleep(early)
        task = asyncio.create_task(send_request(session, url, data, seen))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)


async def obey_retry_after(
    session: aiohttp.ClientSession, url: str, supply: Iterator[bytes], until: float, seen: FloodObservations
) -> None:
    """Send requests, repeat each rejected one after its `Retry-After`, and go on with the next text once accepted.

    Args:
        session: the HTTP client.
        url: the server.
        supply: bodies.
        until: clock at which to stop.
        seen: where results are recorded.
    """
    own = FloodObservations(seen.started, answered_at=seen.answered_at, accepted_seconds=seen.accepted_seconds)
    for data in supply:
        for times in itertools.count():
            status = await send_request(session, url, data, own)
            seen.retries += times > 0
            if status != 429:
                break
            seen.rejected_retries += times > 0
            if time.perf_counter() + own.retry_after[-1] > until:
                return
            await asyncio.sleep(own.retry_after[-1])
        if time.perf_counter() > until:
            return
        if times:
            seen.retries_until_accepted.append(times)


async def sample(
    session: aiohttp.ClientSession, servers: Sequence[ContenderServer], into: list[dict[str, float]]
) -> None:
    """Sample the encoder's queue and the memory of all servers once per second, until cancelled."""
    while True:
        async with session.get(f"http://127.0.0.1:{servers[0].port}/metrics") as response:
            lines = (await response.text()).splitlines()
        waiting = sum(float(line.split()[-1]) for line in lines if line.startswith("onecard_queue_tokens{"))
        resident = {f"{server.contender.name}_mb": memory.resident_bytes(server.pid) / 1e6 for server in servers}
        into.append({"queue_tokens": waiting, **resident})
        await asyncio.sleep(SAMPLE_SECONDS)


def gateway(encoder: ContenderServer) -> Contender:
    """Describe the gateway in front of a running encoder, without keys and Redis."""
    nobody = "http://127.0.0.1:9"
    return Contender(
        "overload-gateway",
        "the gateway in front of it",
        lambda port: [sys.executable, "-m", "gateway"],
        "/health/live",
        environment=lambda port: {
            "GATEWAY_PORT": str(port),
            "EMBEDDING_URL": f"http://127.0.0.1:{encoder.port}",
            **dict.fromkeys(("LLM_URL", "SENTIMENT_URL", "REVIEW_URL"), nobody),
            "CACHE_ENABLED": "false",
        },
    )


def supply_of(count: int, seed: str) -> Iterator[bytes]:
    """Prepare bodies with one new text each."""
    return iter([body([text], SHORT.model.name) for text in SHORT.texts(count, seed=seed)])


def cpu_seconds(server: ContenderServer) -> float:
    """Read the CPU time that a server has used so far, in seconds."""
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)


async def under_flood(
    servers: Sequence[ContenderServer], through: ContenderServer, rate: float, seconds: float, seed: str
) -> dict[str, Any]:
    """Run one flood.

    Args:
        servers: the servers to watch; the encoder first.
        through: the server that gets the requests.
        rate: requests per second.
        seconds: length of the flood.
        seed: seed of the texts.

    Returns:
        The flood's figures.
    """
    timeout, connector = aiohttp.ClientTimeout(total=120), aiohttp.TCPConnector(limit=0)
    requests, others = supply_of(int(rate * seconds), seed), supply_of(2_000, f"{seed} polite")
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers={"content-type": "application/json"}
    ) as session:
        samples: list[dict[str, float]] = []
        sampling = asyncio.create_task(sample(session, servers, samples))
        used = [cpu_seconds(server) for server in servers]
        seen = FloodObservations(time.perf_counter())
        until = seen.started + seconds
        waiting = [
            asyncio.create_task(obey_retry_after(session, through.url, others, until, seen))
            for _ in range(POLITE_CLIENTS)
        ]
        await flood(session, through.url, requests, rate, seen)
        await asyncio.gather(*waiting)
        sampling.cancel()
    used = [cpu_seconds(server) - before for server, before in zip(servers, used, strict=True)]
    return {**figures(seen, seconds), **summarize_samples(samples), "cpu_s": used}


def figures(seen: FloodObservations, seconds: float) -> dict[str, Any]:
    """Summarise the requests of one flood."""
    begin = min(WARM_UP_SECONDS, seconds / 3)
    return {
        "texts_per_second": sum(begin <= at <= seconds for at in seen.answered_at) / (seconds - begin),
        "statuses": {str(status): count for status, count in sorted(seen.statuses.items())},
        "accepted_p50_s": percentile(seen.accepted_seconds, 0.5),
        "accepted_max_s": max(seen.accepted_seconds, default=None),
        "late": sum(wait > DEADLINE_SECONDS for wait in seen.accepted_seconds) + seen.statuses[504],
        "refused_p50_ms": (percentile(seen.rejected_seconds, 0.5) or 0) * 1000,
        "refused_p99_ms": (percentile(seen.rejected_seconds, 0.99) or 0) * 1000,
        "retry_after_s": dict(sorted(Counter(seen.retry_after).items())),
        "returned_as_told": seen.retries,
        "let_in": 1 - seen.rejected_retries / seen.retries if seen.retries else None,
        "returns_until_let_in": dict(sorted(Counter(seen.retries_until_accepted).items())),
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
    """Run all floods, directly and through the gateway, in alternating order.

    Args:
        encoder: the encoder.
        relay: the gateway in front of it.
        rounds: floods of each.
        seconds: length of a flood.
        factor: load as a multiple of the first peak.

    Returns:
        Peaks, the figures of each flood, and the ratio of throughput in each round.
    """

    async def peak(number: int) -> float:
        load = LoadSpec(encoder.url, SHORT.model.name, LoadCell(1, 32), PEAK_SECONDS, 60.0, f"peak {number}")
        return (await drive(load)).texts_per_second

    peaks = [await peak(0)]
    rate = peaks[0] * factor
    floods: list[dict[str, Any]] = []
    for turn in range(rounds):
        for name in (DIRECT, GATEWAY) if turn % 2 == 0 else (GATEWAY, DIRECT):
            say(f"peak {peaks[-1]:.0f} texts/s; now {name}: {rate:.0f} requests/s for {seconds:g} s")
            through = encoder if name == DIRECT else relay
            made = await under_flood([encoder, relay], through, rate, seconds, f"flood {turn}")
            peaks.append(await peak(len(peaks)))
            around = (peaks[-2] + peaks[-1]) / 2
            floods.append({"name": name, "round": turn, **made, "of_peak": made["texts_per_second"] / around})
    pairs = [
        [
            flood["texts_per_second"]
            for name in (GATEWAY, DIRECT)
            for flood in floods
            if (flood["name"], flood["round"]) == (name, turn)
        ]
        for turn in range(rounds)
    ]
    kept = [ours / theirs for ours, theirs in pairs]
    return {"sent_per_second": rate, "seconds": seconds, "peaks": peaks, "gateway_over_alone": kept, "floods": floods}


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    made = document["overload"]
    floods = made["floods"]

    def row(what: str, name: str, digits: int = 1, scale: float = 1.0) -> list[str]:
        values = [flood.get(name) for flood in floods]
        return [what, *(number(None if value is None else value * scale, digits) for value in values)]

    def statuses(what: str, status: str) -> list[str]:
        return [what, *(number(flood["statuses"].get(status, 0), 0) for flood in floods)]

    rows = [
        ["", *(f"{flood['name']}, round {flood['round'] + 1}" for flood in floods)],
        row("texts/s", "texts_per_second"),
        row("% of the peaks around it", "of_peak", 1, 100),
        statuses("answered", "200"),
        statuses("refused", "429"),
        [
            "others",
            *(
                number(
                    sum(flood["statuses"].values()) - sum(flood["statuses"].get(one, 0) for one in ("200", "429")), 0
                )
                for flood in floods
            ),
        ],
        row("accepted: p50, s", "accepted_p50_s"),
        row("accepted: longest, s", "accepted_max_s"),
        row(f"answered after {DEADLINE_SECONDS:g} s, or not in time", "late", 0),
        row("refused: p50, ms", "refused_p50_ms", 2),
        row("refused: p99, ms", "refused_p99_ms", 2),
        row("came again as told", "returned_as_told", 0),
        row("% of these let in", "let_in", 1, 100),
        row("most tokens in the queue", "queue_tokens_max", 0),
        *(
            row(f"{name}: MB {when}", f"{name}_mb_{when}", 0)
            for name in ("onecard", "overload-gateway")
            for when in ("settled", "end")
        ),
    ]
    kept = median(made["gateway_over_alone"])
    parts = [
        "# Four times what the encoder can do",
        machine.line(document["machine"]),
        f"{made['sent_per_second']:.0f} requests/s of one text for {made['seconds']:g} s, by turns; peaks "
        f"{', '.join(f'{one:.0f}' for one in made['peaks'])} texts/s. Through the gateway it keeps **{kept:.2f}** of "
        "what it keeps alone (median of the rounds).",
        table(rows),
    ]
    return "\n\n".join(parts) + "\n"


def main(
    seconds: Annotated[float, typer.Option(min=5, max=600, help="Length of a flood.")] = 60.0,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="Floods of each.")] = 2,
    factor: Annotated[float, typer.Option(min=1, max=20, help="Requests sent, in multiples of the peak.")] = 4.0,
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results unless --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look only: one round of 15 s.")] = False,
) -> None:
    """Flood the embedding service, alone and through the gateway, and write overload.json and .md."""
    if quick:
        seconds, rounds = min(seconds, 15.0), 1
    head = machine.describe("python -m bench.overload " + " ".join(sys.argv[1:]))
    with orderly_exit(), ExitStack() as stack:
        encoders.prepare(SHORT, [])
        encoder = encoders.start_all(stack, SHORT, [contenders(SHORT)["onecard"]])["onecard"]
        relay = stack.enter_context(ContenderServer(gateway(encoder)))
        relay.wait_ready()
        results = uvloop.run(measure(encoder, relay, rounds, seconds, factor))
    document = {"machine": head, "overload": results}
    folder = files.folder_for(out, quick=quick)
    files.write(folder, "overload", document, as_markdown(document))
    files.show(folder, "overload")


if __name__ == "__main__":
    typer.run(main)
