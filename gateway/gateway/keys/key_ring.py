"""Keys, their file format, and their look-up. Pure.

A key is 256 random bits, so it cannot be guessed from its hash: one round of SHA-256 is enough at rest, and a slow
password hash would only slow down every request.
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
"""Name of the key in API_KEY."""
_PREFIX = "onecard-"
"""Every key begins with it, so that people and secret scanners recognize one."""
_RANDOM_BYTES = 32


class InvalidKeyFile(Exception):
    """The key file cannot be used. The message says where and why, without any value."""


class Key(BaseModel):
    """A key as the file has it: its hash, not the key itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """For logs and metrics; never reused for another key."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hash of the key, in hexadecimal."""
    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The models that it may use, each by any of its names; None: all."""
    requests_per_minute: int | None = Field(default=None, ge=1, le=10**9)
    """None: the default of the settings."""
    tokens_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    """The same for tokens, of prompts and responses together."""
    revoked: bool = False
    """Whether it is no longer valid."""
    expires: AwareDatetime | None = None
    """When it stops being valid; None: never."""

    def state(self, now: datetime) -> str:
        """Whether the key is valid.

        Args:
            now: current time, with a time zone.

        Returns:
            `active`, `revoked` or `expired`.
        """
        if self.revoked:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


_FILE = TypeAdapter(tuple[Key, ...])


def new_key() -> str:
    """Create a key.

    Returns:
        The prefix and 256 random bits, URL-safe.
    """
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def hash_of(key: bytes) -> str:
    """Hash a key.

    Args:
        key: the key itself.

    Returns:
        Its SHA-256, in hexadecimal.
    """
    return hashlib.sha256(key).hexdigest()


def parse_keys(text: bytes) -> tuple[Key, ...]:
    """Parse a key file.

    Args:
        text: its content.

    Returns:
        The keys.

    Raises:
        InvalidKeyFile: it is not a JSON list of keys, two have the same name or hash, or a name is reserved.
    """
    try:
        keys = _FILE.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        location = ".".join(str(part) for part in first["loc"])
        raise InvalidKeyFile(f"{location}: {first['msg']}" if location else first["msg"]) from None
    for field, values in {"name": [key.name for key in keys], "sha256": [key.sha256 for key in keys]}.items():
        if len(set(values)) != len(values):
            raise InvalidKeyFile(f"two keys have the same {field}")
    if any(key.name == DEFAULT_KEY_NAME for key in keys):
        raise InvalidKeyFile(f"the name '{DEFAULT_KEY_NAME}' is that of API_KEY")
    return keys


def render_keys(keys: Iterable[Key]) -> bytes:
    """Render a key file.

    Args:
        keys: its keys.

    Returns:
        JSON, for `parse_keys`.
    """
    return _FILE.dump_json(tuple(keys), indent=2, exclude_defaults=True) + b"\n"


class KeyRing:
    """Keys by their hash."""

    def __init__(self, keys: Iterable[Key]) -> None:
        """Index the keys.

        Args:
            keys: all that exist, revoked ones too.
        """
        self._by_hash = {key.sha256: key for key in keys}

    def __len__(self) -> int:
        return len(self._by_hash)

    def find(self, presented: bytes, now: datetime) -> Key:
        """Find the key that a client has sent.

        The time of the look-up depends on hashes only. By measuring it one could learn the beginning of some key's
        hash, which does not lead to a key. The final comparison takes constant time.

        Args:
            presented: what the client sent.
            now: current time, with a time zone.

        Returns:
            The key.

        Raises:
            InvalidKey: it is unknown, revoked or expired.
        """  # noqa: DOC501 (what the function returns is raised)
        hashed = hash_of(presented)
        key = self._by_hash.get(hashed)
        if key is None or not hmac.compare_digest(hashed, key.sha256):
            raise unknown_key_error()
        if (state := key.state(now)) != "active":
            raise InvalidKey(f"This API key is {state}. Ask the operator for another one.")
        return key
