"""Which versions must agree where there is an NVIDIA GPU: cuda_rules.toml, and its rules about packages.

Pure, except that it reads the table. `tools/cuda_rules.py` applies it to the locks and the Dockerfiles, the doctor to
what is installed.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

TABLE = Path(__file__).with_suffix(".toml")

Versions = Mapping[str, str]
"""Version by distribution."""
Rule = Mapping[str, Any]
"""One entry of the table."""


def table() -> dict[str, Any]:
    """Read cuda_rules.toml."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def packages(rules: Rule) -> set[str]:
    """Names of all distributions that the rules about packages mention."""
    named = {name for rule in rules["same"] for name in rule["packages"]}
    return named | {name for rule in rules["requires"] for name in (rule["package"], *rule["pins"])}


def unequal(rule: Rule, versions: Versions) -> Iterator[str]:
    """Apply a rule of `same`.

    Args:
        rule: one entry.
        versions: of all its packages; a missing one breaks the rule.

    Yields:
        A line if the first parts of the versions differ.
    """
    found = {name: versions.get(name, "missing") for name in rule["packages"]}
    if len({tuple(version.split(".")[: rule["parts"]]) for version in found.values()}) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in found.items())
        yield f"{listed}: {rule['why']} ({rule['source']})"


def unmet(rule: Rule, versions: Versions) -> Iterator[str]:
    """Apply the pins of a rule of `requires`.

    Args:
        rule: one entry.
        versions: of all its packages; a missing one breaks the rule.

    Yields:
        A line for each package of another version than is asked for.
    """
    for name, wanted in rule["pins"].items():
        if name not in versions or Version(versions[name]) not in SpecifierSet(wanted):
            yield f"{name} {versions.get(name, 'missing')}: {rule['package']} wants {wanted} ({rule['source']})"


def broken_installed(rules: Rule, installed: Versions) -> list[str]:
    """Apply the rules about packages to what is installed. What is not installed breaks no rule.

    Args:
        rules: the table.
        installed: version by distribution.

    Returns:
        A line for each rule that does not hold.
    """
    lines: list[str] = []
    for rule in rules["same"]:
        lines += unequal({**rule, "packages": [name for name in rule["packages"] if name in installed]}, installed)
    for rule in rules["requires"]:
        # Read in one version, it says nothing about another.
        if installed.get(rule["package"]) == rule["version"]:
            pins = {name: wanted for name, wanted in rule["pins"].items() if name in installed}
            lines += unmet({**rule, "pins": pins}, installed)
    return lines
