"""A fingerprint of the settings, to see whether a running stack was started with the present ones."""

import hashlib
from collections.abc import Mapping

from onecard_stack.settings import StackSettings

_LIBRARY_VARIABLES = {"OMP_NUM_THREADS"}
"""Read by libraries inside the processes."""
_COMMAND_VARIABLES = {"START_SECONDS", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"}
"""Read only by the command `onecard`; a change of them needs no restart."""


def settings_fingerprint(environment: Mapping[str, str]) -> str:
    """Hash the variables that the processes read.

    Args:
        environment: variables by name, in any case, as settings are read. A missing one counts as empty.

    Returns:
        Twelve hex digits (BLAKE2b, 6 bytes) that change with any of the variables and reveal none of their values.
    """
    digest = hashlib.blake2b(digest_size=6)
    values = {name.upper(): value for name, value in environment.items()}
    names = {name.upper() for name in StackSettings.model_fields} | _LIBRARY_VARIABLES
    for name in sorted(names - _COMMAND_VARIABLES):
        digest.update(f"{name}={values.get(name, '')}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
