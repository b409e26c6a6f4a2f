"""Redis's wire format."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.cache.resp import Parser, ProtocolViolation, Reply, ServerError, command

scalars = st.none() | st.integers(-(2**60), 2**60) | st.binary(max_size=30)
replies_ = st.lists(scalars | st.lists(scalars, max_size=5), max_size=8)


def written(reply: object) -> bytes:
    """A reply as Redis writes it."""
    if isinstance(reply, list):
        return b"*%d\r\n" % len(reply) + b"".join(map(written, reply))
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    return b"$-1\r\n" if reply is None else b"$%d\r\n%s\r\n" % (len(reply), reply)  # type: ignore[arg-type]


@given(replies_, st.lists(st.integers(1, 20), min_size=1))
def test_replies_come_out_whole_however_the_bytes_come_in(replies: list[Reply], portions: list[int]) -> None:
    """In any portions."""
    data = b"".join(map(written, replies))
    parser = Parser()
    found: list[Reply] = []
    turn = 0
    while data:
        size = portions[turn % len(portions)]
        found += parser.feed(data[:size])
        data = data[size:]
        turn += 1
    assert found == replies


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_bytes_raise_anything_but_a_violation(portions: list[bytes]) -> None:
    """Whatever a peer sends."""
    parser = Parser()
    try:
        for portion in portions:
            parser.feed(portion)
    except ProtocolViolation:
        pass


def test_an_error_is_a_reply_with_a_code() -> None:
    """The rest of its message may quote what was asked, and goes no further."""
    (reply,) = Parser().feed(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n")
    assert isinstance(reply, ServerError)
    assert reply.code == "OOM"
    assert str(reply) == "OOM"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"$3\r\nabcde",
        b"$-2\r\n",
        b"$99999999999\r\n",
        b"*99999999\r\n",
        b"$1_0\r\n",
        b": 1\r\n",
        b"*1\r\n*0\r\n",
        b"\r\n",
        b"x" * 70_000,
    ],
)
def test_what_is_not_redis_is_noticed(data: bytes) -> None:
    """At once, without waiting for more or for memory to fill."""
    with pytest.raises(ProtocolViolation):
        Parser().feed(data)


def test_a_command_is_binary_safe() -> None:
    """Nothing in a value can end it."""
    assert command(b"SET", b"k", b"a\r\nb") == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n"
