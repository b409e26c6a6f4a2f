"""Fingerprints of settings and code, to see whether a running stack was started with the present ones."""

import hashlib
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from onecard_stack.settings import StackSettings

_LIBRARY_VARIABLES = {
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_HOME",
    "CUDA_PATH",
    "CC",
    "VLLM_USE_FLASHINFER_SAMPLER",
}
"""Read by libraries inside the processes, in this case alone: those that the doctor and the pages advise to set."""
_COMMAND_VARIABLES = {"START_SECONDS", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"}
"""Read only by the command `onecard`; a change of them needs no restart."""
PACKAGES = (
    "onecard",
    "gateway",
    "llm_service",
    "sentiment_service",
    "embedding_service",
    "review_service",
    "onecard_stack",
)
"""Our packages that run in the processes."""


def settings_fingerprint(environment: Mapping[str, str]) -> str:
    """Hash the variables that the processes read.

    Args:
        environment: variables by name. Settings count in any case, as they are read, and a missing one as empty; for
            libraries an empty one is another value than none.

    Returns:
        Twelve hex digits (BLAKE2b, 6 bytes) that change with any of the variables and reveal none of their values.
    """
    digest = hashlib.blake2b(digest_size=6)
    values = {name.upper(): value for name, value in environment.items()}
    names = {name.upper() for name in StackSettings.model_fields} - _COMMAND_VARIABLES
    read = {name: values.get(name, "") for name in names}
    read |= {name: environment[name] for name in _LIBRARY_VARIABLES & environment.keys()}
    for name, value in sorted(read.items()):
        digest.update(f"{name}={value}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def package_folders() -> list[Path]:
    """The folders of `PACKAGES`, wherever they are installed."""
    specs = (find_spec(name) for name in PACKAGES)
    return [Path(place) for spec in specs if spec for place in spec.submodule_search_locations or ()]


def code_fingerprint(folders: Iterable[Path]) -> str:
    """Hash the files of packages.

    Args:
        folders: of the packages.

    Returns:
        Twelve hex digits (BLAKE2b, 6 bytes) that change with any file, but not with what Python compiles from them.
    """
    digest = hashlib.blake2b(digest_size=6)
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"):
            digest.update(f"{folder.name}/{path.relative_to(folder)}\0".encode(errors="surrogateescape"))
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()
