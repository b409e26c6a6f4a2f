"""The whole stack, started once by `onecard up`: it answers, and any process of it may be killed."""

import re
import signal
import time
from collections.abc import Callable

import httpx
import psutil
import pytest
from redis import AuthenticationError
from redis import Redis as Client

from onecard_stack.processes import orphans, redis_password
from onecard_stack.processes.process_launcher import is_main_process
from tests.stack.conftest import Workspace
from tests.support import KEY

pytestmark = pytest.mark.timeout(600)

CALLS: dict[str, tuple[str, dict[str, object]]] = {
    "sentiment": ("/v1/sentiment", {"input": "국물이 진하고 맛있어요."}),
    "embedding": ("/v1/embeddings", {"model": "jhgan/ko-sbert-multitask", "input": "주차가 편해요."}),
    "llm": (
        "/v1/completions",
        {"model": "Qwen/Qwen2.5-0.5B-Instruct", "prompt": "국물이", "max_tokens": 3},
    ),
}
PORTS = {
    "gateway": "GATEWAY_PORT",
    "llm": "VLLM_PORT",
    "sentiment": "SENTIMENT_PORT",
    "embedding": "EMBEDDING_PORT",
    "review": "REVIEW_PORT",
    "redis": "REDIS_PORT",
}
PARTS = (*PORTS, "worker", "schedule")
BACK_SECONDS = 150


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def answers(stack: Workspace, part: str) -> bool:
    """The gateway gets an answer from the part."""
    path, body = CALLS[part]
    try:
        return stack.call(path, body).status_code == 200
    except httpx.TransportError:
        return False


def main_process(stack: Workspace, part: str) -> psutil.Process:
    """The process that is the part itself."""
    own = [process for process in orphans.find(stack.run_folder, part) if is_main_process(process)]
    assert len(own) == 1, own
    return own[0]


def watchers(stack: Workspace, name: str) -> list[psutil.Process]:
    """Processes that run the module `name`."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.cmdline()[2].endswith(f".{name}")
        except (psutil.NoSuchProcess, IndexError):
            return False

    return [process for process in stack.processes() if runs(process)]


def test_up_says_how_to_call_it(stack: Workspace) -> None:
    """Each line that it prints works when typed, and no key is in them."""
    printed = (stack.folder / "up.txt").read_text()
    assert KEY not in printed
    assert f'base_url="{stack.url()}/v1"' in printed
    curls = re.findall(r"curl -s .*", printed)
    assert len(curls) == 3
    for line in curls:
        address, body = re.findall(r"(http://\S+) -d '(.*)'", line)[0]
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        assert "$API_KEY" in line
        assert httpx.post(address, content=body.encode(), headers=headers, timeout=60).status_code == 200


def test_progress_names_parts_and_stand_ins(stack: Workspace) -> None:
    """A person sees each part become ready, with its model, and that it is a stand-in."""
    printed = (stack.folder / "up.txt").read_text()
    for part in PARTS:
        assert re.search(rf"\d+ s  {part} +ready", printed)
    assert "onecard/standin-ko-sbert (stand-in for jhgan/ko-sbert-multitask)" in printed


def test_up_again_changes_nothing(stack: Workspace) -> None:
    """A running stack is left alone: the same processes go on."""
    before = {part: main_process(stack, part).pid for part in PARTS}
    assert stack.run("up").returncode == 0
    assert {part: main_process(stack, part).pid for part in PARTS} == before


def test_status_and_logs(stack: Workspace) -> None:
    """Every part is shown as ready, and every part has a log."""
    status = stack.run("status")
    assert status.returncode == 0
    assert status.stdout.count(" ready ") == len(PARTS)
    assert "Application startup complete" in stack.run("logs", "gateway").stdout
    assert all((stack.logs / f"{part}.log").stat().st_size for part in PARTS)


def test_the_key_is_nowhere_to_be_read(stack: Workspace) -> None:
    """Not on a command line, not in a log, not in a file of the run folder."""
    assert not [process for process in stack.processes() if KEY in " ".join(process.cmdline())]
    files = [path for path in (stack.folder / ".onecard").rglob("*") if path.is_file()]
    assert len(files) > len(PARTS)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert stack.run_folder.stat().st_mode & 0o077 == 0


def test_another_process_is_refused_by_redis(stack: Workspace) -> None:
    """It wants a password, which its owner's processes have from a file that is theirs alone, and nobody else."""
    login = stack.run_folder / redis_password.CONFIG_FILE
    assert login.stat().st_mode & 0o777 == 0o600
    password = login.read_text().split()[1]
    port = stack.port("REDIS_PORT")
    with Client(port=port) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()
    with Client(port=port, password=f"{password[:-1]}g") as guessing, pytest.raises(AuthenticationError):
        guessing.ping()
    with Client(port=port, password=password) as ours:
        assert ours.ping()
    assert not [process for process in stack.processes() if password in " ".join(process.cmdline())]
    files = [path for path in stack.folder.rglob("*") if path.is_file() and path != login]
    assert not [path for path in files if password.encode() in path.read_bytes()]


def test_every_part_that_uses_redis_is_let_in(stack: Workspace) -> None:
    """Cache, limits, popularity and the queue of tasks."""
    for variable in ("GATEWAY_PORT", "SENTIMENT_PORT", "EMBEDDING_PORT", "REVIEW_PORT"):
        readiness = httpx.get(f"{stack.url(variable)}/health/ready", timeout=5).json()
        degraded = {name for name, part in readiness["parts"].items() if part["status"] != "ok"}
        assert degraded <= {"model", "llm", "sentiment", "embedding"}, (variable, readiness)  # They are stand-ins.
    logs = {part: (stack.logs / f"{part}.log").read_text() for part in PARTS}
    assert not [part for part, text in logs.items() if "NOAUTH" in text or "server_noauth" in text]


