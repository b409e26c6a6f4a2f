"""The first program of a pod: what it keeps running, who gets which key, and folders on a volume of any kind."""

import asyncio
import os
import pwd
import signal
import subprocess
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onecard_runpod.entrypoint import Program, for_watchdog, keep_running, run, stack_program, without_api_key
from onecard_runpod.folders import prepare
from tests.runpod.conftest import POD_KEY, pod_process
from tests.runpod.fake_runpod import FakeRunPod
from tests.support import eventually, free_port

ROOT = Path(__file__).parents[2]
START = ROOT / "runpod" / "image" / "start"
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


def test_a_program_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """Nothing that hangs keeps a pod from its end."""
    started = tmp_path / "started"
    deaf = shell("deaf", f"trap '' TERM; touch {started}; while :; do sleep 0.1; done")

    async def scenario() -> None:
        stopping = asyncio.Event()
        running = asyncio.create_task(keep_running(deaf, stopping, stop_seconds=0.2))
        await asyncio.to_thread(eventually, started.exists)
        stopping.set()
        await asyncio.wait_for(running, 20)

    asyncio.run(scenario())


def test_a_program_changes_to_its_folder_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts it would stand still until it has, and a folder on a volume may hang."""
    start, given = asyncio.create_subprocess_exec, {}

    async def spy(*argv: str, **options: Any) -> asyncio.subprocess.Process:
        given.update(options)
        return await start(*argv, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    program = replace(shell("here", "pwd -P > place; test \"$*\" = ''"), folder=tmp_path)

    async def scenario() -> int:
        return await (await program.start()).wait()

    assert asyncio.run(scenario()) == 0
    assert (tmp_path / "place").read_text().strip() == str(tmp_path.resolve())
    assert "cwd" not in given


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
    pod |= {"PATH": "/bin", "PYTHONSAFEPATH": "1", "IDLE_STOP_MINUTES": "30", "REDIS_URL": "e"}
    stack = without_api_key(pod)
    assert set(stack) == set(pod) - {"RUNPOD_API_KEY", "runpod_api_key"}
    assert set(for_watchdog(pod)) == set(pod) - {"HF_TOKEN", "REDIS_URL"}


def entrypoint(
    runpod: FakeRunPod, tmp_path: Path, module: str = "onecard_runpod.entrypoint", **variables: str
) -> AbstractContextManager["subprocess.Popen[str]"]:
    """The process, with a folder of its own as its volume and its working directory."""
    folders = {"ONECARD_HOME": str(tmp_path / "home"), "MODEL_CACHE_PATH": str(tmp_path / "models")}
    return pod_process(runpod, module, str(tmp_path), cwd=tmp_path, **folders, **variables)


def log_of_a_stopped_pod(runpod: FakeRunPod, process: "subprocess.Popen[str]") -> str:
    """What it has logged until its watchdog stopped it, and until it ended at SIGTERM in good order."""
    assert runpod.changed.wait(60)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert runpod.pods["abc"]["status"] == "EXITED"
    assert process.returncode == 0
    assert POD_KEY not in out
    return out


def refused_settings() -> dict[str, str]:
    """With them no stack starts, and the pod's time is over soon."""
    return {"API_KEY": "short", "UNREADY_STOP_MINUTES": "0.1", "GATEWAY_PORT": str(free_port())}


def test_a_pod_whose_stack_refuses_its_settings_is_stopped(runpod: FakeRunPod, tmp_path: Path) -> None:
    """The whole of a pod but for its image: a start that fails costs no longer than its limit, and is logged."""
    with entrypoint(runpod, tmp_path, **refused_settings()) as process:
        assert "settings: API_KEY" in log_of_a_stopped_pod(runpod, process)
    assert (tmp_path / "keys").is_dir()


def test_a_file_on_the_volume_is_no_module(runpod: FakeRunPod, tmp_path: Path) -> None:
    """With what the image sets, nothing that runs in a pod takes a file there for a part of Python."""
    (tmp_path / "select.py").write_text("raise SystemExit('a stranger runs')\n")
    with entrypoint(runpod, tmp_path, PYTHONSAFEPATH="1", **refused_settings()) as process:
        said = log_of_a_stopped_pod(runpod, process)
    assert "a stranger runs" not in said
    assert "settings: API_KEY" in said


def test_a_volume_that_hangs_keeps_no_watchdog_from_its_start(runpod: FakeRunPod, tmp_path: Path) -> None:
    """Its pod is stopped at its limit, and ends at SIGTERM, although its folders are not made yet."""
    (tmp_path / "hanging.py").write_text(
        "import threading\n"
        "from onecard_runpod import entrypoint, folders\n"
        "folders.prepare = lambda *_: threading.Event().wait()\n"
        "entrypoint.main()\n"
    )
    with entrypoint(runpod, tmp_path, "hanging", **refused_settings()) as process:
        assert "settings: API_KEY" not in log_of_a_stopped_pod(runpod, process)


def test_named_keys_on_the_volume_are_the_stacks(tmp_path: Path) -> None:
    """Once somebody has made some; a file that the pod's variables name wins."""
    file = tmp_path / "keys" / "keys.json"

    def named(**variables: str) -> str | None:
        stack = stack_program(variables, tmp_path)
        assert stack.prepare is not None
        stack.prepare()
        return stack.environment.get("API_KEYS_FILE")

    assert named() is None
    file.touch()
    assert named() == str(file)
    assert named(API_KEYS_FILE="/other.json") == "/other.json"


@pytest.mark.parametrize("broken", ["install", "ssh-keygen"])
def test_an_sshd_that_does_not_start_keeps_no_pod_from_it(broken: str, tmp_path: Path) -> None:
    """The image's first program goes on to the watchdog, whatever is wrong with root's home folder or the host's keys,
    and looks at nothing on the volume."""
    for name, script in {"install": "exit 0", "ssh-keygen": "exit 0", "python3": 'echo "$@"', broken: "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    # The programs in between do nothing either: no test writes into root's home folder.
    text = START.read_text().replace("/root/", f"{tmp_path}/root/").replace("/usr/sbin/sshd", "false")
    (tmp_path / "root" / ".ssh").mkdir(parents=True)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PUBLIC_KEY": "ssh-ed25519 AAAA"}
    done = subprocess.run(["/bin/sh", "-c", text], env=environment, capture_output=True, text=True, timeout=30)
    assert done.stdout == "-m onecard_runpod.entrypoint /workspace\n"
    assert "sshd does not run" in done.stderr


def test_no_image_imports_from_its_working_directory() -> None:
    """Which is, or may be, a volume."""
    images = list(ROOT.glob("*/*Dockerfile"))
    assert len(images) >= 9
    assert [path for path in images if "PYTHONSAFEPATH=1" not in path.read_text()] == []


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
