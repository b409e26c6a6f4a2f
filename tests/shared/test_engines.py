"""The encoders' engines without a model: the gate, the choice, the folder."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.batching.queue import Batch
from onecard.gpu.device import instruction_set
from onecard.inference.engines import folder as folders
from onecard.inference.engines import manifest as manifests
from onecard.inference.engines import onnx_runner, parity
from onecard.inference.engines.building import onnx_graph
from onecard.inference.engines.building.export import ONNX_FILE
from onecard.inference.engines.card import Card, providers
from onecard.inference.engines.manifest import EngineManifest
from onecard.inference.engines.metrics import ProcessMemory
from onecard.inference.engines.names import EngineChoice, Precision
from onecard.inference.engines.parity import GATES, Parity
from onecard.inference.engines.selection import select
from onecard.inference.packed_arrays import GRAPH_INPUTS, PackedArrays
from onecard.models import model_files
from onecard.models.folders import ModelFolder

texts_ = st.lists(st.lists(st.integers(5, 99), min_size=1, max_size=80), min_size=1, max_size=20)


@given(texts_)
def test_a_graph_reads_each_text_once_and_tells_it_from_the_others(texts: list[list[int]]) -> None:
    """Each text's cells hold its tokens, at positions from 0, under one number that no other text has."""
    inputs = PackedArrays.from_batch(Batch.from_texts(texts), pad_id=0).graph_inputs()
    assert tuple(inputs) == GRAPH_INPUTS
    kept = [row.astype(bool) for row in inputs["mask"]]
    cells = [row[mask] for row, mask in zip(inputs["cells"], kept, strict=True)]
    assert [inputs["input_ids"].ravel()[row].tolist() for row in cells] == texts
    assert [inputs["position_ids"].ravel()[row].tolist() for row in cells] == [list(range(len(t))) for t in texts]
    numbers = [set(inputs["text_numbers"].ravel()[row].tolist()) for row in cells]
    assert all(len(number) == 1 for number in numbers)
    assert len(set.union(*numbers)) == len(texts)


