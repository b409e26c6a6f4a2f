"""Write hashes.txt: for each pin of constraints.txt and constraints-cuda.txt, the SHA-256 of its wheels for Linux.

Of the pins that have no wheels (`install.SOURCES_ONLY`) it is that of the source distribution.

Existing hashes are kept, whatever an index says today; those of removed pins are dropped. Arguments are uv's options
(`--default-index …`). torch's CPU build is looked up in all indexes, everything else only in the default index, which
has all wheels of a version.
"""

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from urllib.parse import unquote, urlsplit

from install import (
    CONSTRAINTS,
    CONSTRAINTS_CUDA,
    HASHES,
    PYTHON,
    SOURCES_ONLY,
    TORCH_CPU_INDEX,
    cpu_pins,
    known_hashes,
    pinned,
)
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

MACHINES = ("x86_64", "aarch64")
NEWEST_GLIBC = 50
"""Minor version of the newest glibc 2 that a wheel may require."""


def wanted() -> list[str]:
    """List every `name==version` that some machine installs, sorted."""
    pins = [*cpu_pins(pinned(CONSTRAINTS)).items(), *pinned(CONSTRAINTS).items(), *pinned(CONSTRAINTS_CUDA).items()]
    return sorted({f"{name}=={version}" for name, version in pins})


def usable_tags() -> set[Tag]:
    """Return the tags of wheels for this project's Python on Linux."""
    newer = [f"manylinux_2_{minor}" for minor in range(5, NEWEST_GLIBC)]
    platforms = [
        f"{kind}_{machine}"
        for machine in MACHINES
        for kind in ("linux", "manylinux1", "manylinux2010", "manylinux2014", *newer)
    ]
    return {*cpython_tags(PYTHON, platforms=platforms), *compatible_tags(PYTHON, "cp311", platforms)}


def look_up(pins: list[str], options: list[str]) -> dict[str, list[str]]:
    """Look up the hashes of pins in the indexes.

    Args:
        pins: `name==version`, one version of each name.
        options: uv's options that choose the indexes.

    Returns:
        SHA-256 of the wheels for Linux in hexadecimal, sorted, by pin.

    Raises:
        CalledProcessError: uv fails; the reason is on the screen.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirements, lock = Path(folder, "pins.in"), Path(folder, "pylock.toml")
        requirements.write_text("".join(f"{pin}\n" for pin in pins))
        uv = Path(sys.executable).with_name("uv")
        command = [uv, "pip", "compile", "--quiet", "--no-deps", "--universal", "--format", "pylock.toml", requirements]
        arguments = ["--python-version", "3.11", "--index-strategy", "unsafe-best-match", "-o", lock, *options]
        subprocess.run([str(word) for word in (*command, *arguments)], check=True)  # noqa: S603
        packages = tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]
    tags = usable_tags()
    return {
        f"{canonicalize_name(package['name'])}=={package['version']}": sorted(set(_of_package(package, tags)))
        for package in packages
    }


def _of_package(package: dict, tags: set[Tag]) -> Iterator[str]:  # type: ignore[type-arg]
    if canonicalize_name(package["name"]) in SOURCES_ONLY:
        yield package["sdist"]["hashes"]["sha256"]
    else:
        yield from _of(package.get("wheels", []), tags)


def _of(wheels: Iterable[dict], tags: set[Tag]) -> Iterator[str]:  # type: ignore[type-arg]
    for wheel in wheels:
        name = wheel.get("name") or unquote(urlsplit(wheel.get("url") or wheel["path"]).path).rpartition("/")[2]
        if not tags.isdisjoint(parse_wheel_filename(name)[3]):
            yield wheel["hashes"]["sha256"]


def _one_version_each(pins: Iterable[str]) -> list[list[str]]:
    """Split the pins into lists with one version of each name, as a resolver requires."""
    lists: list[list[str]] = []
    for _, versions in groupby(pins, lambda pin: pin.partition("==")[0]):
        for number, pin in enumerate(versions):
            lists += [[]] if number == len(lists) else []
            lists[number].append(pin)
    return lists


def main() -> None:
    """Look up missing hashes and write hashes.txt.

    Raises:
        SystemExit: a pin has no wheel for Linux.
    """
    known, pins, options = known_hashes(), wanted(), sys.argv[1:]
    found = {pin: known[pin] for pin in pins if pin in known}
    index_option = options.index("--default-index") if "--default-index" in options else len(options)
    for batch in _one_version_each(pin for pin in pins if pin not in known):
        cpu_builds = [pin for pin in batch if "+" in pin]
        if cpu_builds:
            found |= look_up(cpu_builds, [*options, "--index", TORCH_CPU_INDEX])
        found |= look_up([pin for pin in batch if pin not in cpu_builds], options[index_option : index_option + 2])
    if missing := [pin for pin in pins if not found.get(pin)]:
        raise SystemExit(f"no wheel for Linux and Python 3.11: {', '.join(missing)}")
    comments = [line for line in HASHES.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    lines = (" ".join([pin, *(f"--hash=sha256:{digest}" for digest in found[pin])]) for pin in pins)
    HASHES.write_text("".join(f"{line}\n" for line in chain(comments, lines)), encoding="utf-8")


if __name__ == "__main__":
    main()
