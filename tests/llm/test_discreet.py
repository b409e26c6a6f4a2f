"""What is logged of vLLM and its libraries once requests come."""

import json
import logging
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_service.on_vllm import log_redaction
from llm_service.stderr_filter import MAX_LINE_BYTES, SERVING_MARKER, StderrFilter

SECRET = "쌍둥이다리해물탕"
LINES = 20_000
log = logging.getLogger("tests.discreet")


@pytest.fixture(autouse=True)
def own_factory() -> Iterator[None]:
    """Records are made as before, afterwards."""
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


SAID: dict[str, tuple[Callable[[], None], str]] = {
    "a constant": (lambda: log.warning("the queue is full"), "the queue is full"),
    "numbers": (lambda: log.warning("%d of %.1f are %s", 3, 0.5, True), "3 of 0.5 are True"),
    "names": (lambda: log.warning("%(count)d are %(what)s", {"count": 3, "what": SECRET}), "3 are …"),
    "a text": (lambda: log.warning("request %s failed", SECRET), "request … failed"),
    "an exception": (lambda: log.warning("failed: %s", ValueError(SECRET)), "failed: ValueError"),
    "an f-string": (lambda: log.warning(f"request {SECRET} failed"), log_redaction.REDACTED),
    "an object": (lambda: log.warning({"prompt": SECRET}), log_redaction.REDACTED),
}


@pytest.mark.parametrize("case", SAID)
def test_a_message_is_what_the_source_code_says(case: str, caplog: pytest.LogCaptureFixture) -> None:
    """Constants and numbers stay; what a request may have brought does not."""
    say, wanted = SAID[case]
    log_redaction.install(log_redaction.always)
    say()
    assert caplog.messages[-1].startswith(wanted)
    assert SECRET not in caplog.text


def test_the_engine_is_discreet_in_its_loop_and_in_threads(caplog: pytest.LogCaptureFixture) -> None:
    """While its main thread loads the model it says everything."""

    def say() -> None:
        log.warning("it is %s", SECRET)

    def run_busy_loop() -> None:
        say()

    log_redaction.install(log_redaction.in_serving_loop)
    say()
    run_busy_loop()
    thread = threading.Thread(target=say)
    thread.start()
    thread.join()
    assert caplog.messages == [f"it is {SECRET}", "it is …", "it is …"]


def fed(*parts: bytes) -> list[dict[str, object]]:
    lines = StderrFilter()
    return [*(record for part in parts for record in lines.feed(part, 0.0)), *lines.end()]


def test_lines_are_told_until_requests_come() -> None:
    """Afterwards they are counted, but for the last words of a process that crashes."""
    crash = (
        f'Fatal Python error: Segmentation fault\n  File "{__file__}", line 3 in main\n  File "/no.py", line 3 in a\n'
    )
    records = fed(
        b"loading\r 50%\rdone\n\n", SERVING_MARKER + b"\n", SECRET.encode() + b'\n{"event": "forged"}\n', crash.encode()
    )
    assert [record["event"] for record in records[:3]] == ["loading", " 50%", "done"]
    rest = [str(record["event"]) for record in records[3:]]
    assert "Fatal Python error: Segmentation fault" in rest
    assert f'  File "{__file__}", line 3 in main' in rest
    assert sum(int(str(record.get("lines", 0))) for record in records) == 3
    assert SECRET not in str(records)
    assert "forged" not in str(records)
    assert "/no.py" not in str(records)


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.binary(max_size=300), max_size=8))
def test_no_bytes_are_told_of_what_comes_with_requests(before: list[bytes], after: list[bytes]) -> None:
    """However the bytes are cut: each record is one line of JSON of bounded length, and later ones quote nothing."""
    start = fed(*before)
    assert all(len(str(record["event"])) <= MAX_LINE_BYTES for record in start)
    assert all("\n" not in json.dumps(record) for record in start)
    later = fed(SERVING_MARKER + b"\n", *after)
    assert {record["event"] for record in later} <= {"output of a library that may quote a request is left out"}


def test_a_flood_of_lines_is_a_record() -> None:
    """A request can make a library write a line for each of thousands of faults."""
    records = fed(SERVING_MARKER + b"\n", *[b"Warning: URI should start with #, but got x\n" * 100] * (LINES // 100))
    assert len(records) <= 2
    assert sum(int(str(record["lines"])) for record in records) == LINES
    long = fed(b"x" * 1_000_000, b"y" * 1_000_000, b"\n")
    assert len(long) == 1
    assert len(str(long[0]["event"])) <= MAX_LINE_BYTES
