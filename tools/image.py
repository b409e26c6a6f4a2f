# ruff: noqa: S603 - every command here is put together from this file, constraints.txt and the Dockerfiles
"""Inside the build of an image: packages into /opt/onecard, our own folders into /opt/code.

Packages are large and seldom change, our code is small and often does: each is a layer of its own.
"""

import argparse
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from install import CONSTRAINTS, CONSTRAINTS_CUDA, ROOT, TORCH_CPU_INDEX, pinned
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
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def packages(torch: str, wanted: list[str]) -> None:
    """What the wanted folders and distributions ask for, with their dependencies, in the versions that are pinned.

    Args:
        torch: build of torch; `none` where nobody asks for it.
    """
    subprocess.run([UV, "venv", "--quiet", "--python", "python3.11", PACKAGES], check=True)
    into = ("--python", PACKAGES)
    pins = pinned()
    asked = write(Path("asked.txt"), needed(wanted))
    if torch == "cuda":
        pins |= pinned(CONSTRAINTS_CUDA)
        exact = write(Path("pins.txt"), [f"{name}=={version}" for name, version in pins.items()])
        install(*into, "--constraints", exact, "--requirements", asked)
        return
    if torch == "cpu":
        build = f"torch=={pins['torch']}+cpu"
        try:
            install(*into, "--no-deps", "--find-links", WHEELS, build)
        except subprocess.CalledProcessError:
            print(f"wheels/ does not have it: trying {TORCH_CPU_INDEX}", flush=True)
            install(*into, "--no-deps", "--index-url", TORCH_CPU_INDEX, build)
    install(*into, "--constraints", CONSTRAINTS, "--overrides", WITHOUT, "--requirements", asked)


def beside(wanted: list[str]) -> None:
    """What is missing in this very Python, which keeps the versions that it has."""
    there = {re.sub(r"[-_.]+", "-", one.name).lower(): one.version for one in metadata.distributions()}
    exact = write(Path("pins.txt"), [f"{name}=={version}" for name, version in (pinned() | there).items()])
    asked = write(Path("asked.txt"), needed(wanted))
    command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--break-system-packages"]
    subprocess.run([*command, "-c", str(exact), "-r", str(asked)], check=True)


def needed(wanted: list[str]) -> list[str]:
    """Requirements of the folders among the wanted; what is no folder is a distribution itself."""
    ours = [one for one in wanted if is_folder(one)]
    return [*requirements(ours), *(one for one in wanted if one not in ours)]


def is_folder(wanted: str) -> bool:
    """It names a folder of ours: `gateway[otlp]`."""
    return (ROOT / wanted.partition("[")[0] / "pyproject.toml").is_file()


def code(folders: list[str]) -> None:
    """Our own folders, with what their pyproject.toml registers, and what they ask for that the packages lack."""
    sources = [f"./{folder}" for folder in folders]
    install("--target", CODE, "--no-deps", "--build-constraints", CONSTRAINTS, *sources, *lacking(folders))


def lacking(folders: list[str]) -> list[str]:
    """Distributions, each with its version, that are not in `PACKAGES`."""
    asked = write(Path("asked.txt"), requirements(folders))
    look = [UV, "pip", "install", "--dry-run", "--python", PACKAGES, "--constraints", CONSTRAINTS]
    looking = subprocess.run(
        [str(word) for word in (*look, "--overrides", WITHOUT, "--requirements", asked)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.removeprefix(" + ") for line in looking.stderr.splitlines() if line.startswith(" + ")]


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
