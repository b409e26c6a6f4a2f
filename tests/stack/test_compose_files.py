"""The compose files, as they are written: nothing is started."""

import json
import os
import re
import subprocess
import sysconfig
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from embedding_service.settings import EmbeddingSettings
from gateway.settings import GatewaySettings
from llm_service.settings import LlmSettings
from review_service.settings import ReviewSettings, WorkerSettings
from sentiment_service.settings import SentimentSettings

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
FIXED = {"GATEWAY_PORT", "VLLM_PORT", "SENTIMENT_PORT", "EMBEDDING_PORT", "REVIEW_PORT"}
"""Inside, each service has its usual port."""
NOT_FOR_THEM = {"API_KEY", "ALLOW_NO_KEY"}
"""Who has no key needs none, and who has one must not do without."""


@pytest.mark.parametrize(
    ("service", "settings"),
    [
        ("gateway", GatewaySettings),
        ("llm", LlmSettings),
        ("sentiment", SentimentSettings),
        ("embedding", EmbeddingSettings),
        ("review", ReviewSettings),
        ("worker", WorkerSettings),
        ("schedule", WorkerSettings),
    ],
)
def test_a_service_gets_every_variable_that_it_reads(service: str, settings: type[BaseSettings]) -> None:
    """What stands in .env has the same effect as without Docker."""
    read = {name.upper() for name in settings.model_fields}
    assert read - set(SERVICES[service]["environment"]) - FIXED - NOT_FOR_THEM == set()


def test_the_words_for_searches_are_mounted() -> None:
    """The folder that .env names, where the review service looks for it; without one an empty volume."""
    review = SERVICES["review"]
    assert f"${{SEARCH_WORDS:-words}}:{review['environment']['SEARCH_WORDS']}:ro" in review["volumes"]
    assert "words" in yaml.safe_load((ROOT / "compose.yaml").read_text())["volumes"]


