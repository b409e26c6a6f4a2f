"""A release has one version number, which stands in `onecard.__version__`."""

import re
import tomllib
from datetime import date
from importlib import metadata
from pathlib import Path

import pytest

import onecard

ROOT = Path(__file__).parents[2]
PROJECTS = sorted(ROOT.glob("*/pyproject.toml"))


def releases() -> list[tuple[str, str]]:
    """Version and date of each release in the changelog, the latest first."""
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    return [(found[1], found[2]) for line in lines if (found := re.fullmatch(r"## \[(\d\S*)\] - (\S+)", line))]


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_every_folder_has_the_version_of_the_library(path: Path) -> None:
    """No pyproject.toml has a number of its own, and what is installed from it has the one number."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    assert "version" not in content["project"]
    assert content["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "onecard.__version__"}
    assert metadata.version(content["project"]["name"]) == onecard.__version__


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_every_folder_names_the_licence(path: Path) -> None:
    """The licence that is told to package tools is the one in LICENSE."""
    assert tomllib.loads(path.read_text(encoding="utf-8"))["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_changelog_ends_with_this_version() -> None:
    """The latest release in the changelog is this version; each has its date, and later ones come first."""
    found = releases()
    assert found[0][0] == onecard.__version__
    versions = [tuple(map(int, version.split("."))) for version, _ in found]
    assert versions == sorted(set(versions), reverse=True)
    dates = [date.fromisoformat(day) for _, day in found]
    assert dates == sorted(dates, reverse=True)


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    """Changes are written down under `Unreleased` before there is a number for them."""
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
