"""Redis's wire format, as much of it as a cache needs. Pure.

Arrays of arrays, pushes and the rest of RESP3 are refused: nothing that is asked here has such an answer, so that
they can only be a stream that has lost its step.
"""

from typing import Union

_MAX_LINE_BYTES = 64 * 1024
_MAX_BULK_BYTES = 64 * 1024 * 1024
_MAX_ITEMS = 1 << 20


class ProtocolViolation(Exception):
    """The peer does not speak as Redis does. The connection cannot be used any more."""


class ServerError(Exception):
    """Redis answered with an error. Its `code` is the first word: OOM, LOADING, READONLY, NOAUTH, ERR…"""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


Scalar = bytes | int | None | ServerError
Reply = Union[Scalar, list[Scalar]]  # noqa: UP007  (a string of it would be evaluated as one)


def command(*words: bytes) -> bytes:
    """One command, ready to send."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        parts += (b"$%d\r\n" % len(word), word, b"\r\n")
    return b"".join(parts)


class Parser:
    """Bytes in any portions in, whole replies out."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = 0
        """Bytes that the buffer needs before another look is worth it: large values come in many portions."""
        self._array: list[Scalar] | None = None
        self._missing = 0

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that `data` completes.

        Raises:
            ProtocolViolation: it is not RESP, or larger than anything that was asked for.
        """
        self._buffer += data
        if len(self._buffer) < self._wanted:
            return []
        self._wanted = 0
        replies: list[Reply] = []
        at = 0
        with memoryview(self._buffer) as view:
            while (step := self._element(view, at, replies)) is not None:
                at = step
        del self._buffer[:at]
        return replies

    def _element(self, view: memoryview, at: int, replies: list[Reply]) -> int | None:
        """Read one element at `at` into `replies` or the open array; where the next begins, None if it is cut."""
        end = self._buffer.find(b"\r\n", at, at + _MAX_LINE_BYTES)
        if end < 0:
            if len(view) - at >= _MAX_LINE_BYTES:
                raise ProtocolViolation("an endless line")
            return None
        mark, line = view[at : at + 1].tobytes(), view[at + 1 : end].tobytes()
        after = end + 2
        if mark == b"$":
            return self._bulk(view, at, after, _length(line, _MAX_BULK_BYTES), replies)
        if mark == b"*":
            self._begin_array(_length(line, _MAX_ITEMS), replies)
        elif mark == b"+":
            self._add(line, replies)
        elif mark == b":":
            self._add(_integer(line), replies)
        elif mark == b"-":
            self._add(ServerError(line.split(b" ", 1)[0].decode("ascii", "replace")[:32]), replies)
        else:
            raise ProtocolViolation("an unknown mark")
        return after

    def _bulk(self, view: memoryview, at: int, begin: int, length: int | None, replies: list[Reply]) -> int | None:
        if length is None:
            self._add(None, replies)
            return begin
        end = begin + length
        if len(view) < end + 2:
            self._wanted = end + 2 - at
            return None
        if view[end : end + 2].tobytes() != b"\r\n":
            raise ProtocolViolation("a value of another length than announced")
        self._add(view[begin:end].tobytes(), replies)
        return end + 2

    def _begin_array(self, length: int | None, replies: list[Reply]) -> None:
        if self._array is not None:
            raise ProtocolViolation("an array in an array")
        if length is None:
            replies.append(None)
        elif length == 0:
            replies.append([])
        else:
            self._array, self._missing = [], length

    def _add(self, value: Scalar, replies: list[Reply]) -> None:
        if self._array is None:
            replies.append(value)
            return
        self._array.append(value)
        self._missing -= 1
        if self._missing == 0:
            replies.append(self._array)
            self._array = None


def _length(line: bytes, most: int) -> int | None:
    """A length; None for -1, which stands for nothing."""
    length = _integer(line)
    if length == -1:
        return None
    if not 0 <= length <= most:
        raise ProtocolViolation("a length out of bounds")
    return length


def _integer(line: bytes) -> int:
    # Stricter than int(), which takes spaces and underscores.
    if not line.removeprefix(b"-").isdigit() or len(line) > 20:
        raise ProtocolViolation("not a number")
    return int(line)
