"""What a built engine is, and whether it may serve a model here. Reads files; imports no engine's library."""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from onecard.gpu.device import instruction_set
from onecard.hardware import cpu_multiplies_bfloat16
from onecard.inference.engines.names import Arithmetic, EncoderKind, EngineName, Precision
from onecard.inference.engines.parity import GATES, Parity
from onecard.models.folders import ModelFolder

MANIFEST = "engine.json"
TOKENIZER_FILE = "tokenizer.json"
"""The model's tokenizer, as transformers has loaded it; an engine is served without transformers."""

FORMAT: Literal[2] = 2
"""Changes when older engines cannot be read any more, or would compute otherwise than when they were measured."""

LIBRARIES: dict[EngineName, tuple[str, ...]] = {
    "onnx": ("onnxruntime-gpu", "onnxruntime"),
    "openvino": ("openvino",),
    "tensorrt": ("onnxruntime-gpu",),
}
"""The distributions that run an engine, the first that is installed."""


class EngineManifest(BaseModel, frozen=True):
    """Content of `engine.json`."""

    format: Literal[2] = FORMAT
    inputs: str
    """Digest of everything that the engine was built from; the end of its folder's name."""
    kind: EncoderKind
    model: str
    revision: str
    """Of the weights."""
    model_files: str
    """Digest of the model's small files: see `model_files.digest`."""
    engine: EngineName
    precision: Precision
    arithmetic: Arithmetic
    library: str
    """Distribution and version, such as `openvino 2026.4.1`."""
    device: Literal["cpu", "cuda"]
    batch_texts: int | None = None
    """On a card, most texts in a batch that its shapes allow."""
    instruction_set: tuple[str, ...]
    """Of the processor or card that it was built and measured on."""
    recipe: str
    """How it was quantised; which parts were left out."""
    window: int
    vocab_size: int
    pad_id: int
    result_size: int
    """Components of a result: those of a vector; 1 for a probability."""
    parity: Parity
    texts_per_second: float
    """Of some of the gate's texts, in batches of 32, where it was built."""
    torch_texts_per_second: float
    """The same by torch as it would serve there, measured in turns with the engine."""
    files: dict[str, str]
    """SHA-256 by name."""

    @property
    def description(self) -> str:
        """The program and its version, for metrics, `/v1/models` and cache keys."""
        return f"{self.library}{' TensorRT' if self.engine == 'tensorrt' else ''}"

    @property
    def half_precision(self) -> str | None:
        """The half precision that it computes in, if any.

        What is not quantised is FP16 in TensorRT, and bfloat16 in OpenVINO where the processor has it.
        """
        if self.engine == "tensorrt":
            return "float16"
        is_mixed = self.engine == "openvino" and self.arithmetic == "int8"
        computed_in = openvino_arithmetic() if is_mixed else self.arithmetic
        return computed_in if computed_in in ("float16", "bfloat16") else None


def openvino_arithmetic() -> Arithmetic:
    """The number format in which OpenVINO computes on this processor what is not quantised."""
    return "bfloat16" if cpu_multiplies_bfloat16() else "float32"


def installed_library(engine: EngineName) -> str | None:
    """The library that would run an engine here.

    Args:
        engine: its name.

    Returns:
        Distribution and version; None if none is installed. Nothing is imported.
    """
    for distribution in LIBRARIES[engine]:
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return None


def read(folder: Path) -> EngineManifest | str:
    """Read the manifest of an engine's folder.

    Args:
        folder: of the engine.

    Returns:
        The manifest, or why it cannot be read.
    """
    try:
        return EngineManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError:
        return f"{MANIFEST} cannot be read"
    except ValidationError:
        return f"{MANIFEST} is damaged, or of another version of Onecard"


def refusal(
    manifest: EngineManifest, model: ModelFolder, model_files: str, device: str, batch_texts: int, *, use_fp16: bool
) -> str | None:
    """Why an engine may not serve a model here, apart from damaged files.

    Args:
        manifest: of the engine.
        model: to serve.
        model_files: digest of the model's small files.
        device: `cpu` or `cuda`.
        batch_texts: most texts in a batch here.
        use_fp16: whether half precision is allowed.

    Returns:
        The reason, as the end of a sentence; None if it may.
    """
    if (manifest.model, manifest.revision, manifest.model_files) != (model.name, model.revision, model_files):
        return f"it was built from {manifest.model} at {manifest.revision[:12]}, not from the model served here"
    if manifest.device != device:
        return f"it was built for {manifest.device}, and this process runs on {device}"
    if manifest.instruction_set != instruction_set(device):
        return "it was built and measured on a machine with another instruction set"
    if manifest.batch_texts is not None and manifest.batch_texts < batch_texts:
        return f"it was built for batches of {manifest.batch_texts} texts, and here they have up to {batch_texts}"
    if manifest.half_precision and not use_fp16:
        return f"it computes in {manifest.half_precision}, and USE_FP16=false"
    if manifest.library != (installed := installed_library(manifest.engine)):
        return f"it was built with {manifest.library}, and here is {installed or 'none'}"
    if faults := GATES[manifest.precision].faults(manifest.parity):
        return f"its results are too far from torch's: {'; '.join(faults)}"
    return None


def damage(manifest: EngineManifest, folder: Path) -> str | None:
    """Compare an engine's files with their digests.

    Args:
        manifest: of the engine.
        folder: of the engine.

    Returns:
        What is wrong, as the end of a sentence; None if nothing is.
    """
    for name, digest in manifest.files.items():
        try:
            if sha256(folder / name) != digest:
                return f"{name} is damaged or cut short"
        except OSError:
            return f"{name} cannot be read"
    return None


def sha256(path: Path) -> str:
    """The SHA-256 of a file.

    Args:
        path: of the file.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
