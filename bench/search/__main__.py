"""`python -m bench.search` (`make bench-search`): compares the review service's vector index with others."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from bench import files, machine
from bench.command import orderly_exit, parse_numbers, say
from bench.measurements import Measurement
from bench.paths import WORK
from bench.rounds import RoundProgress, rotated
from bench.search import measure, report, vectors
from bench.search.contenders import CONTENDERS

SIZES = "10000,200000"
QUICK_SIZES = "10000"


def names_of(given: str) -> list[str]:
    """Parse names of contenders, separated by commas.

    Args:
        given: the names.

    Returns:
        The names in this order.

    Raises:
        typer.BadParameter: there is no such contender.
    """
    names = [name.strip() for name in given.split(",")]
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise typer.BadParameter(f"'{unknown[0]}' is not one of {', '.join(CONTENDERS)}")
    return names


def main(
    sizes: Annotated[str, typer.Option(help="Numbers of vectors, separated by commas.")] = SIZES,
    contenders: Annotated[str, typer.Option(help="Which, separated by commas.")] = ",".join(CONTENDERS),
    round_count: Annotated[int, typer.Option("--rounds", min=1, max=5, help="Visits to each size.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Folder for results; bench/results unless --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look only: 10,000 vectors, one round.")] = False,
) -> None:
    """Measure vector search on this machine and write search.json and search.md.

    It takes about four minutes; nothing else should run meanwhile. --sizes 1000000 --contenders lancedb,numpy takes
    five minutes and 8 GB of disk, and writes search-1000000.json and .md.
    """
    if quick:
        sizes, round_count = QUICK_SIZES if sizes == SIZES else sizes, 1
    folder, results = files.folder_for(out, quick=quick), report.VectorSearchResults()
    head = machine.describe("python -m bench.search " + " ".join(sys.argv[1:]))
    head |= {package: version(package) for package in ("lancedb", "faiss-cpu", "numpy")}
    # Results of other sizes do not replace those of the default sizes.
    name = "search" if quick or sizes == SIZES else f"search-{sizes.replace(',', '-')}"
    names, rows_of = names_of(contenders), parse_numbers(sizes)
    with orderly_exit():
        progress = RoundProgress(len(rows_of) * len(names) * (1 + round_count), say)
        for rows in rows_of:
            say(f"{rows:,} vectors are in {WORK.name}/search; the first time they are made")
            data = vectors.dataset(WORK / "search", rows)
            for contender in names:
                built = results.builds.setdefault(contender, {})[str(rows)] = measure.step("build", contender, data)
                progress.step(
                    f"{rows:,}: {contender} built in {built['import_seconds'] + built['index_seconds']:.1f} s"
                )
            for number in range(round_count):
                for contender in rotated(names, number):
                    figures = measure.step("search", contender, data)
                    results.visits.append(Measurement(contender, str(rows), number, figures))
                    latency = f"p50 {figures['p50_ms']:.2f} ms, p99 {figures['p99_ms']:.2f} ms"
                    progress.step(
                        f"{rows:,}: {contender}, round {number + 1}: {latency}, recall {figures['recall']:.3f}"
                    )
            report.write(folder, name, head, results)
    files.show(folder, name)


if __name__ == "__main__":
    typer.run(main)
