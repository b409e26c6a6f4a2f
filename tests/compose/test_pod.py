"""The pod's image: the same suite as the containers, what it opens, what it survives, how it ends."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.compose import pod as pods
from tests.compose import secret_scan
from tests.compose.deployment import FIGURES
from tests.compose.engine import docker
from tests.compose.pod import IMAGE, NAME, POD_ID, POD_KEY, PORTS, Pod
from tests.compose.test_llm_contract import (  # noqa: F401
    Deployed,
    test_a_chat_stream_is_the_answer_in_pieces_then_usage_then_done,
    test_a_seed_repeats_and_n_gives_choices,
    test_a_stop_string_ends_the_text_before_it,
    test_an_unknown_model_is_not_found,
    test_both_names_of_the_limit_hold,
    test_chat_answers_under_the_models_own_name,
    test_completions_take_texts_and_token_ids,
    test_generate_goes_on_with_a_raw_prompt,
    test_health_needs_no_key_and_metrics_count_tokens,
    test_the_key_is_required,
    test_the_model_list_names_the_stand_in,
    test_the_request_id_comes_back,
    test_the_sdk_reads_streams,
    test_tokenize_and_detokenize_are_inverse,
)
from tests.encoders.test_embedding import (  # noqa: F401
    reviews,
    test_dimensions_cut_and_renormalise,
    test_the_sdk_default_is_base64_and_equals_float,
    test_vectors_have_unit_length,
)
from tests.llm.conftest import Target
from tests.runpod import fake_runpod
from tests.support import LLM

RECOVERY_SECONDS = 120
_KILL = """
import sys
from pathlib import Path
from onecard_stack.processes import orphans, process_launcher
[process] = filter(process_launcher.is_main_process, orphans.find(Path("/var/lib/onecard/run"), sys.argv[1]))
process.kill()
"""
KILL_SECONDS = 4
"""RunPod kills what is left after 5 s; some versions of Docker give a second more than they are told."""


class Stream(threading.Thread):
    """Reads an answer that takes longer than a pod has to end."""

    def __init__(self, pod: Pod, variable: str) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.last = ""
        """What came last."""
        self.broken = False
        """The connection broke, which no client takes for the end of an answer."""
        self._pod, self._variable = pod, variable

    def run(self) -> None:
        """Read to the end."""
        body = {"model": LLM, "stream": True, "max_tokens": 1900, "ignore_eos": True}
        body |= {"messages": [{"role": "user", "content": "리뷰를 요약해 주세요."}]}
        headers = {"authorization": f"Bearer {self._pod.key}", "cache-control": "no-cache"}
        url = f"{self._pod.url(self._variable)}/v1/chat/completions"
        try:
            with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as answer:
                for line in answer.iter_lines():
                    self.last = line.removeprefix("data: ") or self.last
                    self.begun.set()
        except (httpx.RemoteProtocolError, httpx.ReadError):
            self.broken = True


@pytest.fixture(scope="module")
def pod(on_local_base: bool, model_cache: Path) -> Iterator[Pod]:
    """A running pod."""
    pods.build(on_local_base=on_local_base)
    with fake_runpod.running() as runpod, pods.running(runpod, model_cache) as made:
        yield made


@pytest.fixture(scope="module", params=["GATEWAY_PORT", "VLLM_PORT"], ids=["gateway", "direct"])
def target(pod: Pod, request: pytest.FixtureRequest) -> Target:
    """vLLM, through the gateway and directly."""
    engine: Any = SimpleNamespace(url=pod.url("VLLM_PORT"))
    return Deployed("vllm", pod.url(request.param), engine, pod.key)


@pytest.fixture(scope="module")
def sdk(pod: Pod) -> openai.OpenAI:
    """The official client, pointed at the gateway."""
    return openai.OpenAI(base_url=f"{pod.url()}/v1", api_key=pod.key, max_retries=0)


def test_only_what_a_key_guards_is_open(pod: Pod) -> None:
    """The gateway and the LLM service; all others listen on loopback; no sshd without PUBLIC_KEY."""
    wanted = {port: name for name, port in pod.ports.items()}
    listening = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    addresses = {wanted[one.laddr.port]: one.laddr.ip for one in listening if one.laddr.port in wanted}
    assert addresses == dict.fromkeys(PORTS, "127.0.0.1") | {"GATEWAY_PORT": "0.0.0.0", "VLLM_PORT": "0.0.0.0"}
    assert "sshd" not in docker("top", NAME, "-ww", "-eo", "pid,args")


def test_the_stack_is_not_root(pod: Pod) -> None:
    """Only the first two processes are, which wait; the watchdog is another user; no key is on a command line."""
    listed = docker("top", NAME, "-ww", "-eo", "user:32,pid,args")
    rows = [row.split(maxsplit=2) for row in listed.splitlines()[1:]]
    as_root = [args for user, _, args in rows if user == "root"]
    assert [args.split()[0] for args in as_root] == ["tini", "python3"]
    assert "onecard_runpod.entrypoint" in as_root[1]
    [watchdog] = [user for user, _, args in rows if "onecard_runpod.watchdog" in args]
    [stack] = {user for user, _, args in rows if "onecard_runpod.watchdog" not in args} - {"root"}
    assert watchdog not in ("root", stack)
    assert pod.key not in listed
    assert POD_KEY not in listed


def test_commands_work_over_ssh(pod: Pod) -> None:
    """A session begins in root's home folder, without the pod's variables; named keys are used once there are some."""
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    session = ("exec", "--user", "root", "--workdir", "/root", NAME, "env", "-i", path, "onecard")
    docker("exec", "--user", "root", NAME, "chmod", "700", "/root")
    assert "gateway" in docker(*session, "status", check=False)  # Whether all is ready just now or not.
    docker(*session, "keys", "--file", "/workspace/keys/keys.json", "new", "--name", "app1")
    try:
        assert "app1" in docker(*session, "keys", "list")
    finally:
        docker("exec", "--user", "root", NAME, "rm", "/workspace/keys/keys.json")


def test_a_killed_process_is_started_again(pod: Pod) -> None:
    """Each part comes back by itself, and all routes work."""
    for part in ("sentiment", "review", "worker", "schedule", "gateway"):
        docker("exec", "--user", "onecard", NAME, "python3", "-c", _KILL, part)
    deadline = time.monotonic() + RECOVERY_SECONDS
    while not (pod.ready() and pod.sentiment().status_code == 200):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    while set(pod.states().values()) != {"ready"}:
        assert time.monotonic() < deadline, pod.states()
        time.sleep(0.5)


def test_no_key_is_in_the_image_or_written_to_a_file(pod: Pod) -> None:
    """Neither by the build nor by what runs; and no other secret is."""
    keys = [pod.key, POD_KEY]
    assert secret_scan.secrets_in_settings(IMAGE, keys) == []
    assert secret_scan.secrets_in_layers([IMAGE], keys) == []
    assert secret_scan.secrets_in_container(NAME, keys) == []


def test_the_watchdog_stops_an_idle_pod_and_no_busy_one(pod: Pod) -> None:
    """With the pod's own key, which is in no log."""
    assert pod.runpod.changed.wait(120)  # it may have been idle before
    pod.runpod.pods[POD_ID]["status"] = "RUNNING"
    busy_until = time.monotonic() + 20
    pod.sentiment().raise_for_status()
    pod.runpod.changed.clear()
    while time.monotonic() < busy_until:
        pod.sentiment().raise_for_status()
        time.sleep(0.5)
    assert not pod.runpod.changed.is_set()
    assert pod.runpod.changed.wait(120)
    assert pod.runpod.pods[POD_ID]["status"] == "EXITED"
    assert "stopping the pod" in pod.log()
    assert POD_KEY not in pod.log()


