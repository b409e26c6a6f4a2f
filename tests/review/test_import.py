"""The command `onecard import`, as a person runs it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard_stack.commands.review_import import MAX_BATCH_LINES, batches
from tests.review.support import gateway_of
from tests.review.test_service import made, total, wait_for
from tests.support import Server, free_port, serving


@pytest.fixture
def door(empty: Server) -> Iterator[Server]:
    """A gateway in front of an empty review service."""
    with gateway_of(empty) as server:
        yield server


def start(door: Server, file: Path) -> "subprocess.Popen[str]":
    """The command, started in the file's folder."""
    argv = [sys.executable, "-m", "onecard_stack", "import", file.name]
    env = {"GATEWAY_PORT": str(door.port), "PATH": "", "PYTHONPATH": ":".join(sys.path), "LANG": "C.UTF-8"}
    return subprocess.Popen(argv, cwd=file.parent, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_file_is_imported_and_its_wrong_lines_are_told(door: Server, empty: Server, tmp_path: Path) -> None:
    """With their numbers in the file, over several requests; a second run stores nothing."""
    count = MAX_BATCH_LINES + 20
    lines = [*(made(number) for number in range(count)), "no review", made(3, text="다시 갈게요")]
    file = write(tmp_path / "reviews.jsonl", lines)
    code, output = finish(start(door, file))
    assert code == 1
    assert f"line {count + 1}:" in output
    assert total(empty) == count
    # The first line of r-3 is not the last one of its id: it is stored, and then replaced.
    assert f"{count + 1} stored, 0 were stored already" in output
    code, output = finish(start(door, write(file, lines[4:count])))
    assert (code, f"0 stored, {count - 4} were stored already" in output) == (0, True), output


def test_wrong_lines_are_counted_one_by_one(door: Server, empty: Server, tmp_path: Path) -> None:
    """Also where a whole request of them is refused; empty lines are no lines, and a mark before the first no fault."""
    lines = [made(0), *["no review"] * (2 * MAX_BATCH_LINES), *[""] * (3 * MAX_BATCH_LINES), made(1), ""]
    file = write(tmp_path / "reviews.jsonl", lines)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    code, output = finish(start(door, file))
    assert (code, total(empty)) == (1, 2), output
    assert f"2 stored, 0 were stored already, {2 * MAX_BATCH_LINES} wrong" in output
    assert f"… and more: {2 * MAX_BATCH_LINES} lines are wrong" in output
    code, output = finish(start(door, write(file, [*[""] * MAX_BATCH_LINES, *["no review"] * 5])))
    assert f"lines {MAX_BATCH_LINES + 1} to {MAX_BATCH_LINES + 5}: Line {MAX_BATCH_LINES + 1} is wrong" in output
    assert (code, "0 stored, 0 were stored already, 5 wrong" in output) == (1, True)
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(made(0)).encode() + b"\n" * (MAX_BATCH_LINES + 9))
    code, output = finish(start(door, file))
    assert (code, "0 stored, 1 were stored already, 0 wrong" in output) == (0, True), output


def test_lines_of_one_id_are_no_wrong_ones_however_many(door: Server, empty: Server, tmp_path: Path) -> None:
    """The service tells of the first hundred of them one by one, and counts all."""
    file = write(tmp_path / "reviews.jsonl", [made(0, text=f"국물이 {number}번 좋았다") for number in range(150)])
    code, output = finish(start(door, file))
    assert (code, total(empty)) == (0, 1), output
    assert "1 stored, 0 were stored already, 0 wrong, 149 replaced by a later line of the same id" in output


def test_a_file_in_utf16_is_refused(door: Server, empty: Server, tmp_path: Path) -> None:
    """In one line, before anything is sent."""
    file = tmp_path / "reviews.jsonl"
    file.write_text(json.dumps(made(1)), encoding="utf-16")
    code, output = finish(start(door, file))
    assert (code, total(empty)) == (1, 0)
    assert "onecard: reviews.jsonl is in UTF-16. Save it as UTF-8." in output


