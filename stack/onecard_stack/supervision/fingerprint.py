"""Tells whether a running stack still has the settings that a new start would give it."""

import hashlib
from collections.abc import Mapping

from onecard_stack.settings import StackSettings

_LIBRARY_VARIABLES = {"OMP_NUM_THREADS"}
"""Read by the libraries of a part."""
_COMMAND_VARIABLES = {"START_SECONDS", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"}
"""Of no account once the stack runs."""


def settings_fingerprint(environment: Mapping[str, str]) -> str:
    """Twelve hex digits that change when a variable that some part reads does. No value can be read out of them."""
    digest = hashlib.blake2b(digest_size=6)
    names = {name.upper() for name in StackSettings.model_fields} | _LIBRARY_VARIABLES
    for name in sorted(names - _COMMAND_VARIABLES):
        digest.update(f"{name}={environment.get(name, '')}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
