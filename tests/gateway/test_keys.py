"""Keys: how one is found, how the file is read, watched and changed, and the command."""

import hmac
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.keys import key_file
from gateway.keys import key_ring as ring_module
from gateway.keys.__main__ import main
from gateway.keys.key_file import RELOAD_CHECK_SECONDS, KeyFile, editing_keys, read_keys
from gateway.keys.key_ring import InvalidKeyFile, Key, KeyRing, hash_of, new_key, parse_keys, render_keys
from onecard.errors import InvalidKey, MissingKey
from onecard.web import auth
from onecard.web.auth import MAX_KEY_BYTES, KeyGuard, bearer_key
from onecard_stack.cli import main as onecard
from tests.gateway.support import key, secret_of, write_keys

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def entries() -> st.SearchStrategy[list[Key]]:
    """Lists of keys of different names."""
    limits = st.none() | st.integers(1, 10**9)
    one = st.builds(
        Key,
        name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True).filter(lambda name: name != "default"),
        sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
        models=st.none() | st.lists(st.text(), min_size=1).map(tuple),
        requests_per_minute=limits,
        tokens_per_minute=limits,
        revoked=st.booleans(),
        expires=st.none() | st.datetimes(timezones=st.just(UTC)),
    )
    return st.lists(one, max_size=5, unique_by=(lambda key: key.name, lambda key: key.sha256))


