"""What a client may ask of the cache."""

import pytest

from onecard.cache.directives import CachePolicy, parse

USE, RENEW, LEAVE = CachePolicy(True, True), CachePolicy(False, True), CachePolicy(False, False)


@pytest.mark.parametrize(
    ("header", "policy"),
    [
        (None, USE),
        ("", USE),
        ("max-age=0, must-revalidate", USE),
        ("no-cache", RENEW),
        (" No-Cache ,max-age=3", RENEW),
        ("no-cache=field", RENEW),
        ("no-cache, no-store", LEAVE),
        ("NO-STORE", LEAVE),
        ("no-stores, xno-cache", USE),
        ('x="a, no-store, b"', USE),
        ('x="a\\", b", no-store', LEAVE),
        (",,;=", USE),
    ],
)
def test_directives(header: str | None, policy: CachePolicy) -> None:
    """In any case and order; what is quoted is somebody's value."""
    assert parse(header) == policy
