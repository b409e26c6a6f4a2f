"""The command `onecard-pod` against a double of RunPod's API."""

import json
import re
from pathlib import Path

import pytest

from onecard_runpod.errors import PodError
from onecard_runpod.pod_request import without_secrets
from onecard_runpod.pod_variables import CREATION_VARIABLE, IMAGE_VARIABLES, check, choose
from onecard_runpod.settings import PodSettings
from onecard_stack.settings import StackSettings
from tests.runpod.conftest import Command
from tests.runpod.fake_runpod import ACCOUNT_KEY, FakeRunPod, ProblemResponse, gpu_entry
from tests.support import free_port

CREATE = ("POST", "/v2/pods")


def gpus_tried(runpod: FakeRunPod) -> list[str]:
    return [body["gpu"]["id"] for body in runpod.bodies(*CREATE)]


def test_create_takes_the_cheapest_card_in_stock(runpod: FakeRunPod, pod_command: Command) -> None:
    """Not the cheapest of all, which is not in stock, and none that was not asked for."""
    done = pod_command("create")
    assert done.returncode == 0, done.stderr
    assert gpus_tried(runpod) == ["NVIDIA RTX A5000"]
    assert "NVIDIA RTX A5000, $0.27 an hour" in done.stdout
    assert "https://pod1-8000.proxy.runpod.net" in done.stdout
    body = runpod.bodies(*CREATE)[0]
    assert body["ports"] == ["8000/http", "8001/http"]
    assert body["mounts"] == {"persistent": {"size": 100, "path": "/workspace"}}
    catalog = next(one for one in runpod.requests if one.path == "/v2/catalog/gpus")
    assert catalog.query["minCudaVersion"] == [body["gpu"]["minCudaVersion"]]


def test_a_card_that_is_gone_means_the_next_one(runpod: FakeRunPod, pod_command: Command) -> None:
    """The catalog promises nothing: 400 for want of capacity leads to the next card, cheapest first."""
    runpod.sold_out = {"NVIDIA RTX A5000", "NVIDIA L4"}
    done = pod_command("create")
    assert done.returncode == 0
    assert gpus_tried(runpod) == ["NVIDIA RTX A5000", "NVIDIA L4", "NVIDIA GeForce RTX 4090"]
    assert "no instances currently available" in done.stderr


def test_nobody_pays_for_a_second_pod_by_mistake(runpod: FakeRunPod, pod_command: Command) -> None:
    """A name is for one pod, also on the second page of a list; one that is no more does not count."""
    runpod.page_size = 1
    runpod.add_pod("abc", "TERMINATED")
    runpod.add_pod("def", "EXITED")
    assert "There is a pod named 'onecard' already" in pod_command("create").stderr
    assert not runpod.bodies(*CREATE)
    runpod.pods["def"]["status"] = "TERMINATED"
    assert pod_command("create").returncode == 0


def test_a_list_that_does_not_end_is_no_list(runpod: FakeRunPod, pod_command: Command) -> None:
    """A page that names itself as the next one ends the command: what is not listed may cost."""
    runpod.same_token = True
    done = pod_command("create")
    assert "does not end" in done.stderr
    assert not runpod.bodies(*CREATE)


def test_two_who_create_at_once_are_told(runpod: FakeRunPod, pod_command: Command) -> None:
    """Who sees the other's pod ends their own, and only that; nobody pays for two in silence."""
    runpod.on_create = [lambda: runpod.add_pod("theirs", "RUNNING", env={CREATION_VARIABLE: "other"})]
    done = pod_command("create")
    assert done.returncode == 1
    assert "Somebody else has created theirs" in done.stderr
    assert set(runpod.pods) == {"theirs"}


@pytest.mark.parametrize("body", ["empty", "odd"])
def test_an_answer_without_a_pod_is_looked_up(body: str, runpod: FakeRunPod, pod_command: Command) -> None:
    """201 with no pod in it: the pod is found by its name, and its key has been shown before it was asked for."""
    runpod.faults = ["", "", body]
    done = pod_command("create")
    assert (done.returncode, set(runpod.pods)) == (0, {"pod1"}), done.stderr
    assert "Pod pod1" in done.stdout
    assert f"API_KEY={runpod.pods['pod1']['env']['API_KEY']}" in done.stdout