def unit(vectors: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def test_torch_passes_its_own_gate() -> None:
    """An engine with torch's own results passes both gates with perfect figures."""
    vectors = unit(np.random.default_rng(0).normal(size=(50, 8)))
    figures = parity.of_vectors(vectors, vectors)
    assert figures.overlap == 1
    assert figures.cosine_mean == pytest.approx(1)
    assert not GATES["half"].faults(figures)
    assert not GATES["int8"].faults(parity.of_probabilities(vectors[:, 0], vectors[:, 0]))


def test_cosines_near_one_do_not_hide_exchanged_neighbours() -> None:
    """Vectors that all lie close together, slightly moved, keep their cosines and fail by their neighbours."""
    rng = np.random.default_rng(0)
    vectors = unit(np.ones((200, 16)) + 0.02 * rng.normal(size=(200, 16)))
    figures = parity.of_vectors(vectors, unit(vectors + 0.004 * rng.normal(size=vectors.shape)))
    assert figures.cosine_mean is not None
    assert figures.cosine_mean > 0.999
    assert [fault.split()[0] for fault in GATES["half"].faults(figures)] == ["overlap"]


def test_a_figure_that_is_no_number_fails() -> None:
    """NaN is below every limit."""
    assert GATES["int8"].faults(Parity(texts=1, cosine_mean=float("nan")))


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return ModelFolder(path, "org/model", "r1", None)


def a_manifest(model: ModelFolder, **changes: object) -> EngineManifest:
    values: dict[str, object] = {
        "inputs": "0" * 16,
        "kind": "embedding",
        "model": model.name,
        "revision": model.revision,
        "model_files": model_files.digest(model.path),
        "engine": "openvino",
        "precision": "half",
        "arithmetic": "float32",
        "library": manifests.installed_library("openvino"),
        "device": "cpu",
        "instruction_set": instruction_set("cpu"),
        "recipe": "not quantised",
        "window": 128,
        "vocab_size": 100,
        "pad_id": 0,
        "result_size": 8,
        "parity": Parity(texts=1000, cosine_mean=1, cosine_p1=1, overlap=1),
        "texts_per_second": 200,
        "torch_texts_per_second": 100,
        "files": {},
    }
    return EngineManifest.model_validate(values | changes)


def keep(cache: Path, manifest: EngineManifest) -> Path:
    engines = cache / "engines"
    with folders.unfinished_folder(engines) as scratch:
        (scratch / "graph.bin").write_bytes(b"weights")
        whole = manifest.model_copy(update={"files": {"graph.bin": manifests.sha256(scratch / "graph.bin")}})
        return folders.finish(scratch, engines, whole)


def chosen(choice: EngineChoice, precision: Precision, model: ModelFolder, cache: Path) -> list[str]:
    selection = select(choice, precision, "embedding", model, cache, "cpu", 32, use_fp16=True)
    return [f"{one.manifest.engine} {one.manifest.precision}" for one in selection.candidates]


def test_auto_takes_the_fastest_that_outruns_torch(model: ModelFolder, tmp_path: Path) -> None:
    """Quantised engines only where they are allowed, and none that is slower than torch."""
    keep(tmp_path, a_manifest(model))
    keep(tmp_path, a_manifest(model, engine="onnx", library=manifests.installed_library("onnx"), texts_per_second=90))
    keep(tmp_path, a_manifest(model, precision="int8", arithmetic="int8", texts_per_second=300))
    assert chosen("auto", "half", model, tmp_path) == ["openvino half"]
    assert chosen("auto", "int8", model, tmp_path) == ["openvino int8", "openvino half"]
    assert chosen("onnx", "half", model, tmp_path) == ["onnx half"]
    assert chosen("torch", "int8", model, tmp_path) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"revision": "r2"}, "not from the model served here"),
        ({"model_files": "other"}, "not from the model served here"),
        ({"instruction_set": ("x86_64", "avx512_bf16")}, "another instruction set"),
        ({"library": "openvino 2020.1"}, "openvino 2020.1"),
        ({"device": "cuda"}, "built for cuda"),
        ({"batch_texts": 16}, "batches of 16 texts"),
        ({"parity": Parity(texts=1000, cosine_mean=0.99, cosine_p1=0.9, overlap=0.5)}, "cosine_mean 0.99000"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_with_the_reason(
    change: dict[str, object], reason: str, model: ModelFolder, tmp_path: Path
) -> None:
    """One of another model, machine or library, or one that is too far from torch, is no candidate."""
    keep(tmp_path, a_manifest(model, **change))
    for choice in ("openvino", "auto"):
        selection = select(choice, "half", "embedding", model, tmp_path, "cpu", 32, use_fp16=True)
        assert not selection.candidates
        assert [reason in refusal.reason for refusal in selection.refusals] == [True]


@pytest.mark.parametrize(
    ("change", "half"),
    [
        ({"arithmetic": "bfloat16"}, "bfloat16"),
        ({"arithmetic": "float16", "engine": "onnx", "library": "onnxruntime 1"}, "float16"),
        ({"arithmetic": "int8", "precision": "int8", "engine": "tensorrt"}, "float16"),
    ],
)
def test_without_half_precision_no_engine_computes_in_it(
    change: dict[str, object], half: str, model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """USE_FP16=false holds for built engines as for torch; those in FP32, or in INT8 with FP32 between, may serve."""
    monkeypatch.setattr(manifests, "cpu_multiplies_bfloat16", lambda: False)
    keep(tmp_path, a_manifest(model, **change))
    selection = select("auto", "int8", "embedding", model, tmp_path, "cpu", 32, use_fp16=False)
    assert not selection.candidates
    assert [one.reason for one in selection.refusals] == [f"it computes in {half}, and USE_FP16=false"]
    others = tmp_path / "others"
    keep(others, a_manifest(model, arithmetic="float32"))
    keep(others, a_manifest(model, arithmetic="int8", precision="int8"))
    selection = select("auto", "int8", "embedding", model, others, "cpu", 32, use_fp16=False)
    assert len(selection.candidates) == 2
    assert not selection.refusals
    monkeypatch.setattr(manifests, "cpu_multiplies_bfloat16", lambda: True)
    selection = select("auto", "int8", "embedding", model, others, "cpu", 32, use_fp16=False)
    assert [one.manifest.arithmetic for one in selection.candidates] == ["float32"]
    assert [one.reason for one in selection.refusals] == ["it computes in bfloat16, and USE_FP16=false"]


def test_a_damaged_manifest_is_refused(model: ModelFolder, tmp_path: Path) -> None:
    """Half a manifest is no engine."""
    path = keep(tmp_path, a_manifest(model)) / "engine.json"
    path.write_text(path.read_text()[:200])
    selection = select("auto", "half", "embedding", model, tmp_path, "cpu", 32, use_fp16=True)
    assert not selection.candidates
    assert "damaged" in selection.refusals[0].reason


def test_what_is_wanted_and_not_built_is_said_once(model: ModelFolder, tmp_path: Path) -> None:
    """The reason says what to run; auto asks for nothing and says nothing."""
    selection = select("openvino", "int8", "embedding", model, tmp_path, "cpu", 32, use_fp16=True)
    assert [refusal.reason for refusal in selection.refusals] == ["it has not been built; run 'onecard build-engine'"]
    assert not select("auto", "int8", "embedding", model, tmp_path, "cpu", 32, use_fp16=True).refusals


def test_a_cut_file_is_found(model: ModelFolder, tmp_path: Path) -> None:
    """Files are compared with their digests."""
    folder = keep(tmp_path, a_manifest(model))
    manifest = manifests.read(folder)
    assert isinstance(manifest, EngineManifest)
    assert manifests.damage(manifest, folder) is None
    (folder / "graph.bin").write_bytes(b"weight")
    assert manifests.damage(manifest, folder) == "graph.bin is damaged or cut short"


def test_an_interrupted_build_leaves_nothing_behind(tmp_path: Path) -> None:
    """Whatever ends a build, its folder goes, and no engine's name was ever taken."""

    def build() -> None:
        with folders.unfinished_folder(tmp_path) as scratch:
            (scratch / "graph.bin").write_bytes(b"half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        build()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_goes_with_a_later_one(tmp_path: Path) -> None:
    """A day later nobody is building in it any more; a folder of today may be in use."""
    for name, age in (("old", 25 * 3600), ("new", 60)):
        (tmp_path / f".building-{name}").mkdir()
        os.utime(tmp_path / f".building-{name}", (time.time() - age,) * 2)
    with folders.unfinished_folder(tmp_path) as scratch:
        assert {path.name for path in tmp_path.iterdir()} == {scratch.name, ".building-new"}


def test_a_second_build_of_the_same_inputs_replaces_the_first(model: ModelFolder, tmp_path: Path) -> None:
    """The folder's name stays, its content is the new one."""
    keep(tmp_path, a_manifest(model))
    folder = keep(tmp_path, a_manifest(model, texts_per_second=500))
    assert json.loads((folder / "engine.json").read_text())["texts_per_second"] == 500
    assert len(list((tmp_path / "engines").iterdir())) == 1


def test_memory_is_split_into_own_and_proportional(tmp_path: Path) -> None:
    """In bytes, from Linux's kilobytes; nothing where the file is missing."""
    smaps = tmp_path / "smaps"
    smaps.write_text("00-ff ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss: 5 kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: 2 kB\n")
    samples = [sample for metric in ProcessMemory(smaps).collect() for sample in metric.samples]
    assert {sample.labels["share"]: sample.value for sample in samples} == {"own": 3072, "proportional": 5120}
    assert not list(ProcessMemory(tmp_path / "none").collect())


def test_a_card_gets_its_share_and_no_more() -> None:
    """Arena and workspace together are the planned bytes, and the largest shape is the batcher's."""
    card = Card(index=1, memory_bytes=4_000, batch_texts=64)
    (tensorrt, options), (cuda, cuda_options) = providers("tensorrt", "int8", Path("/engine"), card, 65)
    assert (tensorrt, cuda) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert options["trt_max_workspace_size"] + cuda_options["gpu_mem_limit"] == 4_000
    assert options["trt_int8_enable"]
    assert options["trt_profile_max_shapes"].split(",")[0] == "input_ids:64x72"
    ((_, alone),) = providers("onnx", "float16", Path("/engine"), card, 65)
    assert alone["gpu_mem_limit"] == 4_000
    assert alone["device_id"] == 1


def test_a_large_graph_keeps_its_weights(tmp_path: Path) -> None:
    """torch writes the weights of a graph above 1.5 GB into a file beside it, which the graph names."""
    weight = onnx.numpy_helper.from_array(np.eye(64, dtype=np.float32), "weight")
    put_in, put_out = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64]) for name in "xy")
    product = onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])
    graph = onnx.helper.make_graph([product], "large", [put_in], [put_out], [weight])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    exported, built = tmp_path / ONNX_FILE, tmp_path / "built"
    onnx.save(model, exported, save_as_external_data=True, location=f"{ONNX_FILE}.data", size_threshold=0)
    assert exported.with_name(f"{ONNX_FILE}.data").exists()
    built.mkdir()
    onnx_graph.save_half(exported, built)
    exported.with_name(f"{ONNX_FILE}.data").unlink()
    given = np.ones((1, 64), np.float32)
    assert (onnxruntime.InferenceSession(built / onnx_runner.GRAPH_FILE).run(None, {"x": given})[0] == given).all()


def test_nothing_is_reported_to_the_makers_of_a_library(tmp_path: Path) -> None:
    """OpenVINO reports its import to its makers, and NNCF its use; beside it an id of the machine is kept at home."""
    imports = "import onecard.inference.engines.openvino_runner, nncf, sys"
    reporter = "print(sys.modules['openvino_telemetry'], type(nncf.telemetry.telemetry).__name__ == 'NNCFTelemetry')"
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "NNCF", "TF_BUILD"))}
    ran = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{reporter}"],
        env={**quiet, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["None", "False"]
    assert not list(tmp_path.rglob("*openvino*"))
