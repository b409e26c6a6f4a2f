"""Keys and how one is found. Pure.

A key is 256 random bits, so that nobody can guess its way from a hash back to it: one round of SHA-256 is right at
rest, and a slow password hash would only make every request slow.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from onecard.errors import InvalidKey
from onecard.web.auth import unknown_key_error

DEFAULT_KEY_NAME = "default"
"""Name of the key in the variable API_KEY."""
_PREFIX = "onecard-"
"""Begins every key, so that people and scanners of repositories know one when they see it."""
_RANDOM_BYTES = 32


class InvalidKeyFile(Exception):
    """A list of keys that cannot be used. The message says where and why, and repeats no value."""


class Key(BaseModel):
    """One key, as the file has it: not the key itself, but its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """What logs and metrics call it; never used again for another key."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hash of the key, in hexadecimal."""
    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The models that it may use, each by any of its names; None: all."""
    requests_per_minute: int | None = Field(default=None, ge=1, le=10**9)
    """None: as many as the settings say."""
    tokens_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    """The same for tokens, of prompts and answers together."""
    revoked: bool = False
    """It counts no longer."""
    expires: AwareDatetime | None = None
    """From then on it counts no longer."""

    def state(self, now: datetime) -> str:
        """`active`, `revoked` or `expired`."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


_FILE = TypeAdapter(tuple[Key, ...])


def new_key() -> str:
    """A key that nobody can guess."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def hash_of(key: bytes) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key).hexdigest()


def parse_keys(text: bytes) -> tuple[Key, ...]:
    """The keys in a file.

    Raises:
        BadKeys: it is not a JSON list of keys, or a name or a key is in it twice.
    """
    try:
        keys = _FILE.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidKeyFile(f"{place}: {first['msg']}" if place else first["msg"]) from None
    for field, values in {"name": [key.name for key in keys], "sha256": [key.sha256 for key in keys]}.items():
        if len(set(values)) != len(values):
            raise InvalidKeyFile(f"two keys have the same {field}")
    if any(key.name == DEFAULT_KEY_NAME for key in keys):
        raise InvalidKeyFile(f"the name '{DEFAULT_KEY_NAME}' is that of API_KEY")
    return keys


def render_keys(keys: Iterable[Key]) -> bytes:
    """The file's text, for `parse`."""
    return _FILE.dump_json(tuple(keys), indent=2, exclude_defaults=True) + b"\n"


class KeyRing:
    """Keys by their hash."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._by_hash = {key.sha256: key for key in keys}

    def __len__(self) -> int:
        return len(self._by_hash)

    def find(self, presented: bytes, now: datetime) -> Key:
        """The key that was presented.

        The look-up's time depends on hashes alone. Whoever could measure it would learn the beginning of some key's
        hash, which leads to no key; the comparison that decides takes the same time whatever differs.

        Raises:
            InvalidKey: there is no such key, or it counts no longer.
        """
        hashed = hash_of(presented)
        key = self._by_hash.get(hashed)
        if key is None or not hmac.compare_digest(hashed, key.sha256):
            raise unknown_key_error()
        if (state := key.state(now)) != "active":
            raise InvalidKey(f"This API key is {state}. Ask the operator for another one.")
        return key
