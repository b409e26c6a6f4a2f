# ruff: noqa: S603 - every command here is put together from this file, constraints.txt and the Dockerfiles
"""Inside the build of an image: packages into /opt/onecard, our own folders into /opt/code.

Packages are large and seldom change, our code is small and often does: each is a layer of its own.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from install import BY_HASH, CONSTRAINTS_CUDA, ROOT, TORCH_CPU_INDEX, cpu_pins, pinned, write_hashed
from requirements import requirements

PACKAGES = "/opt/onecard"
CODE = "/opt/code"
WITHOUT = ROOT / "tools" / "lock-without.txt"
WHEELS = ROOT / "wheels"
"""Wheels that no index here has; may be empty."""
UV = Path(sys.executable).parent / "uv"


def install(*arguments: str | Path) -> None:
    """Run `uv pip install`.

    Raises:
        CalledProcessError: it fails; the reason is on the screen.
    """
    command = [UV, "pip", "install", "--no-cache", "--compile-bytecode", *arguments]
    subprocess.run([str(argument) for argument in command], check=True)


def write(path: Path, lines: list[str]) -> Path:
    """A file of requirements or pins."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def packages(torch: str, wanted: list[str]) -> None:
    """What the wanted folders and distributions ask for, with their dependencies, as pinned and by hash.

    Args:
        torch: build of torch; `none` where nobody asks for it.
    """
    subprocess.run([UV, "venv", "--quiet", "--python", "python3.11", PACKAGES], check=True)
    into = ("--python", PACKAGES)
    if torch == "cuda":
        install_missing(needed(wanted), pinned() | pinned(CONSTRAINTS_CUDA), (), *into)
        return
    if torch == "cpu":
        build = {"torch": cpu_pins(pinned())["torch"]}
        try:
            install_pins(build, *into, "--find-links", WHEELS)
        except subprocess.CalledProcessError:
            print(f"wheels/ does not have it: trying {TORCH_CPU_INDEX}", flush=True)
            install_pins(build, *into, "--index-url", TORCH_CPU_INDEX)
    install_missing(needed(wanted), pinned(), ("--overrides", WITHOUT), *into)


def install_pins(pins: dict[str, str], *into: str | Path) -> None:
    """Exactly these, each wheel with a hash that is known."""
    install(*into, *BY_HASH, "--requirements", write_hashed(Path("hashed.txt"), pins))


def install_missing(asked: list[str], pins: dict[str, str], how: Sequence[str | Path], *into: str | Path) -> None:
    """What is asked for, with all that it needs, as far as `PACKAGES` lacks it."""
    if lacking := missing(asked, pins, how):
        install_pins(lacking, *into)


def missing(asked: list[str], pins: dict[str, str], how: Sequence[str | Path]) -> dict[str, str]:
    """Distribution → version, of what is asked for and not in `PACKAGES`, as uv resolves it."""
    exact = write(Path("pins.txt"), [f"{name}=={version}" for name, version in pins.items()])
    look = [UV, "pip", "install", "--dry-run", "--python", PACKAGES, "--constraints", exact, *how]
    command = [str(word) for word in (*look, "--requirements", write(Path("asked.txt"), asked))]
    looking = subprocess.run(command, capture_output=True, text=True)
    if looking.returncode:
        raise SystemExit(looking.stderr)
    lines = [line.removeprefix(" + ") for line in looking.stderr.splitlines() if line.startswith(" + ")]
    return dict(line.split("==", 1) for line in lines)


def beside(wanted: list[str]) -> None:
    """What is missing in this very Python, which keeps the versions that it has; and what builds our folders."""
    there = {re.sub(r"[-_.]+", "-", one.name).lower(): one.version for one in metadata.distributions()}
    exact = write(Path("pins.txt"), [f"{name}=={version}" for name, version in (pinned() | there).items()])
    asked = write(Path("asked.txt"), [*needed(wanted), "setuptools"])
    command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--break-system-packages"]
    look = ["--dry-run", "--quiet", "--report", "report.json", "-c", str(exact), "-r", str(asked)]
    subprocess.run([*command, *look], check=True)
    found = [one["metadata"] for one in json.loads(Path("report.json").read_text(encoding="utf-8"))["install"]]
    pins = {re.sub(r"[-_.]+", "-", one["name"]).lower(): one["version"] for one in found}
    if pins:
        subprocess.run([*command, *BY_HASH, "-r", str(write_hashed(Path("hashed.txt"), pins))], check=True)


def needed(wanted: list[str]) -> list[str]:
    """Requirements of the folders among the wanted; what is no folder is a distribution itself."""
    ours = [one for one in wanted if is_folder(one)]
    return [*requirements(ours), *(one for one in wanted if one not in ours)]


def is_folder(wanted: str) -> bool:
    """It names a folder of ours: `gateway[otlp]`."""
    return (ROOT / wanted.partition("[")[0] / "pyproject.toml").is_file()


def code(folders: list[str]) -> None:
    """Our own folders, with what their pyproject.toml registers, and what they ask for that the packages lack.

    They are built with what is installed here, and nothing from an index.
    """
    install_missing(requirements(folders), pinned(), ("--overrides", WITHOUT), "--target", CODE)
    sources = [f"./{folder}" for folder in folders]
    own = ("--python", sys.executable, "--target", CODE)
    install(*own, "--no-deps", "--no-index", "--no-build-isolation", *sources)


def main() -> None:
    """Run one of the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("packages")
    step.add_argument("--torch", choices=["none", "cpu", "cuda"], default="none")
    step.add_argument("wanted", nargs="+", metavar="FOLDER[EXTRA] or DISTRIBUTION")
    steps.add_parser("beside").add_argument("wanted", nargs="+", metavar="FOLDER[EXTRA] or DISTRIBUTION")
    steps.add_parser("code").add_argument("wanted", nargs="+", metavar="FOLDER")
    chosen = parser.parse_args()
    if chosen.step == "packages":
        packages(chosen.torch, chosen.wanted)
    else:
        {"beside": beside, "code": code}[chosen.step](chosen.wanted)


if __name__ == "__main__":
    main()
