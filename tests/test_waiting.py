"""Tests wait for what happens, not for time: a sleep before an assertion is too short one day, and too long every day.

A poll (`eventually`, a loop that ends when something holds) is no such sleep, nor is `asyncio.sleep(0)`: that is a turn
of the event loop.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

TIME_IS_THE_SUBJECT = {
    "gateway/test_answers_own_failures.py::test_each_who_shares_waits_within_its_own_time_limit": (
        "the second comes later than the first: by that much their time limits end apart"
    ),
    "gateway/test_transport.py::test_an_answer_that_nobody_asked_for_is_no_answer_to_the_next_one": (
        "the times at which an answer is read and the next one asked for are its parameters; it has to hold for any"
    ),
    "protocol/test_slow.py::test_the_beginning_of_the_next_request_costs_the_first_nothing": (
        "the rest of a head comes later than its beginning, while the request before it is under way"
    ),
    "shared/cache/test_connecting.py::test_a_pause_of_60_ms_costs_no_connection": "the pause of Redis is the fault",
    "shared/cache/test_impostor.py::test_a_redis_that_falls_sick_costs_one_wait_and_is_found_well_again": (
        "half a second in which connections would pile up"
    ),
    "shared/cache/test_redis.py::test_a_busy_event_loop_is_not_taken_for_a_silent_redis": "the event loop stalls",
    "shared/cache/test_redis.py::test_values_expire": (
        "a value's time to live, which must not begin anew: polled, one that does would pass as well"
    ),
}
"""Test → why it has to sleep."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def own(node: ast.AST) -> Iterator[ast.AST]:
    """What is in a function, without the functions in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.Lambda):
            yield child
            yield from own(child)


def sleeps(node: ast.AST) -> bool:
    """A call of `sleep`, for longer than a turn of the event loop."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name == "sleep" and not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)


def asserts(node: ast.AST) -> bool:
    """An assertion, or a block that has to raise."""
    return isinstance(node, ast.Assert) or (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "raises"
    )


def polls(node: ast.AST) -> bool:
    """A loop that ends as soon as something holds."""
    return isinstance(node, ast.While) or (
        isinstance(node, ast.For | ast.AsyncFor) and any(isinstance(one, ast.Break | ast.Return) for one in own(node))
    )


def sleeps_and_asserts(function: Function) -> bool:
    """Whether an assertion comes after a sleep that is in no poll; in a loop, it comes after it in the next turn."""
    inside = list(own(function))
    polled = {one for loop in inside if polls(loop) for one in own(loop)}
    for sleep in (one for one in inside if sleeps(one) and one not in polled):
        again = {one for loop in inside if isinstance(loop, ast.For | ast.AsyncFor) for one in own(loop)}
        repeated = {one for one in again if asserts(one)} if sleep in again else set()
        if repeated or any(asserts(one) and place(one) > place(sleep) for one in inside):
            return True
    return False


def place(node: ast.AST) -> tuple[int, int]:
    """Where a statement or an expression begins."""
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def found(path: Path, text: str) -> list[str]:
    """The tests of a file that sleep and then assert."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, Function)]
    return [f"{path}::{function.name}" for function in functions if sleeps_and_asserts(function)]


def test_no_test_sleeps_and_then_asserts() -> None:
    """Wait for an event, or poll with `eventually`; where time itself is the subject, say so above."""
    tests = ROOT / "tests"
    paths = [path.relative_to(tests) for path in sorted(tests.rglob("*.py"))]
    everything = {name for path in paths for name in found(path, (tests / path).read_text(encoding="utf-8"))}
    assert everything == set(TIME_IS_THE_SUBJECT)


def test_a_sleep_is_told_from_a_poll() -> None:
    """What the test above finds, and what it lets pass."""
    sleeping = [
        "def test(): time.sleep(1); assert ready()",
        "async def test():\n  await asyncio.sleep(delay)\n  with pytest.raises(Gone): ask()",
        "def test():\n  for _ in range(3):\n    assert ready()\n    time.sleep(1)",
        "def test():\n  for _ in range(3): time.sleep(1)\n  assert ready()",
        "def test():\n  sleep(0.1)\n  assert ready()",
    ]
    waiting = [
        "async def test():\n  await asyncio.sleep(0)\n  assert ready()",
        "def test():\n  while not ready(): time.sleep(0.1)\n  assert done()",
        "def test():\n  for _ in range(99):\n    if ready(): break\n    time.sleep(0.1)\n  assert done()",
        "def test():\n  def late(): time.sleep(1)\n  run(late)\n  assert ready()",
        "def test():\n  assert ready()\n  time.sleep(1)",
    ]
    assert [bool(found(Path("test.py"), text)) for text in sleeping] == [True] * len(sleeping)
    assert [bool(found(Path("test.py"), text)) for text in waiting] == [False] * len(waiting)
