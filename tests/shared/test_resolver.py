"""Names are looked up by a thread, and a name server may be away, slow, or wrong."""

import asyncio
import socket
import threading

import pytest

from onecard import resolver
from onecard.resolver import Resolver


class Names:
    """What a name leads to; a test changes it."""

    def __init__(self) -> None:
        self.asked = 0
        self.found: list[str] | Exception = ["10.0.0.1", "10.0.0.2"]

    def look_up(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        self.asked += 1
        if isinstance(self.found, Exception):
            raise self.found
        return [(None, None, None, "", (address, port)) for address in self.found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    return names


async def test_an_address_is_its_own_outcome(names: Names) -> None:
    for address in ("127.0.0.1", "::1"):
        assert await Resolver(address, 80, 10.0).addresses() == [address]
    assert names.asked == 0


async def test_each_address_comes_first_in_turn(names: Names) -> None:
    looking = Resolver("service", 80, 10.0)
    firsts = {(await looking.addresses())[0] for _ in range(3)}
    assert firsts == {"10.0.0.1", "10.0.0.2"}
    assert names.asked == 1


async def test_without_keeping_each_call_looks_up(names: Names) -> None:
    """One look-up for all who ask meanwhile."""
    looking = Resolver("redis", 6379)
    await asyncio.gather(*(looking.addresses() for _ in range(10)))
    assert names.asked == 1
    await looking.addresses()
    assert names.asked == 2


@pytest.mark.parametrize("fault", [OSError("away"), UnicodeError("no name"), KeyError("?")])
async def test_a_failing_look_up_is_an_os_error_and_the_next_one_may_work(names: Names, fault: Exception) -> None:
    good, names.found = names.found, fault
    looking = Resolver("service", 80, 10.0)
    with pytest.raises(OSError, match=r"away|no look-up"):
        await looking.addresses()
    names.found = good
    assert await looking.addresses() == good


async def test_what_is_known_is_used_while_the_name_server_is_away(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However old it is; and it is asked again, but not with every call."""
    monkeypatch.setattr(resolver, "OLD_SECONDS", 0.0)
    looking = Resolver("service", 80, 0.01)
    known = await looking.addresses()
    names.found = OSError("away")
    await asyncio.sleep(0.02)
    for _ in range(20):
        assert set(await looking.addresses()) == set(known)
    assert names.asked == 2


async def test_what_is_very_old_is_looked_up_first(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "OLD_SECONDS", 0.05)
    looking = Resolver("service", 80, 0.01)
    await looking.addresses()
    names.found = ["10.0.0.3"]
    await asyncio.sleep(0.1)
    assert await looking.addresses() == ["10.0.0.3"]


async def test_a_machine_without_threads_is_no_end(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on processes may hold for a moment."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    looking = Resolver("service", 80, 10.0)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="no thread"):
            await looking.addresses()
    assert await looking.addresses()