def test_a_pod_that_was_made_in_spite_of_a_failure_is_found(runpod: FakeRunPod, pod_command: Command) -> None:
    """504 after creating: no second pod is asked for."""
    runpod.faults = ["", "", "lose"]
    done = pod_command("create")
    assert (done.returncode, set(runpod.pods)) == (0, {"pod1"}), done.stderr
    assert len(runpod.bodies(*CREATE)) == 1


def test_no_capacity_as_a_failure_means_the_next_card(runpod: FakeRunPod, pod_command: Command) -> None:
    """After a look whether there is a pod; the owner is told that the first request may still be carried out."""
    runpod.faults = ["", "", "refuse"]
    done = pod_command("create")
    assert (done.returncode, set(runpod.pods)) == (0, {"pod1"}), done.stderr
    assert runpod.pods["pod1"]["gpu"]["id"] == "NVIDIA L4"
    assert "may carry it out late" in done.stderr


def test_what_a_pod_would_not_start_with_is_refused_before_it_is_paid(
    runpod: FakeRunPod, pod_command: Command, tmp_path: Path
) -> None:
    """The stack's own settings are read with the pod's variables, and nothing is requested from RunPod."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").mkdir()
    wrong = ["API_KEY=short", "MAX_MODEL_LEN=abc", "LLM_MODEL=./mine", "sentiment_model=models/mine"]
    for line in [*wrong, "IDLE_STOP_MINUTES=soon", "EMBEDDING_MODEL=/home/me/model"]:
        (tmp_path / ".env").write_text(f"{line}\n")
        done = pod_command("create")
        assert done.returncode == 1, line
        assert line.split("=")[0].upper() in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert runpod.requests == []


def test_models_that_do_not_fit_are_refused_before_they_are_paid(
    runpod: FakeRunPod, pod_command: Command, tmp_path: Path
) -> None:
    """The memory plan is made for each card in stock; a larger card is tried where a smaller one is too small."""
    runpod.catalog = [gpu_entry("NVIDIA L4", 0.39, memory=8), gpu_entry("NVIDIA A30", 0.79)]
    assert pod_command("create").returncode == 0
    assert gpus_tried(runpod) == ["NVIDIA A30"]
    runpod.catalog = [gpu_entry("NVIDIA L4", 0.39, memory=8)]
    done = pod_command("create", POD_NAME="other")
    assert "do not hold this plan" in done.stderr
    assert done.returncode == 1


def test_what_the_shell_exports_wins_over_env(runpod: FakeRunPod, pod_command: Command, tmp_path: Path) -> None:
    """As `.env.example` says: for the pod, too, and in whatever case a name is written."""
    (tmp_path / ".env").write_text("idle_stop_minutes=600\nmax_model_len=2048\n")
    done = pod_command("create", IDLE_STOP_MINUTES="30", LLM_MAX_SEQS="16")
    environment = runpod.bodies(*CREATE)[0]["env"]
    own = {name: value for name, value in environment.items() if name not in ("API_KEY", CREATION_VARIABLE)}
    assert own == {"IDLE_STOP_MINUTES": "30", "MAX_MODEL_LEN": "2048", "LLM_MAX_SEQS": "16"}
    assert "idle for 30 minutes" in done.stdout


def test_secrets_of_others_stay_here(runpod: FakeRunPod, pod_command: Command, tmp_path: Path) -> None:
    """Only what Onecard reads travels, whatever the case of the account's key; names alone are told."""
    lines = ["runpod_api_key=rpa_mine", "DATABASE_URL=postgres://me:hush@db", "use_gpu=false", "LLM_CPU_KV_GB=4"]
    lines += ["OTEL_EXPORTER_OTLP_HEADERS=authorization=hush", "AWS_SECRET_ACCESS_KEY=hush", "hf_token=hf_mine"]
    (tmp_path / ".env").write_text("\n".join(lines))
    dry, done = pod_command("create", "--dry-run"), pod_command("create")
    assert set(runpod.bodies(*CREATE)[0]["env"]) == {"HF_TOKEN", "API_KEY", CREATION_VARIABLE}
    for text in (dry.stdout, dry.stderr, done.stdout, done.stderr):
        assert not any(secret in text for secret in ("hush", "rpa_mine", "hf_mine"))
    assert "stay here: AWS_SECRET_ACCESS_KEY, DATABASE_URL, OTEL_EXPORTER_OTLP_HEADERS" in done.stderr


