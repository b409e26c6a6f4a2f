"""Print what folders' pyproject.toml ask for, our own distributions left out.

`requirements.py` prints that of all folders with all extras; `requirements.py 'gateway[otlp]'` that of one, with what
those of ours ask for that it needs.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def requirements(wanted: Iterable[str] = ()) -> list[str]:
    """Requirement strings of the folders wanted (`gateway[otlp]`), or of all; sorted, each once.

    Raises:
        KeyError: there is no such folder, or no such extra.
    """
    found = _projects()
    if not wanted:
        wanted = [f"{name}[{','.join(project.get('optional-dependencies', {}))}]" for name, project in found.items()]
    return sorted({line for one in wanted for line in _asked(one, found)})


def _projects() -> dict[str, dict[str, Any]]:
    """The `[project]` of every folder, by the folder's name."""
    return {
        path.parent.name: tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        for path in ROOT.glob("*/pyproject.toml")
    }


def _asked(wanted: str, found: dict[str, dict[str, Any]]) -> Iterator[str]:
    name, *extras = re.findall(r"[a-z-]+", wanted)
    project = found[name]
    lines = [*project.get("dependencies", [])]
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    for line in lines:
        if line.startswith("onecard-"):
            yield from _asked(line.removeprefix("onecard-"), found)
        else:
            yield line


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
