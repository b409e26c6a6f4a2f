"""`python -m standins`: write the corpus, train the stand-ins."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from standins import corpus
from standins.model_folder import MANIFEST, is_current
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
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    kinds = only or KINDS
    if len(kinds) > 1:
        _train_side_by_side(kinds, ["--out", str(out), "--seed", str(seed), *(["--force"] if force else [])])
        return
    kept = not force and is_current(kinds[0], out, seed)
    folder = train(kinds[0], out, seed=seed, force=force)
    measured = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["measured"]
    figures = ", ".join(f"{name} {value}" for name, value in measured.items())
    click.echo(f"{NAMES[kinds[0]]}: {'kept' if kept else 'made'} ({figures})")


def _train_side_by_side(kinds: Sequence[Kind], options: Sequence[str]) -> None:
    """One process for each, as each keeps to one thread; stopping this one stops them."""
    command = [sys.executable, "-m", "standins", "train", *options, "--only"]
    children = [subprocess.Popen([*command, kind]) for kind in kinds]  # noqa: S603 (this very program)
    try:
        codes = [child.wait() for child in children]
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
    if any(codes):
        sys.exit(1)


if __name__ == "__main__":
    main()
