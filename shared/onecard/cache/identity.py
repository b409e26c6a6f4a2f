"""Which model answers, and how, in a form that one service can tell another. Pure."""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

HEADER = "x-onecard-model"
"""Name of the header with which a service tells whose answer it gives; it stays between the services."""

_TOLD = re.compile(r"([\w.~/%-]+)@([\w.~/%-]+):([0-9a-f]{16})", re.ASCII)


@dataclass(frozen=True)
class Identity:
    """A model as it is served: two answers with one identity come from the same weights, run in the same way."""

    model: str
    revision: str
    """Commit or digest of the weights."""
    fingerprint: str
    """See `onecard.cache.keys.fingerprint`."""

    def told(self) -> str:
        """`model@revision:fingerprint`, quoted so that it fits into a header whatever the name is."""
        return f"{quote(self.model, safe='/')}@{quote(self.revision, safe='/')}:{self.fingerprint}"


def read(told: str | None) -> Identity | None:
    """What `told` wrote; None for anything else."""
    match = _TOLD.fullmatch(told or "")
    return Identity(unquote(match[1]), unquote(match[2]), match[3]) if match else None
