"""The identity of a served model, and the header that carries it between services. Pure."""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

MODEL_HEADER = "x-onecard-model"
"""Header in which a service names the model of its response; it does not leave the internal network."""
ENGINE_HEADER = "x-onecard-engine"
"""Header in which the embedding service names what computed the vectors: program, its version, and number format. It
does not leave the internal network either."""

_HEADER_VALUE = re.compile(r"([\w.~/%-]+)@([\w.~/%-]+):([0-9a-f]{16})", re.ASCII)


@dataclass(frozen=True)
class ModelIdentity:
    """A model as it is served. Responses of equal identity come from the same weights, run in the same way."""

    model: str
    revision: str
    """Commit or digest of the weights."""
    fingerprint: str
    """See `onecard.cache.keys.fingerprint`."""

    def header_value(self) -> str:
        """`model@revision:fingerprint`, quoted so that any name fits into a header."""
        return f"{quote(self.model, safe='/')}@{quote(self.revision, safe='/')}:{self.fingerprint}"


def parse_header(value: str | None) -> ModelIdentity | None:
    """Parse a value of `MODEL_HEADER`.

    Args:
        value: of the header; None if it is missing.

    Returns:
        The identity; None if the value is missing or malformed.
    """
    match = _HEADER_VALUE.fullmatch(value or "")
    return ModelIdentity(unquote(match[1]), unquote(match[2]), match[3]) if match else None
