"""When a pod stops itself: the rule, the loop round it, and the process, against a real gateway's metrics."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.client_traffic import INTERNAL_HEADER
from onecard_runpod.activity import ActivitySample, PodState, next_state, parse_activity, time_left
from onecard_runpod.errors import PodError
from onecard_runpod.watchdog import (
    DEFAULT_IDLE_MINUTES,
    POLL_SECONDS,
    RETRY_SECONDS,
    ServiceProbe,
    WatchdogActions,
    load_settings,
    watch,
)
from tests.runpod.conftest import POD_KEY, pod_process
from tests.runpod.fake_runpod import FakeRunPod
from tests.support import KEY, Server, free_port

POLLS = st.lists(
    st.tuples(
        st.booleans(),
        st.dictionaries(
            st.sampled_from("ab"),
            st.builds(ActivitySample, served=st.integers(0, 3), other=st.integers(0, 3), running=st.integers(0, 1)),
        ),
    )
)


class SimulationEnded(Exception):
    """The test has seen enough."""


class SimulatedPod:
    """A pod that time passes in, as the watchdog sees it."""

    def __init__(
        self, starts: float = 0.0, busy_until: float = 0.0, refusals: int = 0, ends: float = 50_000.0, **breaks: bool
    ) -> None:
        self.now = 0.0
        self.stops: list[float] = []
        self._starts, self._busy_until, self._refusals, self._ends = starts, busy_until, refusals, ends
        self._breaks = breaks.get("breaks", False)

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        if self.now > self._ends:
            raise SimulationEnded

    def stop(self) -> None:
        self.stops.append(self.now)
        if len(self.stops) <= self._refusals:
            raise PodError("RunPod cannot be reached.") if len(self.stops) % 2 else RuntimeError("unforeseen")

    def samples(self) -> dict[str, ActivitySample]:
        if self._breaks:
            raise RuntimeError("unforeseen")
        return {"gateway": ActivitySample(served=7.0, running=1.0 if self.now < self._busy_until else 0.0)}

    def watch(self, idle_seconds: float | None, unready_seconds: float = 3600) -> list[float]:
        """When the pod was told to stop."""
        actions = WatchdogActions(
            lambda: self.now >= self._starts, self.samples, self.stop, lambda: self.now, self.pause
        )
        with pytest.raises(SimulationEnded):
            watch(actions, idle_seconds=idle_seconds, unready_seconds=unready_seconds)
        return self.stops


@given(POLLS)
def test_times_are_those_of_the_last_poll_that_shows_it(polls: list[tuple[bool, dict[str, ActivitySample]]]) -> None:
    """Whatever services come, go and start anew: only answered requests and running ones count, once it was ready."""
    state = PodState(0.0)
    known = dict.fromkeys("ab", ActivitySample())
    active_at, working_at = None, 0.0
    for now, (ready, samples) in enumerate(polls, start=1):
        state = next_state(state, samples, float(now), ready=ready)
        served = any(new.served not in (known[name].served, 0) for name, new in samples.items())
        other = any(new.other not in (known[name].other, 0) for name, new in samples.items())
        if ready or served:
            working_at = float(now)
        if (ready and active_at is None) or (
            active_at is not None and (served or other or any(new.running for new in samples.values()))
        ):
            active_at = float(now)
        known |= samples
    assert (state.active_at, state.working_at) == (active_at, working_at)


@given(POLLS, st.floats(1, 100), st.floats(1, 100))
def test_without_clients_a_pod_ends_within_both_limits(
    polls: list[tuple[bool, dict[str, ActivitySample]]], idle: float, unready: float
) -> None:
    """Whether it is ready or not, at once, later, or now and then: its end comes within the sum of the two."""
    state, now = PodState(0.0), 0.0
    for index in range(1000):
        ready = polls[index % len(polls)][0] if polls else False
        state = next_state(state, {"a": ActivitySample()}, now, ready=ready)
        left, _ = time_left(state, now, idle_seconds=idle, unready_seconds=unready)
        if left <= 0:
            break
        now += min(left, 1.0)
    assert now <= idle + unready


def test_a_pod_that_starts_is_not_idle() -> None:
    """The idle time runs from the moment that it is ready, however long the models take to come."""
    assert SimulatedPod(starts=3000).watch(600)[0] >= 3600


@pytest.mark.parametrize("idle_seconds", [600, None])
def test_a_pod_that_does_not_get_ready_is_stopped(idle_seconds: float | None) -> None:
    """At its limit, also where nobody has set a time for an idle one."""
    assert SimulatedPod(starts=1e9).watch(idle_seconds, unready_seconds=1800)[0] == 1800


def test_a_busy_pod_is_not_stopped() -> None:
    """It is stopped so long after its last request, and not before."""
    assert SimulatedPod(busy_until=50_001).watch(60) == []
    stopped = SimulatedPod(busy_until=1000).watch(600)[0]
    assert 1600 - POLL_SECONDS <= stopped <= 1600 + POLL_SECONDS


def test_a_ready_pod_without_an_idle_limit_goes_on() -> None:
    """Nobody asked for a stop."""
    assert SimulatedPod().watch(None) == []


def test_a_stop_that_fails_or_comes_to_nothing_is_tried_again() -> None:
    """As long as the pod lives, nobody wants anything, and time passes; whatever the failure was."""
    stops = SimulatedPod(refusals=3, ends=500.0).watch(60)
    assert stops[:3] == [60, 60 + RETRY_SECONDS, 60 + 2 * RETRY_SECONDS]


def test_a_watchdog_that_cannot_look_still_stops_the_pod() -> None:
    """A fault in reading the services is logged; it ends neither the watchdog nor the limit."""
    assert SimulatedPod(breaks=True, ends=2000.0).watch(600, unready_seconds=1800)[0] == 1800


def test_what_is_traffic(gateway: Server) -> None:
    """A real gateway's metrics: work counts; probes, scrapes, strangers and Onecard's own requests do not.

    What is refused, and what its client does not wait for, counts as activity and not as work done.
    """

    def look() -> ActivitySample:
        return parse_activity(httpx.get(f"{gateway.url}/metrics").text)

    before = look()
    for path in ("/health/live", "/health/ready", "/metrics", "/v1/models", "/wp-login.php"):
        httpx.get(gateway.url + path)
    url, body = f"{gateway.url}/v1/sentiment", {"input": "국물이 진해요"}
    httpx.post(url, json=body, headers={INTERNAL_HEADER: "canary"}).raise_for_status()
    assert look() == before
    httpx.post(url, json=body).raise_for_status()
    assert look().served == before.served + 1
    assert httpx.post(url, json={"input": ""}).status_code == 400
    assert httpx.post(url, json={"input": []}).status_code == 400
    assert (look().served, look().other) == (before.served + 1, before.other + 2)
    assert before.running == look().running == 0


@contextmanager
def service(running: threading.Event, ready: threading.Event) -> Iterator[int]:
    """The port of a service that is at work while `running` is set; its metrics want the key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health/ready":
                status = 200 if ready.is_set() else 503
            else:
                status = 200 if self.headers.get("authorization") == f"Bearer {KEY}" else 401
            body = (
                f"# TYPE onecard_client_requests_running gauge\nonecard_client_requests_running {int(running.is_set())}"
            )
            self.send_response(status)
            self.send_header("content-length", str(len(body) + 1))
            self.end_headers()
            self.wfile.write(f"{body}\n".encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def watchdog(runpod: FakeRunPod, cwd: Path, **variables: str) -> AbstractContextManager["subprocess.Popen[str]"]:
    """The process, in a pod of the double."""
    return pod_process(runpod, "onecard_runpod.watchdog", cwd=cwd, **{"API_KEY": KEY, **variables})


def test_the_process_stops_an_idle_pod_and_no_busy_one(runpod: FakeRunPod, tmp_path: Path) -> None:
    """With the pod's own key, through the API; the key is in no log line, and SIGTERM ends it."""
    busy, ready = threading.Event(), threading.Event()
    busy.set()
    ready.set()
    with service(busy, ready) as port:
        ports = {"GATEWAY_PORT": str(port), "VLLM_PORT": str(port)}
        with watchdog(runpod, tmp_path, IDLE_STOP_MINUTES="0.02", **ports) as process:
            assert not runpod.changed.wait(4)
            busy.clear()
            assert runpod.changed.wait(60)
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=20)
    assert runpod.pods["abc"]["status"] == "EXITED"
    assert process.returncode == 0
    assert "stopping the pod" in out
    assert POD_KEY not in out


