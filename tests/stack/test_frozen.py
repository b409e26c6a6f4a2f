"""A service whose process stands still is ended and started again; one that works, or starts, is left alone."""

import os
import signal
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onecard import probe
from onecard_stack.processes.process_table import Process
from onecard_stack.supervision import frozen
from onecard_stack.supervision.frozen import FROZEN_SECONDS, MIN_CPU_SECONDS, Lifeline
from tests.stack.test_supervisor import running
from tests.support import eventually, free_port

ANY_LOOK: st.SearchStrategy[probe.Look] = st.sampled_from(["answered", "refused", "silent"])
LOOKS = st.lists(st.tuples(ANY_LOOK, st.floats(0, 3), st.floats(0.1, 10)), max_size=50)
"""What it did, the processor time since the last look, and the seconds since then."""


@given(LOOKS)
@example([("refused", 0.0, 1.0), ("silent", 0.0, FROZEN_SECONDS)])
def test_only_what_neither_answers_nor_computes_is_frozen(looks: list[tuple[probe.Look, float, float]]) -> None:
    """For the whole time, and never before it has answered once: a port that refuses is none of an answer."""
    lifeline, now, cpu, answered = Lifeline(1), 0.0, 0.0, False
    for look, used, seconds in looks:
        was, before = lifeline.seen, lifeline.cpu_seconds
        now, cpu, answered = now + seconds, cpu + used, answered or look == "answered"
        is_frozen = lifeline.is_frozen(look, cpu_seconds=cpu, now=now)
        if look != "silent" or was is None or not answered:
            assert not is_frozen
        elif is_frozen:
            assert now - was >= FROZEN_SECONDS
            assert cpu - before < MIN_CPU_SECONDS


def test_a_stopped_service_is_killed_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP of a real process under a real supervisord; its neighbour goes on."""
    monkeypatch.setattr(frozen, "FROZEN_SECONDS", 2.0)
    monkeypatch.setattr(probe, "TIMEOUT_SECONDS", 0.5)
    parts = [
        Process(f"part-{port}", (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)), port)
        for port in (free_port(), free_port())
    ]
    with running(parts, tmp_path) as supervisor:
        watch = frozen.FrozenWatch(supervisor)
        eventually(lambda: all(state.state == "RUNNING" for state in supervisor.states().values()), 30)
        eventually(lambda: all(serves(part) for part in parts), 30)
        assert watch.look() == []
        before = {name: state.pid for name, state in supervisor.states().items()}
        os.kill(before[parts[0].name], signal.SIGSTOP)
        assert first_killed(watch) == [parts[0].name]
        eventually(lambda: supervisor.states()[parts[0].name].pid not in (0, before[parts[0].name]), 30)
        eventually(lambda: serves(parts[0]), 30)
        assert psutil.pid_exists(before[parts[1].name])
        assert supervisor.states()[parts[1].name].pid == before[parts[1].name]


def test_a_service_that_outlived_its_supervisord_is_watched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """supervisord then has a launcher that waits for it; killing that would end nothing."""
    monkeypatch.setattr(frozen, "FROZEN_SECONDS", 2.0)
    monkeypatch.setattr(probe, "TIMEOUT_SECONDS", 0.5)
    port = free_port()
    part = Process("part", (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)), port)
    with running([part], tmp_path) as supervisor:
        eventually(lambda: serves(part), 30)
        service = supervisor.states()["part"].pid
        earlier = psutil.Process(supervisor.pid())
        earlier.kill()
        earlier.wait(10)
        eventually(lambda: supervisor.pid() != earlier.pid and supervisor.running(), 60)  # The keeper starts another.
        eventually(lambda: supervisor.states()["part"].state == "RUNNING", 30)
        watch = frozen.FrozenWatch(supervisor)
        assert watch.look() == []
        assert supervisor.states()["part"].pid != service
        os.kill(service, signal.SIGSTOP)
        assert first_killed(watch) == ["part"]
        eventually(lambda: not psutil.pid_exists(service), 30)
        eventually(lambda: serves(part), 30)


def first_killed(watch: frozen.FrozenWatch) -> list[str]:
    """Look until something is killed; what it was."""
    killed: list[str] = []

    def ended() -> bool:
        killed.extend(watch.look())
        return bool(killed)

    eventually(ended, 60)
    return killed


def serves(part: Process) -> bool:
    """Whether it answers HTTP."""
    try:
        return httpx.get(part.url, timeout=2).is_success
    except httpx.TransportError:
        return False
