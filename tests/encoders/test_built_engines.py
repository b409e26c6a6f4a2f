"""Engines built from the stand-ins, and services that serve with them."""

import asyncio
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import httpx2 as httpx
import numpy as np
import onnxruntime
import pytest

from embedding_service.engine import SentenceEncoder
from embedding_service.vectors import VectorKind
from onecard.inference.engines import manifest as manifests
from onecard.inference.engines.building import build as building
from onecard.inference.engines.manifest import EngineManifest
from onecard.inference.engines.names import EncoderKind, EngineName
from onecard.inference.engines.parity import GATES, Gate
from onecard.models.folders import STAND_INS, ModelFolder, find, folder_name
from onecard.settings import load_from
from onecard_stack.commands.engine_builder import build, generated_texts
from onecard_stack.errors import StackError
from onecard_stack.settings import StackSettings
from sentiment_service.engine import Classifier
from sentiment_service.probabilities import ProbabilityKind
from tests.encoders.test_engines import FAMILIES, write
from tests.gateway.client_load import CLIENTS, client_load, eventually_polled
from tests.shallow_models import copy_two_layers
from tests.support import Server, free_port, metric, serving

TEXTS = [
    "맛있어요",
    "국물이 진하고 고기도 넉넉해서 다시 가고 싶은 집입니다.",
    "음식이 다 식어 있었고 직원이 불친절했습니다.",
]
ENGINES: list[EngineName] = ["openvino", "onnx"]
KINDS: list[EncoderKind] = ["embedding", "sentiment"]
ROUTES = {"embedding": "/v1/embeddings", "sentiment": "/v1/sentiment"}


def encoder_of(kind: EncoderKind, folder: ModelFolder) -> building.SourceEncoder:
    if kind == "embedding":
        return building.SourceEncoder(kind, folder, SentenceEncoder, VectorKind)
    return building.SourceEncoder(kind, folder, Classifier, lambda _: ProbabilityKind())


@contextmanager
def source_of(kind: EncoderKind, folder: ModelFolder, cache: Path, texts: int = 200) -> Iterator[building.Source]:
    every = generated_texts(texts + 40)
    with building.open_source(encoder_of(kind, folder), every[40:], every[:40], cache, None, lambda _: None) as source:
        yield source


Built = Callable[[EncoderKind], Path]
"""Makes, once for each kind, a MODEL_CACHE_PATH with its stand-in and an engine of each library."""


