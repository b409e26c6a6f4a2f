# ruff: noqa: S603 - every command here is put together from this file, constraints.txt and the Dockerfiles
"""Install packages into /opt/onecard and our own folders into /opt/code while an image is built.

Each is a layer of its own: packages are large and seldom change, our code is small and changes often.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from install import (
    BY_HASH,
    CONSTRAINTS_CUDA,
    ROOT,
    SOURCES_BY_HASH,
    SOURCES_ONLY,
    TORCH_CPU_INDEX,
    cpu_pins,
    pinned,
    write_hashed,
)
from requirements import requirements

PACKAGES = "/opt/onecard"
CODE = "/opt/code"
WITHOUT = ROOT / "tools" / "lock-without.txt"
WHEELS = ROOT / "wheels"
"""Folder with wheels that the index lacks; may be empty."""
CONTENTS = "sbom.cdx.json"
"""File in `CODE` that lists the image's Python distributions."""
UV = Path(sys.executable).parent / "uv"


def install(*arguments: str | Path) -> None:
    """Run `uv pip install`.

    Args:
        arguments: its arguments.

    Raises:
        CalledProcessError: it fails; the reason is on the screen.
    """
    command = [UV, "pip", "install", "--no-cache", "--compile-bytecode", *arguments]
    subprocess.run([str(argument) for argument in command], check=True)


def write(path: Path, lines: list[str]) -> Path:
    """Write requirements or pins to a file, one per line. Returns its path."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def packages(torch: str, wanted: list[str]) -> None:
    """Install the dependencies of folders and distributions into `PACKAGES`, at pinned versions and with hashes.

    Args:
        torch: build of torch: `cuda`, `cpu`, or `none` if nothing requires it.
        wanted: our folders, with extras (`gateway[otlp]`), and names of distributions.
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
    """Install exactly these pins, by hash. `into` are uv's options for target and sources."""
    sources = {name: version for name, version in pins.items() if name in SOURCES_ONLY}
    wheels = {name: version for name, version in pins.items() if name not in sources}
    if wheels:
        install(*into, *BY_HASH, "--requirements", write_hashed(Path("hashed.txt"), wheels))
    if sources:  # Built by the setuptools of the Python that runs this, which the image does not keep.
        site_packages = next(Path(PACKAGES).glob("lib/python*/site-packages"))
        hashed = write_hashed(Path("sources.txt"), sources)
        command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", *SOURCES_BY_HASH]
        subprocess.run([*command, "--target", site_packages, "--requirement", hashed], check=True)


def install_missing(
    required: list[str], pins: dict[str, str], options: Sequence[str | Path], *into: str | Path
) -> None:
    """Install those requirements and their dependencies that `PACKAGES` lacks.

    Args:
        required: requirement strings.
        pins: version by distribution.
        options: uv's options for resolving.
        into: uv's options for target and sources.
    """
    if lacking := missing(required, pins, options):
        install_pins(lacking, *into)


def missing(required: list[str], pins: dict[str, str], options: Sequence[str | Path]) -> dict[str, str]:
    """Let uv resolve requirements, and find those that `PACKAGES` lacks.

    Args:
        required: requirement strings.
        pins: version by distribution.
        options: uv's options for resolving.

    Returns:
        Version by distribution, of what has to be installed.

    Raises:
        SystemExit: uv cannot resolve them; the message is uv's.
    """
    constraints = write(Path("pins.txt"), [f"{name}=={version}" for name, version in pins.items()])
    dry_run = [UV, "pip", "install", "--dry-run", "--python", PACKAGES, "--constraints", constraints, *options]
    command = [str(word) for word in (*dry_run, "--requirements", write(Path("asked.txt"), required))]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
    lines = [line.removeprefix(" + ") for line in result.stderr.splitlines() if line.startswith(" + ")]
    return dict(line.split("==", 1) for line in lines)


def beside(wanted: list[str]) -> None:
    """Install missing dependencies, and setuptools, into the running Python. Present packages keep their versions.

    Args:
        wanted: our folders, with extras, and names of distributions.
    """
    installed = {re.sub(r"[-_.]+", "-", package.name).lower(): package.version for package in metadata.distributions()}
    constraints = write(Path("pins.txt"), [f"{name}=={version}" for name, version in (pinned() | installed).items()])
    required = write(Path("asked.txt"), [*needed(wanted), "setuptools"])
    command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--break-system-packages"]
    dry_run = ["--dry-run", "--quiet", "--report", "report.json", "-c", str(constraints), "-r", str(required)]
    subprocess.run([*command, *dry_run], check=True)
    found = [package["metadata"] for package in json.loads(Path("report.json").read_text(encoding="utf-8"))["install"]]
    pins = {re.sub(r"[-_.]+", "-", package["name"]).lower(): package["version"] for package in found}
    if pins:
        subprocess.run([*command, *BY_HASH, "-r", str(write_hashed(Path("hashed.txt"), pins))], check=True)


def needed(wanted: list[str]) -> list[str]:
    """Collect the requirements of folders and distributions.

    Args:
        wanted: our folders, with extras (`gateway[otlp]`), and names of distributions.

    Returns:
        The requirement strings of the folders, then the distributions.
    """
    ours = [one for one in wanted if is_folder(one)]
    return [*requirements(ours), *(one for one in wanted if one not in ours)]


def is_folder(wanted: str) -> bool:
    """Check whether it names one of our folders, as `gateway[otlp]` does."""
    return (ROOT / wanted.partition("[")[0] / "pyproject.toml").is_file()


def code(folders: list[str]) -> None:
    """Install our own folders into `CODE`, and those of their requirements that `PACKAGES` lacks.

    They are built with the installed setuptools; nothing is fetched from an index for it.

    Args:
        folders: names of our folders, with extras.
    """
    install_missing(requirements(folders), pinned(), ("--overrides", WITHOUT), "--target", CODE)
    sources = [f"./{folder}" for folder in folders]
    own = ("--python", sys.executable, "--target", CODE)
    install(*own, "--no-deps", "--no-index", "--no-build-isolation", *sources)
    libraries = Path(PACKAGES) / "lib" / "python3.11" / "site-packages"
    write_contents(Path(CODE) / CONTENTS, [str(libraries), CODE])


def write_contents(file: Path, folders: list[str]) -> None:
    """Write which Python distributions an image has, with their versions, as a CycloneDX list (SBOM).

    Args:
        file: the file to write.
        folders: folders with distributions.
    """
    found = {
        (re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(), one.version)
        for one in metadata.distributions(path=folders)
    }
    components = [
        {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"}
        for name, version in sorted(found)
    ]
    contents = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(contents, indent=1), encoding="utf-8")


def main() -> None:
    """Run one of the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("packages")
    step.add_argument("--torch", choices=["none", "cpu", "cuda"], default="none")
    step.add_argument("wanted", nargs="+", metavar="FOLDER[EXTRA] or DISTRIBUTION")
    steps.add_parser("beside").add_argument("wanted", nargs="+", metavar="FOLDER[EXTRA] or DISTRIBUTION")
    steps.add_parser("contents", help="list the distributions of the running Python and of CODE")
    steps.add_parser("code").add_argument("wanted", nargs="+", metavar="FOLDER")
    chosen = parser.parse_args()
    if chosen.step == "packages":
        packages(chosen.torch, chosen.wanted)
    elif chosen.step == "contents":
        write_contents(Path(CODE) / CONTENTS, [*sys.path, CODE])
    else:
        {"beside": beside, "code": code}[chosen.step](chosen.wanted)


if __name__ == "__main__":
    main()
