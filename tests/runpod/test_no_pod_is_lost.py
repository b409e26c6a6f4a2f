"""Whatever fails, each pod is known to its owner, and an idle or failed one ends within its limit."""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from onecard.settings import load_from
from onecard_runpod.activity import ActivitySample
from onecard_runpod.cli import main
from onecard_runpod.client import MAX_ATTEMPTS, RunPodClient
from onecard_runpod.pod_variables import CREATION_VARIABLE
from onecard_runpod.settings import ApiSettings
from onecard_runpod.watchdog import POLL_SECONDS, RETRY_SECONDS, WatchdogActions, watch
from tests.runpod.fake_runpod import ACCOUNT_KEY, FAULTS, FakeRunPod

IDLE_SECONDS, UNREADY_SECONDS = 1800.0, 3600.0
FAULT_LISTS = st.lists(st.sampled_from(("", "", *FAULTS)), max_size=8)
UNINTERRUPTED = tuple(name for name in FAULTS if not name.startswith("interrupt"))
POD_FAULTS = st.lists(st.sampled_from(("", *UNINTERRUPTED)), max_size=12)
OTHERS = "otherskey-0123456789"


class PodEnded(BaseException):
    """The pod does not run any more, and so does its watchdog."""


class Owner(RuleBasedStateMachine):
    """Somebody who types commands while RunPod fails, and somebody else with the same account."""

    runpod: FakeRunPod

    def __init__(self) -> None:
        super().__init__()
        self.read = ""
        """All that the owner has been shown."""
        self.strangers: set[str] = set()
        """Pods of the other one."""

    @initialize(keeps=st.booleans(), shows=st.booleans(), page_size=st.sampled_from([1, 100]), sold_out=st.booleans())
    def account(self, keeps: bool, shows: bool, page_size: int, sold_out: bool) -> None:
        """An empty account at a RunPod of one kind or another."""
        double = self.runpod
        double.pods, double.volumes, double.hidden, double.made = {}, {}, {}, 0
        double.faults, double.on_create = [], []
        double.keeps_terminated, double.shows_variables, double.page_size = keeps, shows, page_size
        double.sold_out = {"NVIDIA RTX A5000"} if sold_out else set()

    def command(self, *arguments: str, faults: list[str] | None = None) -> Result:
        """Type a command; while it runs, requests meet `faults`, one each."""
        self.runpod.faults = list(faults or [])
        environment = {"RUNPOD_API_URL": self.runpod.url, "RUNPOD_API_KEY": ACCOUNT_KEY}
        environment |= {"POD_IMAGE": "example/onecard-pod:1", "IDLE_STOP_MINUTES": "30", "API_KEY": ""}
        done = CliRunner().invoke(main, arguments, env=environment)
        self.runpod.faults, self.runpod.on_create = [], []
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        self.read += done.output
        return done

    def living(self, *, own: bool = True) -> list[str]:
        """Ids of the pods that cost something."""
        found = [pod_id for pod_id, pod in self.runpod.pods.items() if pod["status"] != "TERMINATED"]
        return [pod_id for pod_id in found if (pod_id in self.strangers) != own]

    @rule(faults=FAULT_LISTS, stranger=st.sampled_from([False, False, True]))
    def create(self, faults: list[str], stranger: bool) -> None:
        """Rent a pod: what is said about it is true."""
        before = set(self.living())
        if stranger:
            self.runpod.on_create = [self._stranger_creates]
        done = self.command("create", faults=faults)
        new = set(self.living()) - before
        said_may_exist = "may exist" in done.output or "may carry it out late" in done.output
        assert all(pod_id in done.output or said_may_exist for pod_id in new), (new, done.output)
        if done.exit_code == 0:
            assert len(new) >= 1
        for pod_id in new:
            assert self.runpod.pods[pod_id]["env"]["API_KEY"] in self.read

    def _stranger_creates(self) -> None:
        """Somebody else's request is carried out a moment before."""
        self.runpod.made += 1
        pod_id = f"stranger{self.runpod.made}"
        self.strangers.add(pod_id)
        self.runpod.add_pod(pod_id, "RUNNING", env={"API_KEY": OTHERS, CREATION_VARIABLE: "other"})

    @rule(faults=FAULT_LISTS)
    def volume(self, faults: list[str]) -> None:
        """Create a network volume: one that costs is named, or may exist."""
        self.runpod.volumes = {}
        done = self.command("volume", "EU-RO-1", faults=faults)
        may_exist = "The volume may exist all the same: see 'onecard-pod volumes'" in done.output
        assert not self.runpod.volumes or "POD_VOLUME_ID=vol1" in done.output or may_exist, done.output
        assert done.exit_code or "POD_VOLUME_ID=vol1" in done.output

    @rule(faults=FAULT_LISTS)
    def status(self, faults: list[str]) -> None:
        """Look at all pods."""
        self.command("status", faults=faults)

    @rule(action=st.sampled_from(["start", "stop", "terminate"]), faults=FAULT_LISTS, data=st.data())
    def act(self, action: str, faults: list[str], data: st.DataObject) -> None:
        """Act on a pod: a command that says that it is done has done it, and one that was done does not fail."""
        if not (own := sorted(self.living())):
            return
        pod_id = data.draw(st.sampled_from(own))
        before = self.runpod.pods[pod_id]["status"]
        arguments = [action, pod_id, *(["--yes"] if action == "terminate" else [])]
        done = self.command(*arguments, faults=faults)
        after = self.runpod.pods.get(pod_id, {"status": "TERMINATED"})["status"]
        if done.exit_code == 0:
            assert after in {"start": ["PROVISIONING", "STARTING", "RUNNING"], "stop": ["EXITED"]}.get(
                action, ["TERMINATED"]
            )
        elif after != before:
            assert any(name in FAULTS for name in faults)

    @rule(
        faults=POD_FAULTS,
        ready_after=st.sampled_from([0.0, 1000.0, 1e9]),
        busy_until=st.sampled_from([0.0, 2000.0]),
        data=st.data(),
    )
    def time_passes(self, faults: list[str], ready_after: float, busy_until: float, data: st.DataObject) -> None:
        """A pod that runs is stopped by its watchdog, within its limit and a minute for each stop that fails."""
        if not (own := sorted(self.living())):
            return
        pod_id = data.draw(st.sampled_from(own))
        self.runpod.pods[pod_id]["status"] = "RUNNING"
        self.runpod.faults = list(faults)
        ended = _watched(self.runpod, pod_id, ready_after, busy_until)
        self.runpod.faults = []
        quiet_from = max(ready_after, busy_until) if ready_after < UNREADY_SECONDS else 0.0
        limit = IDLE_SECONDS if ready_after < UNREADY_SECONDS else UNREADY_SECONDS
        assert ended <= quiet_from + limit + POLL_SECONDS + (len(faults) + 1) * RETRY_SECONDS
        assert ended >= quiet_from + limit - POLL_SECONDS

    @invariant()
    def strangers_are_left_alone(self) -> None:
        """No command and no watchdog ends a pod of somebody else."""
        assert all(self.runpod.pods[pod_id]["status"] == "RUNNING" for pod_id in self.strangers)

    def teardown(self) -> None:
        """In the end the owner finds every pod by its name, has its key, and can end it."""
        for pod_id in self.living():
            self.runpod.hidden = {}
            assert re.search(rf"^{pod_id}\s+onecard\s", self.command("status").output, re.MULTILINE)
            assert self.runpod.pods[pod_id]["env"]["API_KEY"] in self.read
            assert self.command("terminate", pod_id, "--yes").exit_code == 0
        assert self.living() == []
        assert ACCOUNT_KEY not in self.read
        assert OTHERS not in self.read


