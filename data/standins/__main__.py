"""`python -m standins`: write the corpus, train the stand-ins."""

import json
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from types import FrameType

import click

from standins import corpus
from standins.publish import CARD, is_current
from standins.recipe import KINDS, NAMES, SEED, Kind
from standins.train import train


@click.group()
def main() -> None:
    """Sample reviews and stand-in models."""


@main.command("corpus")
@click.option("--out", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
def write_corpus(out: Path) -> None:
    """Write the sample reviews and the held-out sets."""
    for path in corpus.write(out):
        click.echo(path)


@main.command("train")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Model directory.")
@click.option("--only", multiple=True, type=click.Choice(KINDS), help="Repeatable; all of them by default.")
@click.option("--seed", type=int, default=SEED, show_default=True)
@click.option("--force", is_flag=True, help="Retrain what is already there.")
def train_models(out: Path, only: tuple[Kind, ...], seed: int, force: bool) -> None:
    """Train the stand-ins that are missing or of an older recipe."""
    # Leave by an exception, so that a stopped training removes its draft.
    signal.signal(signal.SIGTERM, _leave)
    # The longest training first; each in a process of its own, on one thread.
    kinds = sorted(only or KINDS, key=("llm", "sentiment", "embedding").index)
    workers = min(len(kinds), os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker) as pool:
        running = [pool.submit(_train_one, kind, out, seed, force) for kind in kinds]
        for done in as_completed(running):
            click.echo(done.result())


def _leave(number: int, _: FrameType | None) -> None:
    for child in multiprocessing.active_children():
        child.terminate()
    sys.exit(128 + number)


def _prepare_worker() -> None:
    signal.signal(signal.SIGTERM, _leave)


def _train_one(kind: Kind, out: Path, seed: int, force: bool) -> str:
    """Train or keep one stand-in; returns the line to print."""
    kept = not force and is_current(kind, out, seed)
    folder = train(kind, out, seed=seed, force=force)
    measured = json.loads((folder / CARD).read_text(encoding="utf-8"))["measured"]
    figures = ", ".join(f"{name} {value}" for name, value in measured.items())
    return f"{NAMES[kind]}: {'kept' if kept else 'trained'} ({figures})"


if __name__ == "__main__":
    main()
