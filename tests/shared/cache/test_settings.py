"""Where Redis is, and what a service may say about its cache."""

import ssl
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from onecard.cache.keys import CacheKind
from onecard.cache.settings import CacheSettings
from onecard.redis.address import RedisAddress, parse_nodes, parse_url
from onecard.redis.client import RedisClient
from onecard.settings import load


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache", RedisAddress("cache", 6379)),
        ("redis://cache:7000/2", RedisAddress("cache", 7000, database=2)),
        ("redis://:a%2Fb@cache", RedisAddress("cache", password="a/b")),
        ("redis://user:secret@[::1]:7000", RedisAddress("::1", 7000, username="user", password="secret")),
        ("rediss://cache?ssl_cert_reqs=CERT_NONE", RedisAddress("cache", tls=True, verify_mode=ssl.CERT_NONE)),
        ("rediss://cache?ssl_ca_certs=/ca.pem&x=1", RedisAddress("cache", tls=True, ca_file="/ca.pem")),
        ("unix:///run/redis.sock?db=1", RedisAddress("", unix_path="/run/redis.sock", database=1)),
    ],
)
def test_addresses_are_read_as_redis_clients_read_them(url: str, address: RedisAddress) -> None:
    """One REDIS_URL serves the cache, the limits and the queue."""
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url", ["cache:6379", "http://cache", "redis://", "redis://h:99999", "redis://h/x", "unix://", "redis://h/٣", ""]
)
def test_a_wrong_address_stops_the_start(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one line that names the variable."""
    with pytest.raises(ValueError, match=r"^(?!.*99999)"):
        parse_url(url)
    if url:
        monkeypatch.setenv("REDIS_URL", url)
        with pytest.raises(SystemExit, match="REDIS_URL"):
            load(CacheSettings)


@given(st.text(min_size=8, alphabet=st.characters(codec="ascii", categories=("L", "N"))))
def test_no_message_repeats_a_password(password: str) -> None:
    """Neither that of a wrong address nor the picture of a right one."""
    assume(password not in repr(RedisAddress()))
    with pytest.raises(ValueError, match="a Redis address") as caught:
        parse_url(f"redis://:{password}@cache/database")
    assert password not in str(caught.value)
    assert password not in repr(parse_url(f"redis://:{password}@cache"))


@pytest.mark.parametrize("password", ["geheim：pw", "p[geheim]x", "p[geheim"])
def test_a_password_that_an_address_cannot_hold_is_not_repeated(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own messages quote it; the start then ends with a line that goes to a log."""
    with pytest.raises(ValueError, match=r"^a Redis address .* percent-encode") as caught:
        parse_url(f"redis://:{password}@cache")
    assert "geheim" not in f"{caught.value}{caught.value.__cause__}"
    with pytest.raises(ValueError, match="host:port") as caught:
        parse_nodes(f"a,:{password}@cache", 6379)
    assert "geheim" not in str(caught.value)
    for name in ("REDIS_URL", "QUEUE_REDIS_URL", "REDIS_SENTINELS", "REDIS_CLUSTER_NODES"):
        with monkeypatch.context() as only:
            only.setenv(name, f"redis://:{password}@cache" if name.endswith("URL") else f":{password}@cache")
            with pytest.raises(SystemExit, match=f"settings: {name}: ") as stopped:
                load(CacheSettings)
        assert "geheim" not in str(stopped.value)


def test_certificates_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    """If they are needed at all."""
    missing = str(tmp_path / "none.pem")
    with pytest.raises(OSError, match="No such file"):
        RedisClient(RedisAddress(tls=True, ca_file=missing))
    RedisClient(RedisAddress(ca_file=missing))


def test_sentinels_and_clusters_are_named_beside_the_login() -> None:
    """The address says who one is and how to speak; the lists say to whom."""
    url = {"redis_url": "rediss://user:secret@ignored/2", "redis_sentinel_password": "hush"}
    address = CacheSettings.model_validate(url | {"redis_sentinels": "a:1, [::1]:2,c"}).redis_address()
    assert address.sentinels == (("a", 1), ("::1", 2), ("c", 26379))
    assert (address.sentinel_master, address.sentinel_password) == ("mymaster", "hush")
    assert (address.username, address.password, address.database, address.tls) == ("user", "secret", 2, True)
    cluster = CacheSettings.model_validate({"redis_cluster_nodes": "a,b:7000"}).redis_address()
    assert cluster.cluster_nodes == (("a", 6379), ("b", 7000))
    assert "hush" not in repr(address)


@pytest.mark.parametrize(
    "wrong",
    [
        {"REDIS_SENTINELS": "a:b"},
        {"REDIS_SENTINELS": "redis://a"},
        {"REDIS_CLUSTER_NODES": "a:99999"},
        {"REDIS_CLUSTER_NODES": "user@a"},
        {"REDIS_CLUSTER_NODES": "a", "REDIS_SENTINELS": "b"},
        {"REDIS_CLUSTER_NODES": "a", "REDIS_URL": "redis://a/1"},
        {"REDIS_ANSWER_MS": "0"},
    ],
)
def test_wrong_servers_stop_the_start(wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With one line that names the first of these variables."""
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f"settings: {next(iter(wrong))}: "):
        load(CacheSettings)


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [("chat", 3600), ("completion", 3600), ("generate", 3600), ("sentiment", 86400), ("embedding", 86400)],
)
def test_how_long_values_are_kept(kind: CacheKind, seconds: int) -> None:
    """An hour for the LLM's answers, a day for the rest."""
    assert CacheSettings().ttl_seconds(kind) == seconds


def test_host_and_port_give_way_to_an_address() -> None:
    """REDIS_URL wins, whole."""
    password = {"redis_password": "secret"}
    both = CacheSettings.model_validate({"redis_host": "a", "redis_port": 1, "redis_url": "redis://b:2"} | password)
    assert both.redis_address() == RedisAddress("b", 2)
    apart = CacheSettings.model_validate({"redis_host": "a", "redis_port": 1})
    assert apart.redis_address() == RedisAddress("a", 1)
    assert CacheSettings.model_validate(password).redis_address().password == "secret"
    assert "secret" not in repr(CacheSettings.model_validate(password))
