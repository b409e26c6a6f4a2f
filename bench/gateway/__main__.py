"""`python -m bench.gateway` (`make bench-gateway`): compares the gateway with other relays."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
import uvloop

from bench import machine, peers
from bench.canned import PATH
from bench.clients import closed_loop, request_bytes
from bench.command import Out, Quick, Run, allow_connections, benchmark, interleave, parse_names, say
from bench.gateway import contenders, load
from bench.gateway.contenders import GATEWAY, RELAYS, UNLIMITED
from bench.measurements import Figures, Measurement, by_cell, medians, ratios, rounded
from bench.memory import PeakMemory
from bench.servers import Servers, canned, redis
from bench.tables import bullets, cell_table, cells_of, clients, figure_table, number, page, table

SOAK_CLIENTS = 64
SOAK_REQUESTS, SOAK_STEP = 500_000, 50_000
"""All requests, and those between two samples of the memory."""
COLUMNS = (
    ("requests/s", "per_second", 0),
    ("p50 ms", "p50_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("errors in a round", "errors", 0),
    ("peak RSS MB", "peak_rss_mb", 0),
    ("rounds", "rounds", 0),
)


def added_ms(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Compute the median latency that each relay adds to a direct call by one client, in ms."""
    found = {name: cells.get("1") for name, cells in by_cell(summary, "p50_ms").items()}
    direct = found.pop("direct", None)
    return {name: None if direct is None or p50 is None else rounded(p50 - direct) for name, p50 in found.items()}