def test_keys_go_only_to_who_needs_them() -> None:
    """An encoder that is broken into gives no key of the gateway away."""
    holders = {name for name, service in SERVICES.items() if "API_KEY" in service.get("environment", {})}
    assert holders == {"gateway", "llm", "review", "worker", "schedule", "prometheus"}
    assert "HF_TOKEN" in SERVICES["models"]["environment"]
    assert not [name for name, service in SERVICES.items() if name != "models" and "HF_TOKEN" in service["environment"]]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_contained(service: str) -> None:
    """No capability, a root file system that is read only, bounded logs, an image that is pinned or built here."""
    found = SERVICES[service]
    assert found["cap_drop"] == ["ALL"]
    assert found["read_only"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["logging"]["options"] == {"max-size": "10m", "max-file": "4"}
    assert found["mem_limit"]
    assert found["pids_limit"] >= 512
    assert all(":size=" in one for one in found.get("tmpfs", []))
    built = {one["image"] for one in SERVICES.values() if "build" in one}
    assert found["image"] in built or ":" in found["image"]


def test_one_card_for_the_three_that_run_models() -> None:
    """And for nobody where the CPU's file is named."""
    on_card = yaml.safe_load((ROOT / "compose.override.yaml").read_text())["services"]
    reserved = {name: one["deploy"]["resources"]["reservations"]["devices"] for name, one in on_card.items()}
    assert set(reserved) == {"sentiment", "embedding", "llm"}
    assert len({str(devices) for devices in reserved.values()}) == 1
    assert "deploy" not in (ROOT / "compose.cpu.yaml").read_text()


def test_images_that_share_a_layer_are_built_alike() -> None:
    """The stage of the packages is word for word the same, or torch would be installed, and kept, three times."""
    files = [ROOT / name / "Dockerfile" for name in ("sentiment-service", "embedding-service", "stack")]
    stages = [path.read_text().partition("FROM ${BASE} AS packages")[2].partition("FROM")[0] for path in files]
    assert stages[0] == stages[1] == stages[2]


def test_no_image_gets_stand_ins_or_their_trainer() -> None:
    """Whoever deploys must not be served a toy. Neither Dockerfiles nor the build's context take the folder."""
    files = [path for path in ROOT.glob("*/*Dockerfile") if ROOT / "tests" not in path.parents]
    assert len(files) >= 9
    for path in files:
        copied = [line.split()[1:] for line in path.read_text().splitlines() if line.startswith(("COPY", "ADD"))]
        assert not [words for words in copied if any(word.strip("./").split("/")[0] == "data" for word in words)], path
        assert not re.search(r"standin|/data\b|\bdata$", path.read_text(), re.MULTILINE), path
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not [line for line in ignored if line.startswith(("!data", "!.onecard"))]


def test_no_file_has_a_top_level_name() -> None:
    """docker-compose 1.29 refuses it."""
    assert not [path for path in ROOT.glob("compose*.yaml") if "name" in yaml.safe_load(path.read_text())]


def test_prometheus_waits_for_nobody() -> None:
    """A first start that fails would be unseen otherwise."""
    assert "depends_on" not in SERVICES["prometheus"]


def test_what_is_elsewhere_can_be_reached() -> None:
    """Whoever is told of a Redis or a service on another machine has a way out with the file that the pages name."""
    networks = yaml.safe_load((ROOT / "compose.yaml").read_text())["networks"]
    more = yaml.safe_load((ROOT / "compose.outside.yaml").read_text())["services"]
    told = {name for name, one in SERVICES.items() if any(key.endswith("_URL") for key in one["environment"])}
    assert {"gateway", "sentiment", "embedding", "review", "worker", "schedule"} == told
    for name in told:
        joined = more.get(name, SERVICES[name])["networks"]
        assert set(SERVICES[name]["networks"]) <= set(joined)
        assert [one for one in joined if not networks[one].get("internal")], name
    assert set(more) == {name for name in told if SERVICES[name]["networks"] == ["inside"]}
    for page in ("compose.md", "operations.md"):
        assert "compose.outside.yaml" in (ROOT / "docs" / page).read_text()


def test_an_upgrade_takes_what_is_only_read_at_a_start() -> None:
    """Services that mount files of this checkout, which no new image brings: the page names their restart."""
    mounting = [name for name, one in SERVICES.items() if any(f.startswith("./") for f in one.get("volumes", []))]
    assert mounting == ["prometheus", "grafana"]
    upgrading = (ROOT / "docs/operations.md").read_text().partition("\n## Upgrading\n")[2].partition("\n## ")[0]
    assert f"docker compose --profile monitoring restart {' '.join(mounting)}" in upgrading


@pytest.mark.parametrize(
    ("password", "is_first_start", "code", "expected"),
    [
        ("hush # 'hush'", False, 0, ["admin reset-admin-password --password-from-stdin", "hush # 'hush'", "started"]),
        ("hush", True, 0, ["started"]),
        ("", False, 0, ["started"]),
        ("hush", False, 1, ["admin reset-admin-password --password-from-stdin", "hush"]),
    ],
)
def test_grafana_has_the_password_that_is_set(
    tmp_path: Path, password: str, is_first_start: bool, code: int, expected: list[str]
) -> None:
    """Also after its first start, after which its own variable has no effect; else it does not start."""
    notes, server, tool = (tmp_path / name for name in ("notes", "run.sh", "grafana"))
    server.write_text(f'#!/bin/sh\necho started >> "{notes}"\n')
    tool.write_text(f'#!/bin/sh\nshift 3\necho "$*" >> "{notes}"\ncat >> "{notes}"\nexit {code}\n')
    for program in (server, tool):
        program.chmod(0o755)
    if not is_first_start:
        (tmp_path / "grafana.db").touch()
    shell, option, script = SERVICES["grafana"]["entrypoint"]
    command = [shell, option, script.replace("$$", "$").replace("/run.sh", str(server))]
    folders = {"GF_PATHS_DATA": str(tmp_path), "GF_PATHS_HOME": str(tmp_path)}
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(command, env={"PATH": path, "GF_SECURITY_ADMIN_PASSWORD": password, **folders})
    assert notes.read_text().splitlines() == expected
    assert done.returncode == code


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/*Dockerfile")), ids=lambda path: "/".join(path.parts[-2:]))
def test_images_have_neither_tests_nor_data(path: Path) -> None:
    """What only development needs is in none; the build's context does not even hold it."""
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", path.read_text(), re.MULTILINE)
    names = {name.split("/")[0] for line in copied for name in line.split()}
    assert names.isdisjoint({".", "tests", "data", "bench", "docs"})
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {f"!{name}" for name in ("tests", "data", "bench", "docs")}.isdisjoint(ignored)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/*Dockerfile")), ids=lambda path: "/".join(path.parts[-2:]))
def test_images_have_no_source_tree(path: Path) -> None:
    """Our folders are copied into a stage that is thrown away, and installed from there."""
    *_, last = re.split(r"^FROM ", path.read_text(), flags=re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", last, re.MULTILINE)
    names = {name.split("/image/")[0] for line in copied for name in line.split()}
    assert names <= {"runpod", "monitoring"}


def test_an_image_lists_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list that the build writes names each installed distribution once, with its version and package URL."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    image = import_module("image")
    image.write_contents(tmp_path / "folder" / image.CONTENTS, [sysconfig.get_path("purelib")])
    contents = json.loads((tmp_path / "folder" / image.CONTENTS).read_text())
    found = {one["name"]: one for one in contents["components"]}
    assert len(found) == len(contents["components"])
    assert found["fastapi"]["version"] == metadata.version("fastapi")
    assert found["fastapi"]["purl"] == f"pkg:pypi/fastapi@{metadata.version('fastapi')}"
    assert (contents["bomFormat"], contents["specVersion"]) == ("CycloneDX", "1.6")
