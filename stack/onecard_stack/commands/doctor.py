"""The command `onecard doctor`: runs all checks and shows what they find."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from onecard_stack.doctor import examine
from onecard_stack.doctor.findings import Finding, refusals
from onecard_stack.models import checksums
from onecard_stack.processes import host, orphans
from onecard_stack.settings import StackSettings

_COLOURS = {"ok": "green", "warning": "yellow", "refusal": "red"}


def run(settings: StackSettings) -> list[Finding]:
    """Run all checks. Model files that have not been compared with their digests before are read.

    Args:
        settings: the stack's settings.

    Returns:
        The findings.
    """
    cache = settings.model_cache_path
    changed = {
        model.kind: checksums.corrupted_files(model.folder.path, cache)
        for model in examine.models(settings)
        if model.folder is not None
    }
    own_pids = {process.pid for process in orphans.find(settings.run_folder)}
    return examine.examine(settings, host.processes_here(settings), own_pids, changed)


def as_json(findings: Sequence[Finding]) -> str:
    """Render the findings as JSON."""
    document = {"starts": not refusals(findings), "findings": [asdict(finding) for finding in findings]}
    return json.dumps(document, indent=2, ensure_ascii=False)


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print a line for each finding, and what follows from all of them."""
    for finding in findings:
        console.print(f"[{_COLOURS[finding.level]}]{finding.level:<8}[/] ", end="")
        console.print(f"{finding.check:<11} {finding.line}", highlight=False, markup=False)
    refused = len(refusals(findings))
    warned = sum(finding.level == "warning" for finding in findings)
    verdict = f"{refused} refusals: the stack does not start." if refused else "Nothing keeps the stack from starting."
    console.print(f"{verdict} {warned} warnings." if warned else verdict, highlight=False, markup=False)