def test_reviews_are_stored(pod: Pod) -> None:
    """Through the gateway; the next start looks for it."""
    review = {"review_id": "kept", "restaurant_id": "kept", "text": "국물이 진해요"}
    headers = {"authorization": f"Bearer {pod.key}"}
    httpx.post(f"{pod.url()}/v1/reviews", json=review, headers=headers, timeout=60).raise_for_status()
    assert [one["restaurant_id"] for one in pod.restaurants()] == ["kept"]


def test_it_ends_before_it_is_killed(pod: Pod, pytestconfig: pytest.Config) -> None:
    """SIGTERM while answers are under way that it has no time for: their clients see it, and nobody kills it."""
    streams = [Stream(pod, variable) for variable in ("GATEWAY_PORT", "VLLM_PORT")]
    for stream in streams:
        stream.start()
        assert stream.begun.wait(60)
    started = time.monotonic()
    docker("stop", "--time", str(KILL_SECONDS), NAME)
    pytestconfig.stash[FIGURES].append(f"pod: {time.monotonic() - started:.1f} s from SIGTERM to its end")
    assert docker("inspect", "--format", "{{.State.ExitCode}}", NAME).strip() == "0", pod.log()[-3000:]
    for stream in streams:
        stream.join(60)
        assert stream.broken or stream.last == "[DONE]" or "error" in json.loads(stream.last)


def test_the_next_start_finds_models_and_reviews(pod: Pod) -> None:
    """On the volume: nothing is fetched or trained, and what was stored is found."""
    docker("rm", NAME)
    pod.start()
    pod.wait_ready()
    assert [one["restaurant_id"] for one in pod.restaurants()] == ["kept"]
    assert "training" not in pod.log()
    assert " MB from the hub" not in pod.log()