def test_storage_is_that_of_the_plan(runpod: FakeRunPod, pod_command: Command) -> None:
    """100 GB beside 24, 500 beside 80; less is said, and done where somebody wants it."""
    assert pod_command("create", POD_NAME="a", POD_GPUS="NVIDIA A100 80GB PCIe").returncode == 0
    little = pod_command("create", POD_NAME="b", POD_VOLUME_GB="50")
    assert "100 are the plan's size" in little.stderr
    sizes = [body["mounts"]["persistent"]["size"] for body in runpod.bodies(*CREATE)]
    assert sizes == [500, 50]


def test_no_card_at_all_says_why(runpod: FakeRunPod, pod_command: Command) -> None:
    """The last reason is told: it may be a rule that every card breaks."""
    runpod.sold_out = {one["id"] for one in runpod.catalog}
    done = pod_command("create")
    assert done.returncode == 1
    assert "no instances currently available" in done.stderr.splitlines()[-1]
    runpod.catalog = [gpu_entry("NVIDIA L4", 0.39, "NONE")]
    assert "None of the cards in POD_GPUS is in stock" in pod_command("create").stderr


def test_a_network_volume_decides_the_data_center(runpod: FakeRunPod, pod_command: Command) -> None:
    """Only cards in stock beside it are tried, and the pod is asked for there."""
    runpod.volumes["vol9"] = {"id": "vol9", "name": "models", "size": 50, "dataCenter": "US-KS-2", "type": "STANDARD"}
    assert pod_command("create", POD_VOLUME_ID="vol9").returncode == 0
    body = runpod.bodies(*CREATE)[0]
    assert body["gpu"]["id"] == "NVIDIA L4"
    assert body["dataCenterIds"] == ["US-KS-2"]
    assert body["mounts"] == {"network": [{"volumeId": "vol9", "path": "/workspace"}]}


def test_the_new_key_is_shown_once_and_sent(runpod: FakeRunPod, pod_command: Command) -> None:
    """The key that the pod gets is the one that is printed; each pod has another."""
    said = [pod_command("create", POD_NAME=name).stdout for name in ("one", "two")]
    shown = [re.search(r"API_KEY=(\S{32,})", text) for text in said]
    sent = [body["env"]["API_KEY"] for body in runpod.bodies(*CREATE)]
    assert [match and match[1] for match in shown] == sent
    assert len(set(sent)) == 2


def test_the_pod_gets_what_env_sets_for_its_parts(runpod: FakeRunPod, pod_command: Command, tmp_path: Path) -> None:
    """Models and limits travel; keys of the account, folders, ports and addresses of this machine do not."""
    lines = ["LLM_MODEL=Qwen/x", "IDLE_STOP_MINUTES=30", "API_KEY=my-own-key-0123456789", "HOST=0.0.0.0"]
    lines += ["GATEWAY_PORT=9000", "RUNPOD_API_KEY=other", "MODEL_CACHE_PATH=/home/me", "REDIS_PASSWORD=x"]
    lines += ["DRAIN_SECONDS=60", "REVIEW_URL=http://127.0.0.1:8004", "REVIEW_STORE=/home/me/reviews"]
    (tmp_path / ".env").write_text("\n".join(lines))
    done = pod_command("create", "--ssh")
    body = runpod.bodies(*CREATE)[0]
    del body["env"][CREATION_VARIABLE]
    assert body["env"] == {"LLM_MODEL": "Qwen/x", "IDLE_STOP_MINUTES": "30", "API_KEY": "my-own-key-0123456789"}
    assert "my-own-key" not in done.stdout + done.stderr
    assert "22/tcp" in body["ports"]
    assert body["startSsh"] is True


def test_words_for_searches_lie_on_the_volume() -> None:
    """A folder of this machine would be nowhere in the pod, and no search would know the words."""
    key = {"API_KEY": "my-own-key-0123456789"}
    with pytest.raises(PodError, match=r"SEARCH_WORDS is a folder of this machine.* below /workspace"):
        check({**key, "SEARCH_WORDS": "/home/me/words"})
    assert check({**key, "SEARCH_WORDS": "/workspace/words"}).search_words == Path("/workspace/words")
    with pytest.raises(PodError, match=r"REVIEW_ASPECTS is a file of this machine.* below /workspace"):
        check({**key, "REVIEW_ASPECTS": "aspects.toml"})
    assert check({**key, "REVIEW_ASPECTS": "/workspace/aspects.toml"}).review_aspects is not None


