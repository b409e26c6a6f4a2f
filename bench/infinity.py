"""Infinity in an environment of its own, beside the project's: the two need different transformers."""

import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

from bench.places import LOGS, ROOT, WORK
from tools.install import TORCH_CPU_INDEX

REQUIREMENTS = ROOT / "bench" / "requirements-infinity.txt"
VENV = WORK / "infinity"
PROGRAM = VENV / "bin" / "infinity_emb"
_DONE = VENV / "installed"


class InstallFailed(Exception):
    """pip said no; the message says where it says why."""


def pins() -> dict[str, str]:
    """Distribution → version."""
    lines = REQUIREMENTS.read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def version() -> str:
    """Infinity's."""
    return pins()["infinity-emb"]


def install() -> None:
    """Make the environment, unless it is there and of these very pins. About 2 minutes and 1.5 GB.

    Raises:
        InstallFailed: pip fails.
    """
    recipe = blake2b(REQUIREMENTS.read_bytes(), digest_size=8).hexdigest()
    if _DONE.is_file() and _DONE.read_text() == recipe:
        return
    print(f"Installing Infinity {version()} into {VENV.relative_to(ROOT)} (about 2 minutes, once)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    others = VENV / "packages.txt"
    others.write_text("".join(f"{name}=={pin}\n" for name, pin in pins().items() if name != "torch"))
    torch = f"torch=={pins()['torch']}+cpu"
    if not _pip([torch]) and not _pip([torch, "--index-url", TORCH_CPU_INDEX]):
        raise InstallFailed(f"torch's CPU build cannot be installed; see {_log().relative_to(ROOT)}")
    if not _pip(["-r", str(others)]):
        raise InstallFailed(f"Infinity cannot be installed; see {_log().relative_to(ROOT)}")
    _DONE.write_text(recipe)


def _pip(arguments: list[str]) -> bool:
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--progress-bar", "off", *arguments]
    with _log().open("a") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode == 0


def _log() -> Path:
    LOGS.mkdir(parents=True, exist_ok=True)
    return LOGS / "install-infinity.log"
