"""Environments of the clients, each of pinned versions with their hashes, made once and kept beside the project's."""

import os
import shutil
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

from tools.install import CONSTRAINTS, TORCH_CPU_INDEX, pinned

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / ".venvs"
"""Git ignores it; `make clean` removes it."""
NEEDS_TORCH = frozenset({"guidellm"})
"""Environments that get torch's CPU build, in the version of the project's own lock."""


def python_environment(name: str) -> Path:
    """The folder of the Python environment of `requirements/<name>.txt`, installed if it is not there as pinned."""
    folder, recipe = ENVIRONMENTS / f"clients-{name}", HERE / "requirements" / f"{name}.txt"
    if _is_made(folder, recipe):
        return folder
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True)
    # What is imported is compiled then; most of it never is.
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--quiet", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--require-hashes", "-r", str(recipe)], check=True, env=_without_pip_settings())
    if name in NEEDS_TORCH:
        torch = f"torch=={pinned(CONSTRAINTS)['torch']}+cpu"
        if subprocess.run([*pip, torch]).returncode:
            subprocess.run([*pip, torch, "--index-url", TORCH_CPU_INDEX], check=True)
    _mark(folder, recipe)
    return folder


def node_environment() -> Path:
    """A folder with the scripts of `node/` and the packages that its lock pins; Node itself has to be there."""
    folder, recipe = ENVIRONMENTS / "clients-node", HERE / "node" / "package-lock.json"
    if not _is_made(folder, recipe):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "node" / name, folder)
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, check=True)
        _mark(folder, recipe)
    for script in (HERE / "node").glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


def _is_made(folder: Path, recipe: Path) -> bool:
    done = folder / "installed"
    return done.is_file() and done.read_text() == _digest(recipe)


def _mark(folder: Path, recipe: Path) -> None:
    (folder / "installed").write_text(_digest(recipe))


def _digest(recipe: Path) -> str:
    return blake2b(recipe.read_bytes(), digest_size=16).hexdigest()


def _without_pip_settings() -> dict[str, str]:
    """A machine's own constraints are not meant for strangers' versions."""
    return {name: value for name, value in os.environ.items() if name not in ("PIP_CONSTRAINT", "PIP_USER")}
