"""`onecard run`: the stack in the foreground, as a container has it."""

import json
import signal
import threading

import httpx
import pytest

from tests.stack.conftest import UP_SECONDS, Workspace
from tests.support import KEY, LLM

pytestmark = pytest.mark.timeout(600)
STREAM = {"model": LLM, "stream": True, "max_tokens": 900, "messages": [{"role": "user", "content": "리뷰 요약"}]}


def test_it_stops_at_sigterm_and_ends_what_it_has_begun(place: Workspace) -> None:
    """It prints the parts' logs; a stream that is under way gets an end, nothing is left, and the exit code is 0."""
    running = place.start("run", VLLM_ENABLED="false", DRAIN_SECONDS="2")
    up, lines = threading.Event(), list[str]()

    def read_log() -> None:
        for line in running.stdout or ():
            lines.append(line)
            if "Onecard is up" in line:
                up.set()

    reader = threading.Thread(target=read_log)
    reader.start()
    try:
        assert up.wait(UP_SECONDS), "".join(lines)
        assert place.run("status", VLLM_ENABLED="false", DRAIN_SECONDS="2").returncode == 0
        headers = {"authorization": f"Bearer {KEY}", "cache-control": "no-cache"}
        url = f"{place.url()}/v1/chat/completions"
        with httpx.stream("POST", url, json=STREAM, headers=headers, timeout=60) as answer:
            events = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
            next(events)
            running.send_signal(signal.SIGTERM)
            *_, last = events
    finally:
        running.terminate()
        code = running.wait(60)
        reader.join(60)
    assert last == "[DONE]" or "error" in json.loads(last)
    assert code == 0
    assert place.processes() == []
    assert any(line.startswith("gateway ") for line in lines)
    assert KEY not in "".join(lines)
