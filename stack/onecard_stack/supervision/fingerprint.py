"""A fingerprint of the settings, to see whether a running stack was started with the present ones."""

import hashlib
from collections.abc import Mapping

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