def test_the_demonstration_runs_and_leaves_the_stack_up(stack: Workspace) -> None:
    """Labels, an import, a search, a restaurant's ratios and summary, a streamed answer; what ran before goes on."""
    before = main_process(stack, "gateway").pid
    result = stack.run("demo")
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^(?:positive|negative) +[01]\.\d{3} ", result.stdout, re.M)) == 12
    assert len(re.findall(r"^[01]\.\d{3} ", result.stdout, re.M)) == 3
    timed = re.findall(r"^[\d.]+ s · (\S+) \(stand-in for \S+\)$", result.stdout, re.M)
    assert timed == ["onecard/standin-kakao-sentiment", "onecard/standin-qwen2"]
    assert re.search(r"^720 stored, 0 were stored already, 0 wrong$", result.stdout, re.M)
    assert re.search(r"^(\d+)% positive, (\d+)% negative of 48 reviews$", result.stdout, re.M)
    assert re.search(r"^source: llm$", result.stdout, re.M), result.stdout
    assert main_process(stack, "gateway").pid == before


@pytest.mark.parametrize("part", ["sentiment", "embedding", "llm"])
def test_a_killed_service_comes_back_and_disturbs_nobody(stack: Workspace, part: str) -> None:
    """Meanwhile the gateway answers 503 with Retry-After for it, and the others answer as ever."""
    killed = main_process(stack, part)
    killed.kill()
    killed.wait(5)
    path, body = CALLS[part]
    meanwhile = stack.call(path, body)
    assert meanwhile.status_code == 503
    assert int(meanwhile.headers["retry-after"]) >= 1
    assert meanwhile.json()["error"]["code"] == "unavailable"
    others = [other for other in CALLS if other != part]
    assert [other for other in others if not answers(stack, other)] == []
    wait_until(lambda: answers(stack, part), BACK_SECONDS, f"{part} answers again")
    assert main_process(stack, part).pid != killed.pid
    assert [other for other in others if not answers(stack, other)] == []


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_hung_engine_of_vllm_comes_back(stack: Workspace, fault: signal.Signals) -> None:
    """The engine is a child of the LLM service; when it is killed, or found not to answer, the whole service starts
    anew."""
    server = main_process(stack, "llm")
    engine = next(child for child in server.children(recursive=True) if "EngineCore" in " ".join(child.cmdline()))
    engine.send_signal(fault)
    wait_until(lambda: not server.is_running(), 60, "the server without an engine ends")
    assert answers(stack, "sentiment")
    assert answers(stack, "embedding")
    wait_until(lambda: answers(stack, "llm"), BACK_SECONDS, "llm answers again")
    engines = [child for child in stack.processes() if "EngineCore" in " ".join(child.cmdline())]
    assert len(engines) == 1


@pytest.mark.parametrize("part", ["gateway", "redis"])
def test_a_killed_gateway_or_redis_comes_back(stack: Workspace, part: str) -> None:
    """The services answer on their own ports meanwhile."""
    killed = main_process(stack, part)
    killed.kill()
    killed.wait(5)
    for service in ("sentiment", "embedding", "llm"):
        assert httpx.get(f"{stack.url(PORTS[service])}/health/ready", timeout=5).status_code == 200
    wait_until(lambda: stack.run("status").returncode == 0, 30, f"{part} is back")
    assert main_process(stack, part).pid != killed.pid
    assert answers(stack, "llm")


@pytest.mark.parametrize("victim", ["supervisord", "supervisor_guard"])
def test_whoever_watches_is_watched_too(stack: Workspace, victim: str) -> None:
    """A killed supervisord or keeper is back by itself, and no part has even noticed."""
    before = {part: main_process(stack, part).pid for part in PARTS}
    killed = watchers(stack, victim)
    assert len(killed) == 1
    killed[0].kill()
    assert all(answers(stack, part) for part in CALLS)
    wait_until(lambda: len(watchers(stack, victim)) == 1 and watchers(stack, victim) != killed, 20, f"{victim} is back")
    wait_until(lambda: stack.run("status").returncode == 0, 20, "all is well")
    assert {part: main_process(stack, part).pid for part in PARTS} == before
    assert len(watchers(stack, "supervisord")) == len(watchers(stack, "supervisor_guard")) == 1


def test_a_part_that_outlived_its_supervisor_is_still_watched(stack: Workspace) -> None:
    """After a change of supervisor, a killed part comes back as before."""
    killed = main_process(stack, "sentiment")
    killed.kill()
    wait_until(lambda: answers(stack, "sentiment"), BACK_SECONDS, "sentiment answers again")


def test_down_stops_everything_also_what_ignores_it(stack: Workspace) -> None:
    """Also a part that hangs; a second time there is nothing to do; nothing is left, and ports are free."""
    processes = stack.processes()
    main_process(stack, "embedding").send_signal(signal.SIGSTOP)
    result = stack.run("down")
    assert (result.returncode, result.stdout) == (0, "Stopped.\n"), result.stderr
    assert stack.processes() == []
    gone = [not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in processes]
    assert all(gone)  # Whom nobody has waited for yet is a zombie.
    again = stack.run("down")
    assert again.returncode == 0
    assert again.stdout.startswith("Nothing was running.\n")  # Other tests' stacks may run elsewhere, which it says.