@given(entries())
def test_what_is_written_is_what_is_read(keys: list[Key]) -> None:
    """Every field survives."""
    assert list(parse_keys(render_keys(keys))) == keys


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{}",
        b'[{"name": "a"}]',
        b'[{"name": "secret name", "sha256": "' + b"a" * 64 + b'"}]',
        b'[{"name": "a", "sha256": "secret"}]',
        b'[{"name": "default", "sha256": "' + b"a" * 64 + b'"}]',
        b'[{"name": "a", "sha256": "' + b"a" * 64 + b'", "rpm": 5}]',
        b'[{"name": "a", "sha256": "' + b"a" * 64 + b'", "requests_per_minute": 0}]',
        b'[{"name": "a", "sha256": "' + b"a" * 64 + b'", "models": []}]',
        b'[{"name": "a", "sha256": "' + b"a" * 64 + b'", "expires": "2027-01-01T00:00:00"}]',
        b'[{"name": "a", "sha256": "' + b"a" * 64 + b'"}, {"name": "a", "sha256": "' + b"b" * 64 + b'"}]',
        b'[{"name": "a", "sha256": "' + b"a" * 64 + b'"}, {"name": "b", "sha256": "' + b"a" * 64 + b'"}]',
        b"\xff",
    ],
)
def test_a_file_that_is_not_right_is_refused_without_quoting_it(text: bytes) -> None:
    """One line that says where; a value could be a key that somebody put in the wrong place."""
    with pytest.raises(InvalidKeyFile) as refused:
        parse_keys(text)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_only_the_whole_key_of_an_entry_that_counts_is_let_in() -> None:
    """Not another one, not its hash, not a part; revoked and expired ones are told so."""
    later = NOW + timedelta(days=1)
    ring = KeyRing([key("a"), key("gone", revoked=True), key("old", expires=NOW), key("new", expires=later)])
    for good in ("a", "new"):
        assert ring.find(secret_of(good).encode(), NOW).name == good
    for bad in (b"", b"x", secret_of("a").encode()[:-1], hash_of(secret_of("a").encode()).encode()):
        with pytest.raises(InvalidKey, match="not known here"):
            ring.find(bad, NOW)
    with pytest.raises(InvalidKey, match="revoked"):
        ring.find(secret_of("gone").encode(), NOW)
    with pytest.raises(InvalidKey, match="expired"):
        ring.find(secret_of("old").encode(), NOW)
    assert ring.find(secret_of("old").encode(), NOW - timedelta(microseconds=1)).name == "old"


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison that lets a key in is `compare_digest`: without it nobody comes in."""
    compared: list[Sequence[str | bytes]] = []

    def never_equal(one: str | bytes, other: str | bytes) -> bool:
        compared.append((one, other))
        return False

    fake = type("hmac", (), {"compare_digest": staticmethod(never_equal)})
    monkeypatch.setattr(ring_module, "hmac", fake)
    monkeypatch.setattr(auth, "hmac", fake)
    with pytest.raises(InvalidKey):
        KeyRing([key("a")]).find(secret_of("a").encode(), NOW)
    with pytest.raises(InvalidKey):
        KeyGuard(SecretStr("0123456789abcdef")).check("/", [b"Bearer 0123456789abcdef"])
    assert len(compared) == 2
    assert all(hmac.compare_digest(one, other) for one, other in compared)  # type: ignore[type-var]


@pytest.mark.parametrize(
    "values",
    [
        [b"Basic abc"],
        [b"abc"],
        [b"Bearer abc", b"Bearer abc"],
        [b"Bearer abc def"],
        [b"Bearer abc\tdef"],
        ["Bearer 열쇠".encode()],
        [b"Bearer \xff"],
        [b"Bearer a\x00"],
        [b"Bearer " + b"a" * (MAX_KEY_BYTES + 1)],
    ],
)
def test_a_header_that_is_not_one_key_is_refused(values: list[bytes]) -> None:
    """Two, another scheme, not ASCII, too long."""
    with pytest.raises(InvalidKey):
        bearer_key(values)


@pytest.mark.parametrize("values", [[], [b""], [b"Bearer"], [b"Bearer   "]])
def test_no_key_is_told_from_a_wrong_one(values: list[bytes]) -> None:
    """Whoever forgot it need not look for a typing error."""
    with pytest.raises(MissingKey):
        bearer_key(values)


@pytest.mark.parametrize("value", [b"Bearer abc", b"bearer abc", b"BEARER   abc "])
def test_the_scheme_is_read_as_http_reads_it(value: bytes) -> None:
    """In any case, with any number of spaces."""
    assert bearer_key([value]) == b"abc"


def test_new_keys_are_long_and_differ() -> None:
    """256 bits, in characters that a header takes."""
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for one in keys:
        assert len(one) >= 43 + len("onecard-")
        assert bearer_key([f"Bearer {one}".encode()])


def test_a_changed_file_counts_within_a_second(tmp_path: Path) -> None:
    """It is looked at once a second at most; a broken or missing one changes nothing."""
    path, now = tmp_path / "keys.json", [0.0]
    write_keys(path, [key("a")])
    watched = KeyFile(path, [key("other")], clock=lambda: now[0])
    assert len(watched.key_ring()) == 2

    write_keys(path, [key("a"), key("b")])
    now[0] += RELOAD_CHECK_SECONDS / 2
    assert len(watched.key_ring()) == 2
    now[0] += RELOAD_CHECK_SECONDS / 2
    assert len(watched.key_ring()) == 3

    for damage in (lambda: path.write_text("["), path.unlink):
        damage()
        now[0] += RELOAD_CHECK_SECONDS
        assert watched.key_ring().find(secret_of("b").encode(), NOW).name == "b"

    write_keys(path, [key("b", revoked=True)])
    now[0] += RELOAD_CHECK_SECONDS
    with pytest.raises(InvalidKey, match="revoked"):
        watched.key_ring().find(secret_of("b").encode(), NOW)


def test_a_file_that_could_not_be_read_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it has not changed since: a key that was revoked in it is refused. The log names each reason once."""
    path, now, logged = tmp_path / "keys.json", [0.0], list[str]()
    write_keys(path, [key("a")])
    watched = KeyFile(path, [], clock=lambda: now[0])
    write_keys(path, [key("a", revoked=True)])

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", refuse)
        broken.setattr(key_file.log, "error", lambda event, reason: logged.append(reason))
        for _ in range(3):
            now[0] += RELOAD_CHECK_SECONDS
            assert watched.key_ring().find(secret_of("a").encode(), NOW).name == "a"
    assert logged == ["Permission denied"]
    now[0] += RELOAD_CHECK_SECONDS
    with pytest.raises(InvalidKey, match="revoked"):
        watched.key_ring().find(secret_of("a").encode(), NOW)