@pytest.fixture(scope="module")
def built(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Engines are built for the encoders that a test asks for."""

    @functools.cache
    def make(kind: EncoderKind) -> Path:
        cache = tmp_path_factory.mktemp("models")
        name = folder_name(STAND_INS[kind])
        copy_two_layers(model_cache / name, cache / name)
        with source_of(kind, find(kind, STAND_INS[kind], cache), cache) as source:
            for engine in ENGINES:
                building.build(source, engine, "half")
        return cache

    return make


def copy_of(cache: Path, tmp_path: Path) -> Path:
    """The same models and engines, to be damaged."""
    shutil.copytree(cache, tmp_path / "models", symlinks=True)
    return tmp_path / "models"


def env(cache: Path, **more: str) -> dict[str, str]:
    return {"MODEL_CACHE_PATH": str(cache), "OMP_NUM_THREADS": "1", "CACHE_ENABLED": "false", **more}


def serve(kind: str, environment: dict[str, str]) -> AbstractContextManager[Server]:
    return serving(f"{kind}_service", port_variable=f"{kind.upper()}_PORT", env=environment)


def engine_of(server: Server) -> str:
    """What `/v1/models` calls the engine."""
    name: str = httpx.get(f"{server.url}/v1/models").json()["data"][0]["engine"]
    return name


def answers(server: Server, kind: str) -> np.ndarray:
    """The vectors of the texts, or their probabilities."""
    body = httpx.post(f"{server.url}{ROUTES[kind]}", json={"input": TEXTS}, timeout=30).raise_for_status().json()
    if kind == "embedding":
        return np.array([row["embedding"] for row in body["data"]])
    return np.array([row["scores"]["positive"] for row in body["data"]])


@pytest.fixture(scope="module")
def torch_answers(built: Built) -> Callable[[EncoderKind], np.ndarray]:
    """What torch serves, where it is chosen by the setting; each kind is asked once."""

    @functools.cache
    def ask(kind: EncoderKind) -> np.ndarray:
        with serve(kind, env(built(kind), ENCODER_ENGINE="torch")) as server:
            assert engine_of(server).startswith("torch")
            return answers(server, kind)

    return ask


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_built_engine_serves_what_torch_serves(
    kind: EncoderKind, engine: EngineName, built: Built, torch_answers: Callable[[EncoderKind], np.ndarray]
) -> None:
    """Chosen by the setting, named in /v1/models, and equal to torch up to rounding."""
    expected = torch_answers(kind)
    with serve(kind, env(built(kind), ENCODER_ENGINE=engine)) as server:
        assert engine_of(server).startswith(manifests.installed_library(engine) or "none")
        assert np.allclose(answers(server, kind), expected, atol=0.02)
        assert "engine refused" not in server.log()


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_chosen_engine_is_imported(kind: EncoderKind, built: Built) -> None:
    """A process that serves with OpenVINO has neither torch nor transformers nor ONNX Runtime in it."""
    code = f"""
import sys
from onecard.gpu.device import select_device
from onecard.gpu.reservation import MemoryReservation
from onecard.inference.served_engine import load_engine
from onecard.models.folders import find
from {kind}_service.app import MODEL
from {kind}_service.settings import {kind.title()}Settings
settings = {kind.title()}Settings()
folder = find("{kind}", settings.{kind}_model, settings.model_cache_path)
served = load_engine(MODEL, folder, settings, select_device(settings), MemoryReservation("{kind}", None, 4, 200))
loaded = {{"torch", "transformers", "openvino", "onnxruntime", "nncf"}} & set(sys.modules)
print(served.library.split()[0], *sorted(loaded))
"""
    environment = {**os.environ, **env(built(kind), ENCODER_ENGINE="openvino", USE_GPU="false")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "openvino openvino"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "harm", "reason"),
    [
        ("graph.bin", cut, "graph.bin is damaged or cut short"),
        ("graph.bin", flip, "graph.bin is damaged or cut short"),
        ("graph.xml", Path.unlink, "graph.xml cannot be read"),
        ("engine.json", cut, "engine.json is damaged"),
    ],
)
def test_torch_serves_when_the_engine_is_damaged(
    file: str, harm: Callable[[Path], None], reason: str, built: Built, tmp_path: Path
) -> None:
    """Refused once, with the reason."""
    cache = copy_of(built("embedding"), tmp_path)
    folder = next((cache / "engines").glob("embedding-openvino-*"))
    harm(folder / file)
    with serve("embedding", env(cache, ENCODER_ENGINE="openvino")) as server:
        assert engine_of(server).startswith("torch")
        said = [line for line in server.log().splitlines() if "engine refused" in line]
        assert len(said) == 1
        assert reason in said[0]
        assert len(answers(server, "embedding")) == len(TEXTS)


def test_a_graph_that_does_not_compute_is_refused(built: Built, tmp_path: Path) -> None:
    """An engine with right digests whose library cannot load it leaves the service to torch."""
    cache = copy_of(built("embedding"), tmp_path)
    folder = next((cache / "engines").glob("embedding-openvino-*"))
    (folder / "graph.xml").write_text("<net></net>")
    manifest = manifests.read(folder)
    assert isinstance(manifest, EngineManifest)
    files = {**manifest.files, "graph.xml": manifests.sha256(folder / "graph.xml")}
    (folder / "engine.json").write_text(manifest.model_copy(update={"files": files}).model_dump_json())
    with serve("embedding", env(cache, ENCODER_ENGINE="openvino")) as server:
        assert engine_of(server).startswith("torch")
        assert "it does not load" in server.log()


def test_cached_results_of_one_engine_are_not_served_as_anothers(built: Built, caching_env: dict[str, str]) -> None:
    """With one Redis, the second engine misses what the first has stored, and finds its own."""
    seen = []
    for engine in ("torch", "openvino", "onnx", "torch"):
        with serve(
            "embedding", {**caching_env, **env(built("embedding"), ENCODER_ENGINE=engine, CACHE_ENABLED="true")}
        ) as server:
            for _ in range(2):
                response = httpx.post(f"{server.url}/v1/embeddings", json={"input": ["캐시"]}, timeout=30)
                seen.append((response.headers["x-cache"], response.headers["x-onecard-model"].rpartition(":")[2]))
    assert [cache for cache, _ in seen] == ["miss", "hit"] * 3 + ["hit", "hit"]
    assert len({fingerprint for _, fingerprint in seen}) == 3


async def test_two_replicas_change_their_engine_in_turn_and_no_request_fails(built: Built) -> None:
    """16 clients ask through the gateway all the time, while each replica stops and comes back with OpenVINO."""
    nobody = f"http://127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(serve("embedding", env(built("embedding"), ENCODER_ENGINE="torch"))) for _ in range(2)
        ]
        addresses = {"EMBEDDING_URL": ",".join(server.url for server in replicas), "CACHE_ENABLED": "false"}
        others = dict.fromkeys(("LLM_URL", "SENTIMENT_URL", "REVIEW_URL"), nobody)
        gateway = stack.enter_context(serving("gateway", port_variable="GATEWAY_PORT", env=addresses | others))

        def change(old: Server) -> Server:
            assert old.stop() == -signal.SIGTERM
            environment = env(built("embedding"), ENCODER_ENGINE="openvino")
            return stack.enter_context(
                serving("embedding_service", port_variable="EMBEDDING_PORT", env=environment, port=old.port)
            )

        async with client_load(gateway, path="/v1/embeddings", input=["맛있어요"]) as clients:
            for old in replicas:
                await clients.wait_for_more(100)
                new = await asyncio.to_thread(change, old)
                assert engine_of(new).startswith("openvino")
                await eventually_polled(lambda: metric(new, "onecard_batch_seconds_count") > CLIENTS)  # noqa: B023
        assert set(clients.statuses) == {200}
        assert not clients.broken


def test_a_quantised_engine_is_kept_only_if_it_passes_its_gate(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of one that is too far from torch; of one that passes, the manifest has its figures."""
    cache = copy_of(built("embedding"), tmp_path)
    monkeypatch.setattr(building, "RECIPES", ((),))
    with source_of("embedding", find("embedding", STAND_INS["embedding"], cache), cache, texts=40) as source:
        monkeypatch.setitem(GATES, "int8", Gate(cosine_mean=1.1, cosine_p1=0, overlap=0, labels_equal=0))
        with pytest.raises(building.BuildError, match="cosine_mean"):
            building.build(source, "openvino", "int8")
        assert not list((cache / "engines").glob("*-int8-*"))
        monkeypatch.setitem(GATES, "int8", Gate(cosine_mean=0.9, cosine_p1=0, overlap=0, labels_equal=0))
        folder, manifest = building.build(source, "openvino", "int8")
    assert list((cache / "engines").glob("*-int8-*")) == [folder]
    assert (manifest.arithmetic, manifest.recipe) == ("int8", "all layers")
    assert 0.9 <= (manifest.parity.cosine_mean or 0) < 1
    assert not list((cache / "engines").glob(".building-*"))


def test_no_engine_is_built_of_a_stand_in_that_would_not_serve(model_cache: Path, texts_file: Path) -> None:
    """As the service itself, which says how to get the model."""
    settings = load_from(StackSettings, {**env(model_cache), "ALLOW_STAND_INS": "false"})
    with pytest.raises(SystemExit, match="only its stand-in, which ALLOW_STAND_INS=false forbids"):
        build(settings, ["embedding"], "openvino", ["half"], texts_file, lambda _: None)


def test_what_onnx_runtime_raises_is_one_line(
    model_cache: Path, texts_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its errors are no RuntimeErrors, and were a traceback."""
    monkeypatch.setattr(building, "open_source", lambda *_: nullcontext())
    monkeypatch.setattr(building, "build", lambda *_: onnxruntime.InferenceSession(b"no graph"))
    settings = load_from(StackSettings, env(model_cache, USE_GPU="false"))
    with pytest.raises(StackError, match=r"^embedding, onnx half: "):
        build(settings, ["embedding"], "onnx", ["half"], texts_file, lambda _: None)


def command(cache: Path, *arguments: str, file_bytes: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[str]:
    """Run `onecard build-engine` with files of at most so many bytes, as on a disk with little left."""
    return subprocess.run(
        [sys.executable, "-m", "onecard_stack", "build-engine", *arguments],
        env={**os.environ, **env(cache, USE_GPU="false")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes)),
        capture_output=True,
        text=True,
    )


@pytest.fixture
def texts_file(tmp_path: Path) -> Path:
    """Texts as an operator may have them: JSON lines."""
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in generated_texts(300)))
    return path


def test_the_command_builds_an_engine_and_says_how_it_compares(built: Built, tmp_path: Path, texts_file: Path) -> None:
    """Each step, then the figures; a second time there is nothing to do."""
    cache = copy_of(built("sentiment"), tmp_path)
    for path in (cache / "engines").iterdir():
        shutil.rmtree(path)
    arguments = ("sentiment", "--precision", "half", "--texts", str(texts_file))
    first = command(cache, *arguments)
    assert first.returncode == 0, first.stderr
    assert "export" in first.stdout
    assert "equal labels" in first.stdout
    assert [path.name.rpartition("-")[0] for path in (cache / "engines").iterdir()] == ["sentiment-openvino-half"]
    assert "built already" in command(cache, *arguments).stdout


def test_a_full_disk_leaves_nothing_behind(built: Built, tmp_path: Path, texts_file: Path) -> None:
    """One line says so, and neither a part of an engine nor its scratch files stay."""
    cache = copy_of(built("embedding"), tmp_path)
    before = sorted((cache / "engines").iterdir())
    done = command(cache, "embedding", "--precision", "int8", "--texts", str(texts_file), file_bytes=1_000_000)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert sorted((cache / "engines").iterdir()) == before


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_can_be_exported(kind: EncoderKind, family: str, model_cache: Path, tmp_path: Path) -> None:
    """Whatever positions begin with, and whatever stands on top of the encoder, the graph computes what torch does."""
    config, plain, classifier = FAMILIES[family]
    sentences = kind == "embedding"
    tokenizer = model_cache / "onecard--standin-ko-sbert"
    folder = write(tmp_path / "m", config, plain if sentences else classifier, tokenizer, sentences=sentences)
    with source_of(kind, folder, tmp_path, texts=40) as source:
        _, manifest = building.build(source, "openvino", "half")
    assert not GATES["half"].faults(manifest.parity)
