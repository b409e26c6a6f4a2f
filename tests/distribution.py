"""Which worker gets which tests: those that share servers stay together, and the longest come first.

xdist's own way cuts the list of tests anywhere, and into ever smaller pieces towards its end: both workers start the
servers of a module that is cut, and at the end one worker waits for the other.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ENGINES = "tests/llm"
"""All tests that share one vLLM and one Transformers engine, which take a minute to start."""
WITH_ENGINES = ("tests/contract/test_edge.py", "tests/contract/test_openapi.py")
"""Modules of other folders that are among them."""
OWN_ENGINES = ("canary", "locales", "processes", "refused_starts", "structured")
"""Modules of `tests/llm` that are not: they start engines of their own, mostly to break them."""
LONGEST_FIRST = (
    ENGINES,
    "tests/stack",
    "tests/review",
    "tests/encoders",
    "tests/contract",
    "tests/gateway",
    "tests/protocol",
    "tests/runpod",
)
"""Folders; all others come last."""


def unit_of(nodeid: str) -> str:
    """What goes to one worker as a whole: a module, or `ENGINES`."""
    module = nodeid.partition("::")[0]
    if module in [f"{ENGINES}/test_{name}.py" for name in OWN_ENGINES]:
        return module
    return ENGINES if module in WITH_ENGINES or module.startswith(f"{ENGINES}/") else module


def place_of(nodeid: str) -> int:
    """Units of a lower place come first."""
    unit = unit_of(nodeid)
    return next((place for place, folder in enumerate(LONGEST_FIRST) if unit.startswith(folder)), len(LONGEST_FIRST))


class UnitScheduling(LoadScopeScheduling):
    """A worker that is nearly done with a unit gets the next one."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        config.option.loadscopereorder = False  # It would be by the number of tests.
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
