"""How a value lies in Redis, and how it is known to be whole. Pure; nothing here can run code, as pickle would.

Sealed: version (1 byte), expiry (4, Unix seconds), payload length (4), checksum (8), payload; integers little-endian.
The checksum covers the key too: a value that was written for another key does not open.
"""

import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
Stored_contra = TypeVar("Stored_contra", contravariant=True)
Loaded_co = TypeVar("Loaded_co", covariant=True)

_VERSION = 1
_HEADER = struct.Struct("<BII8s")
_CHECKED_FIELDS = struct.Struct("<BII")
_COUNT = struct.Struct("<I")

MAX_EXPIRY = 2**32 - 1
"""In Unix seconds: in 2106."""

SEAL_BYTES = _HEADER.size
"""What sealing adds to a payload."""


class CorruptValue(Exception):
    """The bytes are not a value that this code wrote under this key."""


def seal(key: bytes, payload: bytes, expires_at: int) -> bytes:
    """The payload with what is needed to know it again. `expires_at` in whole Unix seconds."""
    facts = _CHECKED_FIELDS.pack(_VERSION, expires_at, len(payload))
    return b"".join((facts, _checksum(key, facts, payload), payload))


def unseal(key: bytes, sealed: bytes) -> tuple[bytes, int]:
    """The payload, and when it expires in Unix seconds.

    Raises:
        Corrupt: cut, changed, of another version, or of another key.
    """
    if len(sealed) < _HEADER.size:
        raise CorruptValue("shorter than a header")
    version, expires_at, length, checksum = _HEADER.unpack_from(sealed)
    payload = sealed[_HEADER.size :]
    if version != _VERSION or length != len(payload):
        raise CorruptValue("another version or length")
    if checksum != _checksum(key, sealed[: _CHECKED_FIELDS.size], payload):
        raise CorruptValue("wrong checksum")
    return payload, expires_at


def _checksum(key: bytes, facts: bytes, payload: bytes) -> bytes:
    digest = blake2b(facts, digest_size=8)
    digest.update(_COUNT.pack(len(key)))
    digest.update(key)
    digest.update(payload)
    return digest.digest()


class Codec(Protocol[Stored_contra, Loaded_co]):
    """Turns values of one type into bytes, and bytes into what is read back."""

    def encode(self, value: Stored_contra) -> bytes:
        """The value as bytes.

        Raises:
            ValueError, TypeError: it is not one to keep.
        """

    def decode(self, payload: bytes) -> Loaded_co:
        """The value that `encode` took.

        Raises:
            Corrupt: it is not one of this codec's.
        """


@dataclass(frozen=True)
class CountedResult(Generic[T]):
    """What a model made of a text."""

    result: T
    tokens: int
    """Tokens that the model read."""


class CountedResultCodec(Generic[T]):
    """The number of tokens, and the result as another codec writes it."""

    def __init__(self, results: Codec[T, T]) -> None:
        """Leave the result itself to `results`."""
        self._results = results

    def encode(self, value: CountedResult[T]) -> bytes:
        """4 bytes of count, and the result.

        Raises:
            ValueError: the result is not one to keep.
        """
        return _COUNT.pack(value.tokens) + self._results.encode(value.result)

    def decode(self, payload: bytes) -> CountedResult[T]:
        """The result with its count.

        Raises:
            Corrupt: too short, or no result.
        """
        if len(payload) < _COUNT.size:
            raise CorruptValue("no count of tokens")
        return CountedResult(self._results.decode(payload[_COUNT.size :]), _COUNT.unpack_from(payload)[0])