def test_two_changes_at_one_moment_are_two_changes(tmp_path: Path) -> None:
    """A file of the same size and time stamp is still another file."""
    path, now = tmp_path / "keys.json", [0.0]
    write_keys(path, [key("a")])
    watched = KeyFile(path, [], clock=lambda: now[0])
    before = path.stat()
    write_keys(path, [key("b")])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    now[0] += RELOAD_CHECK_SECONDS
    assert watched.key_ring().find(secret_of("b").encode(), NOW).name == "b"


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """One after the other; readers meanwhile find a whole file, for its owner's eyes only."""
    path = tmp_path / "keys.json"

    def add(number: int) -> None:
        with editing_keys(path) as keys:
            keys.append(key(f"key{number}"))
        assert len(read_keys(path)) >= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert {one.name for one in read_keys(path)} == {f"key{number}" for number in range(40)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["keys.json"]


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    """Neither the file nor the folder."""
    path = tmp_path / "keys.json"
    write_keys(path, [key("a")])
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), editing_keys(path) as keys:
        keys.remove(keys[1 // 0])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["keys.json"]


def test_the_command_makes_lists_and_revokes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is shown once, and is neither in the file nor in the list."""
    path = tmp_path / "keys.json"
    monkeypatch.setenv("API_KEYS_FILE", str(path))
    main(["new", "--name", "app1", "--models", "one, two", "--rpm", "60", "--tpm", "1000", "--expires", "2099-01-31"])
    secret = capsys.readouterr().out.strip()
    made = KeyRing(read_keys(path)).find(secret.encode(), NOW)
    assert (made.name, made.models) == ("app1", ("one", "two"))
    assert (made.requests_per_minute, made.tokens_per_minute) == (60, 1000)
    assert made.expires == datetime(2099, 1, 31, tzinfo=UTC)
    assert secret not in path.read_text()

    main(["revoke", "app1"])
    main(["list"])
    listed = capsys.readouterr().out
    assert "revoked" in listed
    assert secret not in listed
    assert made.sha256 not in listed
    with pytest.raises(InvalidKey, match="revoked"):
        KeyRing(read_keys(path)).find(secret.encode(), NOW)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["new", "--name", "a"], "already"),
        (["new", "--name", "default"], "API_KEY"),
        (["new", "--name", "b c"], "name"),
        (["new", "--name", "b", "--rpm", "0"], "requests_per_minute"),
        (["new", "--name", "b", "--expires", "2026-01-01"], "--expires 2026-01-01 00:00 UTC is past"),
        (["new", "--name", "b", "--expires", "2026-01-01T00:00+09:00"], "is past"),
        (["revoke", "b"], "no key 'b'"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    """And leaves the file as it is."""
    path = tmp_path / "keys.json"
    write_keys(path, [key("a")])
    with pytest.raises(SystemExit) as refused:
        main(["--file", str(path), *arguments])
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(read_keys(path)) == [key("a")]


def test_onecard_keys_is_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the file by `.env`, too; options and help are the command's own."""
    monkeypatch.setenv("API_KEYS_FILE", "")  # Remembered, since the command sets it from `.env`.
    monkeypatch.delenv("API_KEYS_FILE")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("API_KEYS_FILE=keys.json\n")
    runner = CliRunner()
    assert runner.invoke(onecard, ["keys", "new", "--name", "app1", "--rpm", "5"]).exit_code == 0
    assert [one.requests_per_minute for one in read_keys(tmp_path / "keys.json")] == [5]
    assert "app1" in runner.invoke(onecard, ["keys", "list"]).output
    assert "revoke" in runner.invoke(onecard, ["keys", "--help"]).output


def test_the_command_needs_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which variable to set."""
    monkeypatch.delenv("API_KEYS_FILE", raising=False)
    with pytest.raises(SystemExit, match="API_KEYS_FILE"):
        main(["list"])
