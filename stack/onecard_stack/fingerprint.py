"""Tells whether a running stack still has the settings that a new start would give it."""

import hashlib
from collections.abc import Mapping

from onecard_stack.settings import StackSettings


def of(environment: Mapping[str, str]) -> str:
    """Twelve hex digits that change when a variable that some part reads does. No value can be read out of them."""
    digest = hashlib.blake2b(digest_size=6)
    for name in sorted(StackSettings.model_fields):
        digest.update(f"{name}={environment.get(name.upper(), '')}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
