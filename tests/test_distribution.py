"""How tests are shared out among workers."""

import pytest

from tests import distribution
from tests.conftest import ROOT

OWN = [f"tests/llm/test_{name}.py" for name in distribution.OWN_ENGINES]


def test_what_is_named_is_there() -> None:
    """A module that is renamed would go its own way in silence."""
    assert [name for name in (*OWN, *distribution.WITH_ENGINES) if not (ROOT / name).is_file()] == []
    assert [name for name in distribution.LONGEST_FIRST if not (ROOT / name).is_dir()] == []


@pytest.mark.parametrize(
    ("nodeid", "unit"),
    [
        ("tests/llm/test_bounds.py::test_x[vllm-direct]", distribution.ENGINES),
        ("tests/contract/test_edge.py::test_x", distribution.ENGINES),
        ("tests/llm/test_canary.py::test_x", "tests/llm/test_canary.py"),
        ("tests/clients/test_http_clients.py::TestCurl::test_x[a::b]", "tests/clients/test_http_clients.py"),
    ],
)
def test_a_module_is_never_cut(nodeid: str, unit: str) -> None:
    """Classes and cases of a module go where the module goes, and users of the shared engines all to one worker."""
    assert distribution.unit_of(nodeid) == unit


def test_the_longest_come_first() -> None:
    """By folder; what is named nowhere comes last."""
    nodeids = ("tests/bench/test_x.py::y", "tests/stack/test_x.py::y", "tests/llm/test_canary.py::y")
    assert sorted(nodeids, key=distribution.place_of) == list(reversed(nodeids))
