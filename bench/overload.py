"""`python -m bench.overload`, which is `make bench-overload`: an encoder under four times what it can do, alone and
through the gateway, by turns under the same flood.

The peak comes from 32 clients in a closed loop at the encoder, before and after each flood, since machines drift. A
flood starts requests at four times the first peak, whoever is still waiting; beside it some clients obey `Retry-After`.
What should hold: throughput stays near the peak, alone and nearly as much through the gateway; memory and queue stay
bounded; nobody accepted is answered late; who is refused is told a time after which he is let in.
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

from bench import encoders, files, machine, memory, texts, weights
from bench.cells import LoadCell, LoadSpec
from bench.command import orderly_exit, say
from bench.load import body, drive
from bench.paths import MODEL
from bench.servers import Contender, ContenderServer
from bench.stats import percentile
from bench.tables import number, table
from onecard.inference.settings import EncoderSettings

DIRECT, GATEWAY = "alone", "gateway"
SAMPLE_SECONDS = 1.0
WARM_UP_SECONDS = 20.0
"""Left out at the beginning, or a third of a shorter flood: until the queue is full, more is accepted than answered."""
STEP_SECONDS = 0.02
"""Requests are started in steps of this length."""
PEAK_SECONDS = 5.0
POLITE_CLIENTS = 16
"""Clients that wait as told, and have new texts once they are let in."""
DEADLINE_SECONDS = float(EncoderSettings.model_fields["request_timeout_seconds"].default)


@dataclass
class FloodObservations:
    """What the clients saw."""

    started: float
    statuses: Counter[int] = field(default_factory=Counter)
    answered_at: list[float] = field(default_factory=list)
    """Seconds after the start."""
    accepted_seconds: list[float] = field(default_factory=list)
    """Seconds of accepted requests."""
    rejected_seconds: list[float] = field(default_factory=list)
    """Seconds until a refusal was said."""
    retry_after: list[int] = field(default_factory=list)
    retries_until_accepted: list[int] = field(default_factory=list)
    """Of each polite client that was refused and let in: how often it had to come again."""
    rejected_retries: int = 0
    """Times that one came as told and was refused again."""
    retries: int = 0
    """Times that one came as told."""


async def send_request(session: aiohttp.ClientSession, url: str, data: bytes, seen: FloodObservations) -> int:
    """One request; its status."""
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
    """Start requests at `rate` a second, until the supply ends; wait for all answers."""
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
    """Ask, and come again as told until let in; then with the next text, until a moment of the clock."""
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
    """Once a second: the encoder's queue, and all servers' memory."""
    while True:
        async with session.get(f"http://127.0.0.1:{servers[0].port}/metrics") as response:
            lines = (await response.text()).splitlines()
        waiting = sum(float(line.split()[-1]) for line in lines if line.startswith("onecard_queue_tokens{"))
        resident = {f"{server.contender.name}_mb": memory.resident_bytes(server.pid) / 1e6 for server in servers}
        into.append({"queue_tokens": waiting, **resident})
        await asyncio.sleep(SAMPLE_SECONDS)


def gateway(encoder: ContenderServer) -> Contender:
    """The gateway in front of a running encoder, without keys and without Redis."""
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
    """Requests of one new text each."""
    return iter([body([text], MODEL.name) for text in texts.make(weights.reviews(), count, seed=seed)])


def cpu_seconds(server: ContenderServer) -> float:
    """That it has used so far."""
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)


async def under_flood(
    servers: Sequence[ContenderServer], through: ContenderServer, rate: float, seconds: float, seed: str
) -> dict[str, Any]:
    """One flood of the encoder, which is the first of `servers`."""
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
    """What the clients saw of one flood."""
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
    """The encoder's queue and everybody's memory: the medians of the last seconds, and of some in the middle."""
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
    """The whole run: alone and through the gateway, then the other way round, and so on."""

    async def peak(number: int) -> float:
        load = LoadSpec(encoder.url, MODEL.name, LoadCell(1, 32), PEAK_SECONDS, 60.0, f"peak {number}")
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
    """The report for a person."""
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
        encoders.prepare([])
        encoder = encoders.start_all(stack, ["onecard"])["onecard"]
        relay = stack.enter_context(ContenderServer(gateway(encoder)))
        relay.wait_ready()
        results = uvloop.run(measure(encoder, relay, rounds, seconds, factor))
    document = {"machine": head, "overload": results}
    folder = files.folder_for(out, quick=quick)
    files.write(folder, "overload", document, as_markdown(document))
    files.show(folder, "overload")


if __name__ == "__main__":
    typer.run(main)