def test_requests_that_are_too_large_are_made_smaller(empty: Server, tmp_path: Path) -> None:
    """Where MAX_BODY_MB is set low: what fits by itself is stored, and only what does not is wrong."""
    count = 40
    file = write(tmp_path / "reviews.jsonl", [*map(made, range(count)), made(99, text="맛" * 3000)])
    with gateway_of(empty, MAX_BODY_MB="0.002") as small:
        code, output = finish(start(small, file))
    assert (code, total(empty)) == (1, count), output
    assert f"{count} stored, 0 were stored already, 1 wrong" in output
    assert f"line {count + 1}: " in output


def test_an_import_that_is_interrupted_goes_on_where_it_was(door: Server, empty: Server, tmp_path: Path) -> None:
    """Ctrl-C in the middle: what was stored stays, and is passed over by the next run."""
    count = 6 * MAX_BATCH_LINES
    file = write(tmp_path / "reviews.jsonl", [made(number) for number in range(count)])
    first = start(door, file)
    wait_for(lambda: total(empty) >= MAX_BATCH_LINES or first.poll() is not None, "an import that has begun")
    first.send_signal(signal.SIGINT)
    code, output = finish(first)
    assert code == 130, output
    there = total(empty)
    code, output = finish(start(door, file))
    assert code == 0, output
    assert total(empty) == count
    assert there >= MAX_BATCH_LINES


def test_an_import_outlives_a_service_that_is_killed(model_urls: dict[str, str], tmp_path: Path) -> None:
    """It sends again what was not answered, once the service is back: nothing is lost, and nothing is there twice."""
    count = 6 * MAX_BATCH_LINES
    file = write(tmp_path / "reviews.jsonl", [made(number) for number in range(count)])
    env = {**model_urls, "REVIEW_STORE": str(tmp_path / "reviews")}
    nobody, port = f"http://127.0.0.1:{free_port()}", free_port()
    others = {"LLM_URL": nobody, "SENTIMENT_URL": nobody, "EMBEDDING_URL": nobody, "CACHE_ENABLED": "false"}
    gateway_env = {**others, "REVIEW_URL": f"http://127.0.0.1:{port}"}
    with ExitStack() as closing:
        server = closing.enter_context(serving("review_service", port_variable="REVIEW_PORT", env=env, port=port))
        door = closing.enter_context(serving("gateway", port_variable="GATEWAY_PORT", env=gateway_env))
        command = start(door, file)
        wait_for(lambda: total(server) >= MAX_BATCH_LINES or command.poll() is not None, "an import that has begun")
        server.process.kill()
        server.process.wait()
        assert command.poll() is None
        server = closing.enter_context(serving("review_service", port_variable="REVIEW_PORT", env=env, port=port))
        code, output = finish(command)
        assert (code, total(server)) == (0, count), output
        code, output = finish(start(door, file))
        assert (code, f"0 stored, {count} were stored already" in output) == (0, True), output


def test_a_key_that_is_missing_is_told_at_once(filled: Server, tmp_path: Path) -> None:
    """No waiting for what waiting does not mend."""
    env = {"REVIEW_URL": filled.url, "API_KEY": "0123456789abcdef", "CACHE_ENABLED": "false"}
    with serving("gateway", port_variable="GATEWAY_PORT", env=env) as door:
        assert httpx.get(f"{door.url}/health/ready").status_code == 200
        code, output = finish(start(door, write(tmp_path / "reviews.jsonl", [made(1)])))
    assert code == 1
    assert "401" in output


@given(st.lists(st.binary(max_size=20).map(lambda text: text.replace(b"\n", b"") + b"\n"), max_size=600))
def test_batches_hold_every_line_once_under_its_number(lines: list[bytes]) -> None:
    """In order, none too long."""
    made_batches = list(batches(lines))
    assert b"".join(batch.body for batch in made_batches) == b"".join(lines)
    first = 1
    for batch in made_batches:
        assert batch.first_line == first
        first += batch.body.count(b"\n")
        assert batch.body.count(b"\n") <= MAX_BATCH_LINES
