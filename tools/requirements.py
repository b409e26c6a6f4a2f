"""Print the dependencies of our folders' pyproject.toml, without our own distributions.

`requirements.py` prints those of all folders with all extras, `requirements.py 'gateway[otlp]'` those of one folder and
of those of our folders that it depends on.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def requirements(wanted: Iterable[str] = ()) -> list[str]:
    """Collect the requirements of folders.

    Args:
        wanted: our folders, with extras (`gateway[otlp]`); empty: all folders with all extras.

    Returns:
        Requirement strings, sorted, each once.

    Raises:
        KeyError: there is no such folder, or no such extra.
    """
    projects = _projects()
    if not wanted:
        wanted = [f"{name}[{','.join(project.get('optional-dependencies', {}))}]" for name, project in projects.items()]
    return sorted({line for folder in wanted for line in _required(folder, projects)})


def _projects() -> dict[str, dict[str, Any]]:
    """Read the `[project]` table of every folder, by the folder's name."""
    return {
        path.parent.name: tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        for path in ROOT.glob("*/pyproject.toml")
    }


def _required(wanted: str, projects: dict[str, dict[str, Any]]) -> Iterator[str]:
    name, *extras = re.findall(r"[a-z-]+", wanted)
    project = projects[name]
    lines = [*project.get("dependencies", [])]
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    for line in lines:
        if line.startswith("onecard-"):
            yield from _required(line.removeprefix("onecard-"), projects)
        else:
            yield line


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
