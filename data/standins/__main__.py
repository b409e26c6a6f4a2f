"""`python -m standins`: write the corpus, train the stand-ins."""

import json
import os
from pathlib import Path

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
    # Waiting threads sleep instead of spinning: the machine is usually shared. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for kind in only or KINDS:
        kept = not force and is_current(kind, out, seed)
        folder = train(kind, out, seed=seed, force=force)
        measured = json.loads((folder / CARD).read_text(encoding="utf-8"))["measured"]
        figures = ", ".join(f"{name} {value}" for name, value in measured.items())
        click.echo(f"{NAMES[kind]}: {'kept' if kept else 'trained'} ({figures})")


if __name__ == "__main__":
    main()
