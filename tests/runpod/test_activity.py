"""When a pod is idle: the rule, the loop round it, and the process, against a real gateway's figures."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard_runpod.activity import ActivitySample, IdleState, next_state, parse_activity
from onecard_runpod.errors import PodError
from onecard_runpod.watchdog import POLL_SECONDS, RETRY_SECONDS, WatchdogActions, watch
from tests.runpod.conftest import INHERITED
from tests.runpod.fake_runpod import FakeRunPod
from tests.support import KEY, Server

POD_KEY = "rpa_POD0123456789"
LOOKS = st.dictionaries(st.sampled_from("ab"), st.builds(ActivitySample, st.integers(0, 3), st.integers(0, 1)))


class SimulationEnded(Exception):
    """The test has seen enough."""


class SimulatedPod:
    """A pod that time passes in, as the loop sees it."""

    def __init__(self, starts: float = 0.0, busy_until: float = 0.0, refusals: int = 0, ends: float = 5000.0) -> None:
        self.now = 0.0
        self.stops: list[float] = []
        self._starts, self._busy_until, self._refusals, self._ends = starts, busy_until, refusals, ends

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        if self.now > self._ends:
            raise SimulationEnded

    def stop(self) -> None:
        self.stops.append(self.now)
        if len(self.stops) <= self._refusals:
            raise PodError("RunPod cannot be reached.")

    def samples(self) -> dict[str, ActivitySample]:
        return {"gateway": ActivitySample(7.0, 1.0 if self.now < self._busy_until else 0.0)}

    def watch(self, idle_seconds: float) -> list[float]:
        """When the pod was told to stop."""
        doing = WatchdogActions(lambda: self.now >= self._starts, self.samples, self.stop, lambda: self.now, self.pause)
        with pytest.raises(SimulationEnded):
            watch(doing, idle_seconds)
        return self.stops


@given(st.lists(LOOKS))
def test_quiet_is_since_the_last_look_that_shows_traffic(looks: list[dict[str, ActivitySample]]) -> None:
    """Whatever parts come, go and start anew: only answered requests and running ones count."""
    quiet, known, since = IdleState(0.0), dict.fromkeys("ab", 0.0), 0.0
    for now, look in enumerate(looks, start=1):
        quiet = next_state(quiet, look, float(now))
        for name, part in look.items():
            if part.running or (part.completed != known[name] and part.completed > 0):
                since = float(now)
            known[name] = part.completed
    assert quiet.since == since


def test_a_pod_that_starts_is_not_idle() -> None:
    """The clock runs from the moment that it is ready, however long the models take to come."""
    assert SimulatedPod(starts=3000).watch(600)[0] >= 3600


def test_a_busy_pod_is_not_stopped() -> None:
    """It is stopped so long after its last request, and not before."""
    assert SimulatedPod(busy_until=5001).watch(60) == []
    stopped = SimulatedPod(busy_until=1000).watch(600)[0]
    assert 1600 - POLL_SECONDS <= stopped <= 1600 + POLL_SECONDS


def test_a_stop_that_fails_or_comes_to_nothing_is_tried_again() -> None:
    """As long as the pod lives, nobody wants anything, and time passes."""
    stops = SimulatedPod(refusals=3).watch(60)
    assert stops[:3] == [60, 60 + RETRY_SECONDS, 60 + 2 * RETRY_SECONDS]


def test_what_is_traffic(gateway: Server) -> None:
    """A real gateway's figures: work counts; probes, scrapes and strangers do not."""

    def look() -> ActivitySample:
        return parse_activity(httpx.get(f"{gateway.url}/metrics").text)

    before = look()
    for path in ("/health/live", "/health/ready", "/metrics", "/v1/models", "/wp-login.php"):
        httpx.get(gateway.url + path)
    assert look() == before
    httpx.post(f"{gateway.url}/v1/sentiment", json={"input": "국물이 진해요"}).raise_for_status()
    assert look().completed == before.completed + 1


def test_what_is_running() -> None:
    """vLLM's prompts, the gateway's calls, and any worker that has a gauge named so."""
    lines = [
        f"# TYPE {name} gauge\n{name} 2.0\n" for name in ("vllm:num_requests_running", "onecard_precompute_running")
    ]
    assert parse_activity("".join(lines)).running == 4
    assert (
        parse_activity(
            '# TYPE onecard_upstream_in_flight gauge\nonecard_upstream_in_flight{upstream="llm"} 1\n'
        ).running
        == 1
    )
    assert parse_activity("# TYPE vllm:request_success_total counter\nvllm:request_success_total 5\n").completed == 5


@contextmanager
def part(running: threading.Event) -> Iterator[str]:
    """A part that is ready, and at work while `running` is set; its metrics want the key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            open_to_all = self.path == "/health/ready"
            allowed = open_to_all or self.headers.get("authorization") == f"Bearer {KEY}"
            body = f"# TYPE work_running gauge\nwork_running {int(running.is_set())}\n".encode()
            self.send_response(200 if allowed else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_process_stops_an_idle_pod_and_no_busy_one(runpod: FakeRunPod) -> None:
    """With the pod's own key, through the API; the key is in no log line, and SIGTERM ends it."""
    runpod.keys = {POD_KEY}
    runpod.add_pod("abc", "RUNNING")
    busy = threading.Event()
    busy.set()
    environment = {name: value for name, value in os.environ.items() if name in INHERITED}
    environment |= {"RUNPOD_API_URL": runpod.url, "RUNPOD_API_KEY": POD_KEY, "RUNPOD_POD_ID": "abc"}
    environment |= {"IDLE_STOP_MINUTES": "0.02", "API_KEY": KEY}
    with part(busy) as url:
        command = [sys.executable, "-m", "onecard_runpod.watchdog", url]
        watchdog = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert not runpod.changed.wait(4)
            busy.clear()
            assert runpod.changed.wait(60)
        finally:
            watchdog.send_signal(signal.SIGTERM)
            out, _ = watchdog.communicate(timeout=20)
    assert runpod.pods["abc"]["status"] == "EXITED"
    assert watchdog.returncode == 0
    assert "stopping an idle pod" in out
    assert POD_KEY not in out
    assert POD_KEY not in " ".join(command)