def test_reviews_in_a_bucket_are_the_pods_too(runpod: FakeRunPod, pod_command: Command, tmp_path: Path) -> None:
    """With what opens it, of which the secrets are hidden; what names files of this machine stays here."""
    secret = {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_SESSION_TOKEN": "hush"}
    opens = {
        **secret,
        "AWS_REGION": "auto",
        "AWS_ENDPOINT": "https://s3.example",
        "REVIEW_STORE": "s3://reviews/of-all",
    }
    local = {"AWS_PROFILE": "work", "AWS_SHARED_CREDENTIALS_FILE": "/home/me/aws", "AWS_CA_BUNDLE": "/home/me/ca"}
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in {**opens, **local}.items()))
    shown = pod_command("create", "--dry-run")
    hidden = json.loads(shown.stdout)["env"]
    assert {name: hidden[name] for name in opens} == {**opens, **dict.fromkeys(secret, "(hidden)")}
    assert (
        shown.stderr == "These variables of .env are not Onecard's, and stay here: " + ", ".join(sorted(local)) + "\n"
    )
    assert pod_command("create").returncode == 0
    sent = runpod.bodies(*CREATE)[0]["env"]
    assert {name: value for name, value in sent.items() if name in {*opens, *local}} == opens


def test_keys_of_a_bucket_that_no_pod_uses_stay_here(runpod: FakeRunPod, pod_command: Command, tmp_path: Path) -> None:
    """They may be another program's."""
    (tmp_path / ".env").write_text("AWS_ACCESS_KEY_ID=AKIA1\nAWS_SECRET_ACCESS_KEY=hush\nREVIEW_STORE=/home/me\n")
    assert pod_command("create").returncode == 0
    assert not [name for name in runpod.bodies(*CREATE)[0]["env"] if name.startswith("AWS_")]


@pytest.mark.parametrize(
    ("store", "says"), [("s3://reviews", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"), ("gs://reviews", "s3://")]
)
def test_a_bucket_that_the_pod_could_not_open_is_refused_before_it_is_paid(
    store: str, says: str, runpod: FakeRunPod, pod_command: Command
) -> None:
    """It would never be ready."""
    refused = pod_command("create", REVIEW_STORE=store)
    assert refused.returncode == 1
    assert "REVIEW_STORE" in refused.stderr
    assert says in refused.stderr
    assert not runpod.pods


def test_a_dry_run_rents_nothing_and_hides_keys(runpod: FakeRunPod, pod_command: Command, tmp_path: Path) -> None:
    """What it prints is the request, but for the secrets in it."""
    (tmp_path / ".env").write_text("HF_TOKEN=hf_secret\nLLM_MODEL=Qwen/x\n")
    done = pod_command("create", "--dry-run")
    shown = json.loads(done.stdout)
    del shown["env"][CREATION_VARIABLE]
    assert shown["env"] == {"HF_TOKEN": "(hidden)", "LLM_MODEL": "Qwen/x", "API_KEY": "(hidden)"}
    assert shown["gpu"]["id"] == "NVIDIA RTX A5000"
    assert not runpod.pods
    assert not runpod.bodies(*CREATE)


@pytest.mark.parametrize("several", ["REDIS_SENTINELS", "REDIS_CLUSTER_NODES"])
def test_the_password_of_a_redis_elsewhere_is_the_pods_too(several: str) -> None:
    """One at a host of this machine has another than the pod's own Redis."""
    here = {"REDIS_PASSWORD": "x"}
    assert "REDIS_PASSWORD" not in choose(here, {}, api_key="key", creation="c").values
    assert choose({**here, several: "a.example"}, {}, api_key="key", creation="c").values["REDIS_PASSWORD"] == "x"


def test_every_secret_setting_is_hidden() -> None:
    """Whatever the settings keep secret, and any address with a login in it."""
    fields = {**StackSettings.model_fields, **PodSettings.model_fields}
    secret = {name.upper() for name, field in fields.items() if "SecretStr" in str(field.annotation)}
    assert {"QUEUE_REDIS_URL", "REDIS_SENTINEL_PASSWORD", "REDIS_PASSWORD", "REDIS_URL", "HF_TOKEN"} <= secret
    hidden = dict.fromkeys(secret, "hush") | {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://me:hush@spans.example"}
    shown = {"LLM_URL": "http://spans.example/a@b", "LLM_MODEL": "Qwen/x"}
    told = without_secrets({"env": hidden | shown})
    assert told["env"] == dict.fromkeys(hidden, "(hidden)") | shown


def test_more_variables_than_a_pod_takes_are_refused_here(
    runpod: FakeRunPod, pod_command: Command, tmp_path: Path
) -> None:
    """RunPod takes fifty."""
    names = [name.upper() for name in StackSettings.model_fields]
    (tmp_path / ".env").write_text("\n".join(f"{name}=1" for name in names))
    assert re.search(r"\d+ variables are set, and RunPod takes 50", pod_command("create").stderr)
    assert not runpod.bodies(*CREATE)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "does not accept the key"),
        (402, "balance is too low"),
        (409, "state does not allow"),
        (422, "another card will not help"),
        (502, "may exist all the same"),
        (504, "may exist all the same"),
    ],
)
def test_what_no_other_card_can_help_ends_at_once(
    status: int, message: str, runpod: FakeRunPod, pod_command: Command
) -> None:
    """One line that says what to do, one request, no traceback, and never the key."""
    runpod.create_fails = [ProblemResponse(status, f"told with {ACCOUNT_KEY}", ["body: wrong"])]
    done = pod_command("create")
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert ACCOUNT_KEY not in done.stderr + done.stdout
    assert len(gpus_tried(runpod)) == 1


