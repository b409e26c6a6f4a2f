"""`python -m bench.llm` (`make bench-llm`): measures vLLM directly and through the gateway."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from bench import files, machine
from bench.command import orderly_exit, parse_numbers, say, start_server
from bench.llm import contenders, measure, report
from bench.measurements import Measurement
from bench.rounds import RoundProgress, rotated
from bench.servers import ContenderServer

CLIENTS = "1,8,32"
QUICK_CLIENTS = "1,8"
MIN_ANSWERS = 48
"""Minimum of answers in one cell of a full run: eight answers of a single client take less than a second."""


@dataclass(frozen=True)
class LlmPlan:
    """Numbers of rounds, clients and answers."""

    rounds: int
    answers: int
    """Answers of each client in one cell."""
    min_answers: int
    """Minimum of answers of all clients in one cell."""
    clients: list[int]
    pairs: int
    """Streams of each contender in one round, for the time to the first token."""

    def answers_of(self, clients: int) -> int:
        """Compute how many answers each client gets in a cell with this many clients."""
        return max(self.answers, -(-self.min_answers // clients))

    def clients_of(self, name: str) -> list[int]:
        """List the numbers of clients for a contender. The baseline takes one request at a time."""
        return [1] if name == contenders.BASELINE else self.clients


def start_all(stack: ExitStack, models: Path) -> dict[str, ContenderServer]:
    """Start and warm up the three servers. `stack` stops them."""
    vllm = start_server(stack, contenders.vllm(models))
    gateway = start_server(stack, contenders.gateway(vllm.port))
    before = start_server(stack, contenders.baseline(models))
    servers = {server.contender.name: server for server in (vllm, gateway, before)}
    for name, server in servers.items():
        uvloop.run(measure.throughput(server, 4, 4, f"warm-up {name}"))
    return servers


def measure_all(servers: dict[str, ContenderServer], plan: LlmPlan, results: report.LlmResults) -> None:
    """Measure all rounds, in a rotating order of contenders."""
    cells = sum(len(plan.clients_of(name)) for name in servers)
    progress = RoundProgress(plan.rounds * (cells + 1), say)
    for number in range(plan.rounds):
        for clients in plan.clients:
            for name in rotated([each for each in servers if clients in plan.clients_of(each)], number):
                # Every contender gets other prompts, because vLLM caches the prefixes of those that it has seen.
                seed = f"round {number} {name} {clients}"
                figures = uvloop.run(measure.throughput(servers[name], clients, plan.answers_of(clients), seed))
                results.visits.append(Measurement(name, str(clients), number, figures))
                progress.step(f"round {number + 1}: {name}, {clients} clients: {figures[report.RATE]:.0f} tokens/s")
        pair = [servers[contenders.DIRECT], servers[contenders.GATEWAY]]
        results.first_tokens.append(uvloop.run(measure.first_tokens(pair, plan.pairs, f"first tokens {number}")))
        progress.step(f"round {number + 1}: first tokens")


def main(
    round_count: Annotated[int, typer.Option("--rounds", min=1, max=40, help="Visits to each cell.")] = 15,
    answers: Annotated[int, typer.Option(min=1, max=40, help="Answers of each client in one cell.")] = 8,
    clients: Annotated[str, typer.Option(help="Clients at a time, separated by commas.")] = CLIENTS,
    pairs: Annotated[int, typer.Option(min=1, max=200, help="Streams in a round, of each.")] = 10,
    models: Annotated[Path, typer.Option(help="Folder with the stand-in.")] = contenders.MODELS,
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results unless --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look only: one short round, 1 and 8 clients.")] = False,
) -> None:
    """Measure the LLM service on this machine's CPU with the stand-in model, and write llm.json, .md and .svg.

    It takes about ten minutes, including the start of the engines; nothing else should run meanwhile. Ctrl-C stops
    all servers.
    """
    if quick:
        round_count, answers, pairs = 1, 4, 10
        clients = QUICK_CLIENTS if clients == CLIENTS else clients
    plan = LlmPlan(round_count, answers, 1 if quick else MIN_ANSWERS, parse_numbers(clients), pairs)
    folder, results = files.folder_for(out, quick=quick), report.LlmResults()
    head = machine.describe("python -m bench.llm " + " ".join(sys.argv[1:]))
    with orderly_exit(), ExitStack() as stack:
        servers = start_all(stack, models.resolve())
        measure_all(servers, plan, results)
        report.write(folder, head, {name: server.contender.what for name, server in servers.items()}, results)
    files.show(folder, "llm")


if __name__ == "__main__":
    typer.run(main)
