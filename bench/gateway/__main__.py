"""`python -m bench.gateway` (`make bench-gateway`): compares the gateway with other relays."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import files, machine, peers
from bench.command import allow_connections, orderly_exit, parse_numbers, say, start_server
from bench.gateway import contenders, load, report, soak, streams
from bench.memory import PeakMemory
from bench.redis import redis
from bench.rounds import RoundProgress, rotated
from bench.servers import Contender

CLIENTS = "1,16,64,256"
QUICK_CLIENTS = "1,64"
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class GatewayPlan:
    """Numbers of rounds, clients and streams."""

    rounds: int
    seconds: float
    """Length of one cell."""
    clients: list[int]
    streams: int
    chunks: int
    chunk_ms: float


def names_of(given: str) -> list[str]:
    """Parse names of relays, separated by commas.

    Args:
        given: the names.

    Returns:
        The names in this order.

    Raises:
        typer.BadParameter: there is no such relay.
    """
    found = [part.strip() for part in given.split(",")]
    for name in found:
        if name not in contenders.RELAYS:
            raise typer.BadParameter(f"no relay '{name}'; there are {', '.join(contenders.RELAYS)}")
    return found


def measure_relays(
    names: list[str], plan: GatewayPlan, results: report.GatewayResults, head: dict[str, Any], folder: Path
) -> None:
    """Measure all contenders in rounds, and write the results after each round.

    Args:
        names: the relays.
        plan: how much to measure.
        results: where measurements are added.
        head: description of the machine.
        folder: folder for the result files.
    """
    with ExitStack() as stack:
        upstream = start_server(stack, contenders.upstream())
        limits = start_server(stack, redis())
        relays = [start_server(stack, each) for each in contenders.relays(names, upstream.port, limits.port)]
        servers = {server.contender.name: server for server in [upstream, *relays]}
        for server in servers.values():
            load.run(server.url, 8, WARM_UP_SECONDS)
        progress = RoundProgress(plan.rounds * len(servers) * len(plan.clients), say)
        for number in range(plan.rounds):
            for name in rotated([*servers], number):
                for clients in plan.clients:
                    with PeakMemory(servers[name].pid) as watch:
                        outcome = load.run(servers[name].url, clients, plan.seconds)
                    results.visits.append(report.visit(name, number, clients, outcome, watch.peak_bytes / 1e6))
                    progress.step(f"round {number + 1}: {name}, {clients} clients: {load.line(outcome)}")
            report.write(folder, head, {name: server.contender.what for name, server in servers.items()}, results)


def measure_streams(plan: GatewayPlan) -> dict[str, Any]:
    """Send many concurrent streams through a gateway started for them."""
    with ExitStack() as stack:
        canned = contenders.canned(plan.chunks, plan.chunk_ms)
        upstream = start_server(stack, Contender("streams", "an upstream of paced streams", canned, None))
        limits = start_server(stack, redis())
        gateway = start_server(stack, contenders.ours(upstream.port, limits.port))
        return streams.measure(gateway, plan.streams, plan.chunks, plan.chunk_ms)


def measure_soak(requests: int) -> list[dict[str, Any]]:
    """Send many requests through a gateway started for them, and measure its memory."""
    with ExitStack() as stack:
        upstream = start_server(stack, contenders.upstream())
        limits = start_server(stack, redis())
        return soak.measure(start_server(stack, contenders.ours(upstream.port, limits.port)), requests)


def main(
    round_count: Annotated[int, typer.Option("--rounds", min=1, help="Visits to each cell.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, max=20, help="Length of one cell.")] = 6.0,
    clients: Annotated[str, typer.Option(help="Clients at a time, separated by commas.")] = CLIENTS,
    relays: Annotated[str, typer.Option(help="Which, beside calling the upstream directly.")] = ",".join(
        contenders.RELAYS
    ),
    stream_count: Annotated[int, typer.Option("--streams", min=0, help="Streams at a time; 0: none.")] = 1000,
    soak_requests: Annotated[int, typer.Option("--soak-requests", min=2 * soak.STEP, help="With --soak.")] = 500_000,
    soak_only: Annotated[bool, typer.Option("--soak", help="The memory over many requests, and nothing else.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results unless --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look only: one round, 2 s, 1 and 64 clients.")] = False,
) -> None:
    """Measure relays in front of an upstream that answers at once, and write gateway.json, .md and .svg.

    It takes about ten minutes; nothing else should run meanwhile. Ctrl-C stops all servers; the results of complete
    rounds are kept. --soak takes some minutes and writes gateway-soak.json and .md.
    """
    folder = files.folder_for(out, quick=quick)
    head = machine.describe("python -m bench.gateway " + " ".join(sys.argv[1:]))
    if soak_only:
        with orderly_exit():
            soak.write(folder, head, measure_soak(2 * soak.STEP if quick else soak_requests))
        files.show(folder, "gateway-soak")
        return
    if quick:
        round_count, seconds, clients = 1, 2.0, QUICK_CLIENTS if clients == CLIENTS else clients
        stream_count = min(stream_count, 200)
    plan = GatewayPlan(round_count, seconds, parse_numbers(clients), stream_count, 50 if quick else 200, 20.0)
    head["load_generator"] = load.generator()
    names, results = names_of(relays), report.GatewayResults()
    allow_connections()
    with orderly_exit():
        if "litellm" in names:
            peers.install(peers.LITELLM)
        if stream_count:
            results.streams = measure_streams(plan)
        measure_relays(names, plan, results, head, folder)
    files.show(folder, "gateway")


if __name__ == "__main__":
    typer.run(main)
