"""Train one stand-in into a model directory."""

import time
from importlib import import_module
from pathlib import Path

from standins.model_folder import is_current, publish
from standins.recipe import SEED, Kind, folder_name


def train(kind: Kind, out_dir: Path, *, seed: int = SEED, force: bool = False) -> Path:
    """The folder of a finished stand-in of the present recipe, trained now unless it is already there."""
    if not force and is_current(kind, out_dir, seed):
        return out_dir / folder_name(kind)

    def build(folder: Path) -> dict[str, float]:
        wall, cpu = time.monotonic(), time.process_time()
        # The trainers import torch, which callers that only ask for a kept model should not wait for.
        measured: dict[str, float] = import_module(f"standins.{kind}").build(folder, seed)
        measured["train_seconds"] = round(time.monotonic() - wall, 1)
        measured["train_cpu_seconds"] = round(time.process_time() - cpu, 1)
        return measured

    return publish(kind, out_dir, build, seed)
