"""Runs a client's script in its environment and reads what came of each case."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.clients.environments import HERE, node_environment, python_environment

SECONDS = 600
"""Longest run of a client: its imports alone take a minute on two busy cores."""
PYTHON = {
    "openai": "current",
    "langchain": "current",
    "pydantic_ai": "current",
    "llamaindex": "others",
    "instructor": "others",
    "litellm": "others",
    "haystack": "others",
}
"""Each Python client's environment: they do not all take the same version of the SDK below them."""
NODE = ("openai", "ai_sdk")


def outcomes(client: str, environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What came of each case of `python/openai`, `node/ai_sdk` and their like, by the case's name."""
    language, _, name = client.partition("/")
    if language == "python":
        command = [str(python_environment(PYTHON[name]) / "bin" / "python"), str(HERE / "python" / f"{name}_client.py")]
        return _results(run(command, environment))
    return _results(run(["node", f"{name}_client.mjs"], environment, node_environment()))


def run(command: Sequence[str], environment: Mapping[str, str], folder: Path = HERE) -> str:
    """A program's output; it fails with what the program said if that does not end well."""
    quiet = {"ANONYMIZED_TELEMETRY": "false", "HAYSTACK_TELEMETRY_ENABLED": "false", "DO_NOT_TRACK": "1"}
    offline = {"HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONUTF8": "1"}
    whole = {**os.environ, **quiet, **offline, **environment}
    done = subprocess.run(command, cwd=folder, env=whole, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def _results(output: str) -> dict[str, dict[str, Any]]:
    lines = [line.removeprefix("RESULT ") for line in output.splitlines() if line.startswith("RESULT ")]
    return {outcome["case"]: outcome for outcome in map(json.loads, lines)}
