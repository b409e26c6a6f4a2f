"""The format of values in Redis, and the check that they are intact. Pure; unlike pickle it never runs code.

A sealed value: version (1 byte), expiry (4, Unix seconds), payload length (4), checksum (8), payload; integers are
little-endian. The checksum covers the key too, so that a value stored under another key is rejected.
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
_CUT = 1 << 31
"""Bit of a stored count of tokens: the text was cut."""

MAX_EXPIRY = 2**32 - 1
"""Latest expiry that fits, in Unix seconds: the year 2106."""

SEAL_BYTES = _HEADER.size
"""Bytes that sealing adds to a payload."""


class CorruptValue(Exception):
    """The bytes are not a value that this code stored under this key."""


def seal(key: bytes, payload: bytes, expires_at: int) -> bytes:
    """Add what is needed to verify the payload later.

    Args:
        key: under which it is stored.
        payload: the encoded value.
        expires_at: whole Unix seconds, at most `MAX_EXPIRY`.

    Returns:
        The sealed value.
    """
    header = _CHECKED_FIELDS.pack(_VERSION, expires_at, len(payload))
    return b"".join((header, _checksum(key, header, payload), payload))


def unseal(key: bytes, sealed: bytes) -> tuple[bytes, int]:
    """Verify a sealed value.

    Args:
        key: under which it was found.
        sealed: as it was found.

    Returns:
        The payload, and when it expires in Unix seconds.

    Raises:
        CorruptValue: it is cut short, changed, of another format version, or was stored under another key.
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


def _checksum(key: bytes, header: bytes, payload: bytes) -> bytes:
    digest = blake2b(header, digest_size=8)
    digest.update(_COUNT.pack(len(key)))
    digest.update(key)
    digest.update(payload)
    return digest.digest()


class Codec(Protocol[Stored_contra, Loaded_co]):
    """Encodes values of one type as bytes, and decodes them."""

    def encode(self, value: Stored_contra) -> bytes:
        """Encode a value.

        Args:
            value: to store.

        Returns:
            The bytes.

        Raises:
            ValueError: it must not be stored, such as a vector with NaN.
            TypeError: it is not of the codec's type.
        """

    def decode(self, payload: bytes) -> Loaded_co:
        """Decode a value.

        Args:
            payload: from `encode`.

        Returns:
            The value.

        Raises:
            CorruptValue: the bytes are not from this codec.
        """


@dataclass(frozen=True)
class CountedResult(Generic[T]):
    """A model's result for one text, with the number of tokens for `usage`."""

    result: T
    tokens: int
    """Tokens that the model read, less than 2^31."""
    cut: bool = False
    """Whether the text had more."""


class CountedResultCodec(Generic[T]):
    """Stores the number of tokens in front of the result."""

    def __init__(self, result_codec: Codec[T, T]) -> None:
        """Extend another codec.

        Args:
            result_codec: encodes the result itself.
        """
        self._results = result_codec

    def encode(self, value: CountedResult[T]) -> bytes:
        """Encode 4 bytes of token count, whose highest bit says that the text was cut, followed by the result.

        Args:
            value: to store.

        Returns:
            The bytes.

        Raises:
            ValueError: the result must not be stored.
        """
        return _COUNT.pack(value.tokens | (_CUT if value.cut else 0)) + self._results.encode(value.result)

    def decode(self, payload: bytes) -> CountedResult[T]:
        """Decode the result with its count.

        Args:
            payload: from `encode`.

        Returns:
            The result and its token count.

        Raises:
            CorruptValue: the bytes are too short, or hold no result.
        """
        if len(payload) < _COUNT.size:
            raise CorruptValue("no count of tokens")
        (count,) = _COUNT.unpack_from(payload)
        return CountedResult(self._results.decode(payload[_COUNT.size :]), count & ~_CUT, bool(count & _CUT))