def _watched(runpod: FakeRunPod, pod_id: str, ready_after: float, busy_until: float) -> float:
    """The second at which the watchdog has stopped the pod; its time is simulated, its requests are real."""
    now = 0.0

    def pause(seconds: float) -> None:
        nonlocal now
        if runpod.pods[pod_id]["status"] == "EXITED":
            raise PodEnded
        now += seconds
        assert now < 100_000

    def stop() -> None:
        with RunPodClient(load_from(ApiSettings, {"RUNPOD_API_URL": runpod.url, "RUNPOD_API_KEY": ACCOUNT_KEY})) as api:
            api.pod_action(pod_id, "stop")

    def samples() -> dict[str, ActivitySample]:
        return {"gateway": ActivitySample(running=float(ready_after <= now < busy_until))}

    try:
        watch(
            WatchdogActions(lambda: now >= ready_after, samples, stop, lambda: now, pause),
            idle_seconds=IDLE_SECONDS,
            unready_seconds=UNREADY_SECONDS,
        )
    except PodEnded:
        return now
    raise AssertionError("a watchdog returns only when its pod has ended")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as in a terminal, whoever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_no_pod_is_lost_and_none_costs_for_ever(
    runpod: FakeRunPod, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Commands and the watchdog against a RunPod that fails at every request, Ctrl-C included."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda _: None)

    class OwnerOfThis(Owner):
        pass

    OwnerOfThis.runpod = runpod
    health: Any = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    run_state_machine_as_test(
        OwnerOfThis,
        settings=settings(max_examples=25, stateful_step_count=6, deadline=None, suppress_health_check=health),
    )


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", range(5))
def test_each_request_of_create_may_fail(
    fault: str, at: int, runpod: FakeRunPod, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Catalog, list, creation, list, and what follows: in each place each fault leaves a pod that is known, or none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    owner = Owner()
    owner.runpod = runpod  # type: ignore[misc]
    owner.create([""] * at + [fault], stranger=False)  # type: ignore[call-arg]
    owner.teardown()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_request_for_a_volume_may_fail(
    fault: str, runpod: FakeRunPod, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each fault, Ctrl-C included, leaves a volume that is known, or none."""
    monkeypatch.chdir(tmp_path)
    owner = Owner()
    owner.runpod = runpod  # type: ignore[misc]
    owner.volume([fault])  # type: ignore[call-arg]


def test_a_watchdog_outlasts_more_failures_than_a_request_has_attempts(runpod: FakeRunPod) -> None:
    """A stop that fails a hundred times is tried a hundred times."""
    runpod.add_pod("abc", "RUNNING")
    runpod.faults = ["fail"] * (2 * MAX_ATTEMPTS * 3)  # the stop, and the look whether it was done
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", lambda _: None)
        assert _watched(runpod, "abc", 0.0, 0.0) == IDLE_SECONDS + 3 * RETRY_SECONDS
