"""Which model answers, and how, in a form that one service can tell another. Pure."""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

MODEL_HEADER = "x-onecard-model"
"""Name of the header with which a service tells whose answer it gives; it stays between the services."""

_HEADER_VALUE = re.compile(r"([\w.~/%-]+)@([\w.~/%-]+):([0-9a-f]{16})", re.ASCII)


@dataclass(frozen=True)
class ModelIdentity:
    """A model as it is served: two answers with one identity come from the same weights, run in the same way."""

    model: str
    revision: str
    """Commit or digest of the weights."""
    fingerprint: str
    """See `onecard.cache.keys.fingerprint`."""

    def header_value(self) -> str:
        """`model@revision:fingerprint`, quoted so that it fits into a header whatever the name is."""
        return f"{quote(self.model, safe='/')}@{quote(self.revision, safe='/')}:{self.fingerprint}"


def parse_header(told: str | None) -> ModelIdentity | None:
    """What `told` wrote; None for anything else."""
    match = _HEADER_VALUE.fullmatch(told or "")
    return ModelIdentity(unquote(match[1]), unquote(match[2]), match[3]) if match else None
