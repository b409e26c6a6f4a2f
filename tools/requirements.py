"""Print what every folder's pyproject.toml asks for, extras included, our own distributions left out."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirements() -> list[str]:
    """Requirement strings of all folders, sorted, each once."""
    found: set[str] = set()
    for path in ROOT.glob("*/pyproject.toml"):
        project = tomllib.loads(path.read_text())["project"]
        found.update(project.get("dependencies", []))
        for extra in project.get("optional-dependencies", {}).values():
            found.update(extra)
    return sorted(line for line in found if not line.startswith("onecard-"))


if __name__ == "__main__":
    print("\n".join(requirements()))
