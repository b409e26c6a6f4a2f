"""Make hashes.txt: for each pin of constraints.txt and constraints-cuda.txt, the SHA-256 of its wheels for Linux.

What is there already stays as it is, whatever an index says today; what is no longer pinned goes. Arguments are uv's
(`--default-index …`): torch's CPU build comes from any of the places, all others from the index itself, which has all
wheels of a version.
"""

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from urllib.parse import unquote, urlsplit

from install import CONSTRAINTS, CONSTRAINTS_CUDA, HASHES, PYTHON, TORCH_CPU_INDEX, cpu_pins, known_hashes, pinned
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

MACHINES = ("x86_64", "aarch64")
NEWEST_GLIBC = 50
"""Minor version of the newest glibc 2 that a wheel may ask for."""


def wanted() -> list[str]:
    """Every `name==version` that is installed somewhere."""
    pins = [*cpu_pins(pinned(CONSTRAINTS)).items(), *pinned(CONSTRAINTS).items(), *pinned(CONSTRAINTS_CUDA).items()]
    return sorted({f"{name}=={version}" for name, version in pins})


def usable_tags() -> set[Tag]:
    """Of wheels for this project's Python on Linux."""
    newer = [f"manylinux_2_{minor}" for minor in range(5, NEWEST_GLIBC)]
    platforms = [
        f"{kind}_{machine}"
        for machine in MACHINES
        for kind in ("linux", "manylinux1", "manylinux2010", "manylinux2014", *newer)
    ]
    return {*cpython_tags(PYTHON, platforms=platforms), *compatible_tags(PYTHON, "cp311", platforms)}


def look_up(pins: list[str], options: list[str]) -> dict[str, list[str]]:
    """Pin → hashes, by what the indexes say that uv asks."""
    with tempfile.TemporaryDirectory() as folder:
        asked, lock = Path(folder, "pins.in"), Path(folder, "pylock.toml")
        asked.write_text("".join(f"{pin}\n" for pin in pins))
        uv = Path(sys.executable).with_name("uv")
        command = [uv, "pip", "compile", "--quiet", "--no-deps", "--universal", "--format", "pylock.toml", asked]
        more = ["--python-version", "3.11", "--index-strategy", "unsafe-best-match", "-o", lock, *options]
        subprocess.run([str(word) for word in (*command, *more)], check=True)  # noqa: S603
        packages = tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]
    tags = usable_tags()
    return {
        f"{canonicalize_name(package['name'])}=={package['version']}": sorted(set(_of(package.get("wheels", []), tags)))
        for package in packages
    }


def _of(wheels: Iterable[dict], tags: set[Tag]) -> Iterator[str]:  # type: ignore[type-arg]
    for wheel in wheels:
        name = wheel.get("name") or unquote(urlsplit(wheel.get("url") or wheel["path"]).path).rpartition("/")[2]
        if not tags.isdisjoint(parse_wheel_filename(name)[3]):
            yield wheel["hashes"]["sha256"]


def _one_version_each(pins: Iterable[str]) -> list[list[str]]:
    """The pins in lists that have one version of each name, as a resolver wants them."""
    lists: list[list[str]] = []
    for _, versions in groupby(pins, lambda pin: pin.partition("==")[0]):
        for number, pin in enumerate(versions):
            lists += [[]] if number == len(lists) else []
            lists[number].append(pin)
    return lists


def main() -> None:
    """Write the file.

    Raises:
        SystemExit: a pin has no wheel for Linux.
    """
    known, pins, options = known_hashes(), wanted(), sys.argv[1:]
    found = {pin: known[pin] for pin in pins if pin in known}
    at = options.index("--default-index") if "--default-index" in options else len(options)
    for here in _one_version_each(pin for pin in pins if pin not in known):
        elsewhere = [pin for pin in here if "+" in pin]
        if elsewhere:
            found |= look_up(elsewhere, [*options, "--index", TORCH_CPU_INDEX])
        found |= look_up([pin for pin in here if pin not in elsewhere], options[at : at + 2])
    if without := [pin for pin in pins if not found.get(pin)]:
        raise SystemExit(f"no wheel for Linux and Python 3.11: {', '.join(without)}")
    comments = [line for line in HASHES.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    lines = (" ".join([pin, *(f"--hash=sha256:{digest}" for digest in found[pin])]) for pin in pins)
    HASHES.write_text("".join(f"{line}\n" for line in chain(comments, lines)), encoding="utf-8")


if __name__ == "__main__":
    main()