def test_too_many_requests_wait_as_long_as_they_are_told(runpod: FakeRunPod, pod_command: Command) -> None:
    """429 did nothing, so that also a creation is asked for again; a server's failure may have done it."""
    runpod.create_fails = [ProblemResponse(429, "rate limit exceeded", retry_after="0")]
    assert pod_command("create").returncode == 0
    assert len(gpus_tried(runpod)) == 2
    runpod.failures = [ProblemResponse(503, "later"), ProblemResponse(429, "rate limit exceeded", retry_after="0")]
    assert "pod1" in pod_command("status").stdout
    runpod.failures = [ProblemResponse(429, "rate limit exceeded", retry_after="0") for _ in range(4)]
    assert "Too many requests. Try again in 0 s." in pod_command("status").stderr


def test_nobody_there(pod_command: Command) -> None:
    """A network that does not answer is one line, too."""
    done = pod_command("status", RUNPOD_API_URL=f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert "cannot be reached (ConnectError). Check the connection." in done.stderr


def test_the_key_from_a_file(runpod: FakeRunPod, pod_command: Command, tmp_path: Path) -> None:
    """RUNPOD_API_KEY_FILE holds it; without any key the command says which variables to set."""
    (tmp_path / "key").write_text(f"{ACCOUNT_KEY}\n")
    assert pod_command("status", RUNPOD_API_KEY="", RUNPOD_API_KEY_FILE="key").returncode == 0
    assert "set RUNPOD_API_KEY" in pod_command("status", RUNPOD_API_KEY="").stderr
    assert "cannot be read" in pod_command("status", RUNPOD_API_KEY="", RUNPOD_API_KEY_FILE="none").stderr


def test_a_pods_life(runpod: FakeRunPod, pod_command: Command) -> None:
    """Stopped, started and ended by its name or its id; what its state does not allow is said."""
    runpod.add_pod("abc", "RUNNING")
    assert pod_command("stop").returncode == 0
    assert runpod.pods["abc"]["status"] == "EXITED"
    assert "cannot stop a pod that is EXITED" in pod_command("stop").stderr
    assert pod_command("start", "abc").returncode == 0
    assert runpod.pods["abc"]["status"] == "STARTING"
    assert pod_command("terminate", said="n\n").returncode == 1
    assert pod_command("terminate", said="y\n").returncode == 0
    assert not runpod.pods
    assert "There is no pod named 'onecard'" in pod_command("stop").stderr


@pytest.mark.parametrize("fault", ["lose", "drop", "empty", "odd"])
def test_what_was_done_is_not_reported_as_failed(fault: str, runpod: FakeRunPod, pod_command: Command) -> None:
    """Whatever becomes of the answer; the repeated request's refusal (409, 404) is no failure then."""
    runpod.add_pod("abc", "RUNNING")
    for action, status in (("stop", "EXITED"), ("start", "STARTING"), ("terminate", None)):
        runpod.faults = [fault]
        done = pod_command(action, "abc", said="y\n") if status else pod_command(action, "abc", "--yes")
        assert done.returncode == 0, done.stderr
        assert runpod.pods.get("abc", {"status": None})["status"] == status


def test_ending_a_pod_without_a_volume_says_what_is_lost(runpod: FakeRunPod, pod_command: Command) -> None:
    """Its reviews; those on a network volume stay."""
    runpod.add_pod("abc", "RUNNING", mounts={"persistent": {"size": 50, "path": "/workspace"}})
    assert "its reviews are lost with it" in pod_command("terminate", "abc", said="n\n").stdout
    runpod.add_pod("def", "RUNNING", mounts={"network": [{"volumeId": "vol9", "path": "/workspace"}]})
    assert "Its network volume stays" in pod_command("terminate", "def", said="n\n").stdout


def test_of_several_pods_one_has_to_be_named(runpod: FakeRunPod, pod_command: Command) -> None:
    """Nothing is stopped by mistake."""
    runpod.add_pod("abc", "RUNNING")
    runpod.add_pod("def", "RUNNING")
    assert "Several pods are named 'onecard': abc, def" in pod_command("stop").stderr
    assert {pod["status"] for pod in runpod.pods.values()} == {"RUNNING"}


def test_status_and_cost(runpod: FakeRunPod, pod_command: Command) -> None:
    """Where the gateway is, what it costs now and did cost, and what other cards would."""
    runpod.add_pod("abc", "RUNNING")
    assert "https://abc-8000.proxy.runpod.net" in pod_command("status").stdout
    shown = pod_command("cost").stdout
    assert re.search(r"abc +onecard +RUNNING +0\.39 +12\.50", shown)
    assert re.search(r"NVIDIA RTX A5000 +24 +0\.27 +LOW +EU-RO-1", shown)


def test_a_pod_without_a_price_is_shown_too(runpod: FakeRunPod, pod_command: Command) -> None:
    """RunPod names none while it does not run; what it did cost is known."""
    runpod.add_pod("abc", "EXITED", cost=None)
    assert re.search(r"abc +onecard +EXITED .* 0\.00", pod_command("status").stdout)
    assert re.search(r"abc +onecard +EXITED +0\.00 +12\.50", pod_command("cost").stdout)


def test_the_log_goes_on_where_a_connection_broke(runpod: FakeRunPod, pod_command: Command) -> None:
    """Each line once, in order; when the pod is gone, the command ends."""
    runpod.log = [(f"2026-11-23T10:00:0{second}Z", f"line {second}") for second in range(5)]
    done = pod_command("logs", "abc")
    assert done.stdout.splitlines() == [f"line {second}" for second in range(5)]
    assert "RunPod does not know it" in done.stderr


def test_a_network_volume_is_made(runpod: FakeRunPod, pod_command: Command) -> None:
    """And the line for .env is printed."""
    assert "POD_VOLUME_ID=vol1" in pod_command("volume", "EU-RO-1", "--gb", "60").stdout
    assert runpod.volumes["vol1"]["size"] == 60


def test_volumes_are_listed_and_deleted(runpod: FakeRunPod, pod_command: Command) -> None:
    """What costs can be seen and ended; a failure names the volume, not a pod."""
    runpod.faults = ["lose"]
    failed = pod_command("volume", "EU-RO-1")
    assert "The volume may exist all the same: see 'onecard-pod volumes'" in failed.stderr
    assert re.search(r"vol1 +onecard +100 +EU-RO-1", pod_command("volumes").stdout)
    assert pod_command("delete-volume", "vol1", said="n\n").returncode == 1
    runpod.faults = ["lose"]
    assert pod_command("delete-volume", "vol1", said="y\n").returncode == 0
    assert "There are no network volumes" in pod_command("volumes").stdout


@pytest.mark.parametrize("file", ["Dockerfile", "cpu.Dockerfile"])
def test_the_checked_settings_are_those_of_the_image(file: str) -> None:
    """What `create` adds to a pod's variables before it checks them is what the image sets."""
    text = (Path(__file__).parents[2] / "runpod" / file).read_text()
    assert {name: value for name, value in IMAGE_VARIABLES.items() if f"{name}={value}" in text} == IMAGE_VARIABLES