def as_json(
    head: Mapping[str, Any], contenders: Mapping[str, str], visits: Sequence[Measurement], streams: Mapping[str, Any]
) -> dict[str, Any]:
    """Collect all results, including the single measurements. Cells are numbers of clients."""
    summary = medians(visits, largest=("errors", "peak_rss_mb"))
    others = {name: cells for name, cells in summary.items() if name != GATEWAY}
    return {
        "machine": dict(head),
        "contenders": dict(contenders),
        "medians": summary,
        "ratios": {**ratios(summary, GATEWAY, "per_second"), **ratios(others, UNLIMITED, "per_second")},
        "added_p50_ms": added_ms(summary),
        "streams": dict(streams),
        "visits": [asdict(visit) for visit in visits],
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Render the report."""
    summary, head, over = document["medians"], document["machine"], document["ratios"]
    keys = cells_of(summary)
    return page(
        "# The gateway beside other relays: one machine, one run, the same upstream",
        f"{machine.line(head)} · load: {head['load_generator']}",
        "Medians over rounds. [What is measured, and what this does not say](../README.md#the-gateway).",
        bullets(document["contenders"]),
        "## Throughput, requests a second",
        figure_table("", by_cell(summary, "per_second"), 0, clients(keys)),
        *(["## Ratios of throughput", figure_table("", over, 2, clients(keys), keys)] if over else []),
        "## Added to the median of one client",
        table([["", "ms"], *([name, number(value, 2)] for name, value in document["added_p50_ms"].items())]),
        "## All cells",
        cell_table("contender, clients", summary, COLUMNS),
        *_stream_part(document["streams"]),
    )


def _stream_part(streams: Mapping[str, Any]) -> list[str]:
    if not streams:
        return []
    memory = " → ".join(number(streams[f"rss_mb_{when}"], 0) for when in ("before", "peak", "after"))
    rows = [
        ["streams at a time", number(streams["streams"], 0)],
        ["whole and in order", number(streams["whole"], 0)],
        ["chunks each, ms apart", f"{streams['chunks']}, {streams['chunk_ms']:g}"],
        ["seconds; paced alone it is", f"{streams['seconds']:.1f}; {streams['paced_seconds']:.1f}"],
        ["first chunk, p50 and p99, ms", f"{streams['first_p50_ms']:.0f}; {streams['first_p99_ms']:.0f}"],
        ["gateway's resident memory before → peak → after, MB", memory],
    ]
    lost = [f"Lost: {streams['errors']}"] if streams["errors"] else []
    return ["## Streams through this gateway", table([["", ""], *rows]), *lost]


def soak_json(head: Mapping[str, Any], memory: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collect the soak's results. Growth counts from the first step, when connection pools are full."""
    growth = round(memory[-1]["rss_mb"] - memory[1]["rss_mb"], 1)
    return {"machine": dict(head), "memory": list(memory), "growth_mb": growth}


def soak_markdown(document: Mapping[str, Any]) -> str:
    """Render the report of the soak."""
    rows = [["requests answered", "resident MB", "requests/s", "errors"]]
    for row in document["memory"]:
        errors = sum(row["errors"].values())
        rows.append([f"{row['requests']:,}", number(row["rss_mb"]), number(row["per_second"], 0), str(errors)])
    return page(
        "# The gateway's memory over a soak",
        machine.line(document["machine"]),
        f"{SOAK_CLIENTS} clients in a closed loop. From {SOAK_STEP:,} requests to the last: "
        f"**{document['growth_mb']:+.1f} MB**.",
        table(rows),
    )


CHUNK_MS = 20.0
"""Time between two chunks of a stream."""
WARM_UP_SECONDS = 1.0
FOREVER_SECONDS = 3600.0


def measure_relays(
    run: Run, names: list[str], rounds: int, clients: Sequence[int], seconds: float, streams: dict[str, Any]
) -> None:
    """Measure all contenders in rounds, and write the results, with those of the streams, after each round."""
    visits: list[Measurement] = []
    with Servers() as stack:
        upstream, limits = stack.start(contenders.upstream()), stack.start(redis())
        relays = [stack.start(each) for each in contenders.relays(names, upstream.port, limits.port)]
        servers = {server.contender.name: server for server in [upstream, *relays]}
        for server in servers.values():
            load.run(server.url, 8, WARM_UP_SECONDS)

        def measure(name: str, cell: str, number: int) -> Figures:
            with PeakMemory(servers[name].pid) as watch:
                figures = load.run(servers[name].url, int(cell), seconds)
            return {**figures, "peak_rss_mb": watch.peak_mb}

        def write(number: int) -> None:
            described = {name: server.contender.what for name, server in servers.items()}
            document = as_json(run.head, described, visits, streams)
            run.write(document, as_markdown(document))

        interleave(rounds, {str(count): [*servers] for count in clients}, measure, visits, after_round=write)


def measure_streams(count: int, chunks: int) -> dict[str, Any]:
    """Send many concurrent streams through a gateway started for them."""
    with Servers() as stack:
        upstream, limits = stack.start(canned(chunks, CHUNK_MS, name="streams")), stack.start(redis())
        gateway = stack.start(contenders.ours(upstream.port, limits.port))
        return load.measure_streams(gateway, count, chunks, CHUNK_MS)


def measure_soak(requests: int) -> list[dict[str, Any]]:
    """Send many requests through a gateway started for them; resident memory before the first and after each step."""
    with Servers() as stack:
        upstream, limits = stack.start(contenders.upstream()), stack.start(redis())
        gateway = stack.start(contenders.ours(upstream.port, limits.port))
        seen: list[dict[str, Any]] = [
            {"requests": 0, "rss_mb": gateway.resident_mb(), "per_second": None, "errors": {}}
        ]
        request = request_bytes(PATH, load.body(), load.HEADERS)
        for done in range(SOAK_STEP, requests + 1, SOAK_STEP):
            supply = itertools.repeat(request, SOAK_STEP)
            tally = uvloop.run(closed_loop(gateway.url, supply, clients=SOAK_CLIENTS, seconds=FOREVER_SECONDS))
            rate, rss_mb = round(len(tally.latencies_ms) / tally.seconds), round(gateway.resident_mb(), 1)
            say(f"{done:,} requests: {rss_mb:.1f} MB, {rate} requests/s {tally.errors or ''}")
            seen.append({"requests": done, "rss_mb": rss_mb, "per_second": rate, "errors": tally.errors})
        return seen


def main(
    contenders: Annotated[str, typer.Option(help="Which, beside a direct call.")] = ",".join(RELAYS),
    soak: Annotated[bool, typer.Option("--soak", help="The memory over many requests, and nothing else.")] = False,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Measure relays in front of an upstream that answers at once, and write gateway.json and .md.

    It takes about ten minutes; nothing else should run meanwhile. Ctrl-C stops all servers; the results of complete
    rounds are kept. --soak takes some minutes and writes gateway-soak.json and .md.
    """
    names = parse_names(contenders, RELAYS)
    allow_connections()
    with benchmark("gateway", out, quick=quick, name="gateway-soak" if soak else "gateway") as run:
        if soak:
            document = soak_json(run.head, measure_soak(2 * SOAK_STEP if quick else SOAK_REQUESTS))
            run.write(document, soak_markdown(document))
            return
        run.head["load_generator"] = load.GENERATOR
        if "litellm" in names:
            peers.install(peers.LITELLM)
        streams = measure_streams(200, 50) if quick else measure_streams(1_000, 200)
        rounds, clients, seconds = (1, (1, 64), 2.0) if quick else (3, (1, 16, 64, 256), 6.0)
        measure_relays(run, names, rounds, clients, seconds, streams)


if __name__ == "__main__":
    typer.run(main)