def test_the_process_stops_a_pod_whose_settings_are_wrong(runpod: FakeRunPod, tmp_path: Path) -> None:
    """The stack refuses such settings and never starts; the watchdog does, and its limit holds."""
    wrong = {"API_KEY": "short", "MAX_MODEL_LEN": "abc", "LOG_LEVEL": "loud", "VLLM_PORT": "none"}
    with watchdog(runpod, tmp_path, GATEWAY_PORT=str(free_port()), UNREADY_STOP_MINUTES="0.02", **wrong):
        assert runpod.changed.wait(60)
    assert runpod.pods["abc"]["status"] == "EXITED"


def test_a_limit_that_is_no_number_is_not_for_ever() -> None:
    """Defaults take the place of what cannot be read, in whatever case the name is written."""
    settings = load_settings({"idle_stop_minutes": "soon", "UNREADY_STOP_MINUTES": "-1", "Runpod_Pod_Id": "abc"})
    assert (settings.idle_stop_minutes, settings.unready_stop_minutes) == (DEFAULT_IDLE_MINUTES, 60)
    assert settings.runpod_pod_id == "abc"
    assert load_settings({"IDLE_STOP_MINUTES": ""}).idle_stop_minutes is None


@pytest.mark.parametrize("key", [None, "short", "a key that is no header: 한국어"])
def test_a_service_that_does_not_show_its_metrics_is_idle(key: str | None) -> None:
    """It would keep the pod for ever otherwise."""
    busy, ready = threading.Event(), threading.Event()
    busy.set()
    with service(busy, ready) as port:
        probe = ServiceProbe([f"http://127.0.0.1:{port}"], key)
        assert probe.samples() == {}
        assert not probe.ready()
        ready.set()
        assert probe.ready()
        assert ServiceProbe([f"http://127.0.0.1:{port}"], KEY).samples() != {}
