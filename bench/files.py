"""The files of a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.paths import QUICK_RESULTS, RESULTS


def folder_for(out: Path | None, *, quick: bool) -> Path:
    """Where results go: where the operator said, else where full or quick runs keep theirs."""
    return out or (QUICK_RESULTS if quick else RESULTS)


def write(folder: Path, name: str, document: Mapping[str, Any], text: str, picture: str | None = None) -> None:
    """`name.json`, `name.md` and, if there is a picture, `name.svg`; what was there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    (folder / f"{name}.md").write_text(text)
    if picture is not None:
        (folder / f"{name}.svg").write_text(picture)


def show(folder: Path, name: str) -> None:
    """Print the report, and where it is."""
    print(f"\n{(folder / f'{name}.md').read_text()}\nWritten to {folder}")
