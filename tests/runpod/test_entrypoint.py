"""The first program of a pod: what it keeps running, who gets which key, and folders on a volume of any kind."""

import asyncio
import os
import pwd
import signal
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from onecard_runpod.entrypoint import Program, for_watchdog, run, without_api_key
from onecard_runpod.folders import prepare
from tests.runpod.conftest import POD_KEY, pod_process
from tests.runpod.fake_runpod import FakeRunPod
from tests.support import eventually, free_port

NOBODY = "nobody"
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may run programs as others")


def shell(name: str, script: str, **environment: str) -> Program:
    """A program of one line of sh."""
    return Program(name, ("/bin/sh", "-c", script), {"PATH": os.environ["PATH"], **environment})


def test_a_program_that_ends_is_started_again_until_sigterm(tmp_path: Path) -> None:
    """Whatever its exit code; at SIGTERM each gets SIGTERM and is waited for."""
    count, ended = tmp_path / "count", tmp_path / "ended"
    failing = shell("failing", f"echo >> {count}; exit 3")
    patient = shell("patient", f"trap 'touch {ended}; exit 0' TERM; echo >> {count}; while :; do sleep 0.1; done")

    async def scenario() -> None:
        running = asyncio.create_task(run([failing, patient], restart_seconds=0.05))
        await asyncio.to_thread(eventually, lambda: count.exists() and len(count.read_text()) >= 5)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, 30)

    asyncio.run(scenario())
    assert ended.exists()


def test_a_program_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    """The other one runs meanwhile."""
    program = tmp_path / "program"
    begun = tmp_path / "begun"

    async def scenario() -> None:
        missing = Program("missing", (str(program),), {})
        running = asyncio.create_task(run([missing], restart_seconds=0.05))
        await asyncio.sleep(0)
        program.write_text(f"#!/bin/sh\ntouch {begun}\n")
        program.chmod(0o755)
        await asyncio.to_thread(eventually, begun.exists)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, 30)

    asyncio.run(scenario())


def test_only_the_watchdog_gets_the_key_at_runpod() -> None:
    """In whatever case; and the watchdog gets no key that does not concern it."""
    pod = {"RUNPOD_API_KEY": "a", "runpod_api_key": "b", "RUNPOD_POD_ID": "abc", "HF_TOKEN": "c", "API_KEY": "d"}
    pod |= {"PATH": "/bin", "IDLE_STOP_MINUTES": "30", "REDIS_URL": "e"}
    stack = without_api_key(pod)
    assert set(stack) == {"RUNPOD_POD_ID", "HF_TOKEN", "API_KEY", "PATH", "IDLE_STOP_MINUTES", "REDIS_URL"}
    assert set(for_watchdog(pod)) == set(pod) - {"HF_TOKEN", "REDIS_URL"}


def entrypoint(runpod: FakeRunPod, tmp_path: Path, **variables: str) -> AbstractContextManager["subprocess.Popen[str]"]:
    """The process, in a folder of its own."""
    folders = {"ONECARD_HOME": str(tmp_path / "home"), "MODEL_CACHE_PATH": str(tmp_path / "models")}
    return pod_process(
        runpod, "onecard_runpod.entrypoint", str(tmp_path / "keys"), cwd=tmp_path, **folders, **variables
    )


def test_a_pod_whose_stack_refuses_its_settings_is_stopped(runpod: FakeRunPod, tmp_path: Path) -> None:
    """The whole of a pod but for its image: a start that fails costs no longer than its limit, and is logged."""
    wrong = {"API_KEY": "short", "UNREADY_STOP_MINUTES": "0.1", "GATEWAY_PORT": str(free_port())}
    with entrypoint(runpod, tmp_path, **wrong) as process:
        assert runpod.changed.wait(60)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert runpod.pods["abc"]["status"] == "EXITED"
    assert process.returncode == 0
    assert "settings: API_KEY" in out
    assert POD_KEY not in out
    assert (tmp_path / "keys").is_dir()


def test_outside_runpod_it_becomes_the_stack(runpod: FakeRunPod, tmp_path: Path) -> None:
    """Nothing is to be stopped there, and a start that fails ends the container."""
    with entrypoint(runpod, tmp_path, API_KEY="short", RUNPOD_POD_ID="") as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "settings: API_KEY" in out


def test_folders_are_made(tmp_path: Path) -> None:
    """Those that the variables name by an absolute path, and those that are given; a bucket's URL is none."""
    variables = {"MODEL_CACHE_PATH": str(tmp_path / "a" / "b"), "REVIEW_STORE": "s3://bucket/reviews", "HF_HOME": "c"}
    variables |= {"SEARCH_WORDS": str(tmp_path / "words")}
    assert prepare(variables, None, [str(tmp_path / "keys")]) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "keys", "words"]
    assert not Path("c").exists()


@as_root
def test_a_volume_that_refuses_chown_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a network volume does that maps all files to one user: the stack's user can write there all the same."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("test_", "popen-", "pytest-")):
            folder.chmod(0o755)
    monkeypatch.setattr(os, "chown", refuse)
    owner = pwd.getpwnam(NOBODY)
    variables = {"REVIEW_STORE": str(tmp_path / "reviews")}
    assert prepare(variables, owner) == []
    touch = ["/usr/bin/touch", str(tmp_path / "reviews" / "file")]
    assert subprocess.run(touch, user=owner.pw_uid, group=owner.pw_gid, extra_groups=[]).returncode == 0


@as_root
def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file is where the folder should be: the pod goes on to say so until the watchdog stops it."""
    (tmp_path / "reviews").write_text("")
    path = tmp_path / "reviews" / "below"
    assert prepare({"REVIEW_STORE": str(path)}, pwd.getpwnam(NOBODY)) == [path]
