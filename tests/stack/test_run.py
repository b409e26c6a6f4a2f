"""`onecard run`: the stack in the foreground, as a container has it."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.stack.conftest import UP_SECONDS, Workspace
from tests.support import KEY, LLM

pytestmark = pytest.mark.timeout(600)
STREAM = {"model": LLM, "stream": True, "max_tokens": 900, "messages": [{"role": "user", "content": "리뷰 요약"}]}


@contextmanager
def following(process: "subprocess.Popen[str]") -> Iterator[list[str]]:
    """The lines of `onecard run`, once it follows the logs; at the end it is stopped."""
    up, lines = threading.Event(), list[str]()

    def read_log() -> None:
        for line in process.stdout or ():
            lines.append(line)
            if "Onecard is up" in line:
                up.set()

    reader = threading.Thread(target=read_log)
    reader.start()
    try:
        assert up.wait(UP_SECONDS), "".join(lines)
        yield lines
    finally:
        process.terminate()
        process.wait(60)
        reader.join(60)


def test_it_stops_at_sigterm_and_ends_what_it_has_begun(place: Workspace) -> None:
    """It prints the parts' logs; a stream that is under way gets an end, nothing is left, and the exit code is 0."""
    running = place.start("run", VLLM_ENABLED="false", DRAIN_SECONDS="2")
    with following(running) as lines:
        assert place.run("status", VLLM_ENABLED="false", DRAIN_SECONDS="2").returncode == 0
        headers = {"authorization": f"Bearer {KEY}", "cache-control": "no-cache"}
        url = f"{place.url()}/v1/chat/completions"
        with httpx.stream("POST", url, json=STREAM, headers=headers, timeout=60) as answer:
            events = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
            next(events)
            running.send_signal(signal.SIGTERM)
            *_, last = events
    assert last == "[DONE]" or "error" in json.loads(last)
    assert running.returncode == 0
    assert place.processes() == []
    assert any(line.startswith("gateway ") for line in lines)
    assert KEY not in "".join(lines)


def test_it_leaves_what_somebody_has_started_as_it_is(place: Workspace) -> None:
    """As in a pod, where it is typed again and again, and somebody has taken other settings meanwhile: the same
    processes run on, and their logs are followed. At SIGTERM they stop, because a container ends with them."""
    started = place.run("up", VLLM_ENABLED="false", BATCH_TEXTS="3")
    assert started.returncode == 0, started.stderr
    before = {state.pid for state in place.supervisor.states().values()}
    running = place.start("run", VLLM_ENABLED="false")
    with following(running) as lines:
        assert {state.pid for state in place.supervisor.states().values()} == before
    assert running.returncode == 0
    assert place.processes() == []
    assert any(line.startswith("gateway ") for line in lines)
