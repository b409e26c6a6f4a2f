"""Writes the result files of a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.paths import QUICK_RESULTS, RESULTS


def folder_for(out: Path | None, *, quick: bool) -> Path:
    """Choose the folder for results: `out` if given, else the one of full or of quick runs."""
    return out or (QUICK_RESULTS if quick else RESULTS)


def write(folder: Path, name: str, document: Mapping[str, Any], text: str, picture: str | None = None) -> None:
    """Write the result files, replacing older ones.

    Args:
        folder: created if needed.
        name: name of the files without suffix.
        document: content of the `.json` file.
        text: content of the `.md` file.
        picture: content of the `.svg` file; None: there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    (folder / f"{name}.md").write_text(text)
    if picture is not None:
        (folder / f"{name}.svg").write_text(picture)


def show(folder: Path, name: str) -> None:
    """Print the report and its folder."""
    print(f"\n{(folder / f'{name}.md').read_text()}\nWritten to {folder}")
