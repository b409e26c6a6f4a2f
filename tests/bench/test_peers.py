"""Pins of the peers' environments."""

import pytest

from bench.peers import INFINITY, LITELLM, PeerEnvironment


@pytest.mark.parametrize("peer", [INFINITY, LITELLM], ids=lambda peer: peer.name)
def test_every_distribution_is_pinned_once(peer: PeerEnvironment) -> None:
    """Nothing is resolved while installing, so a run of next year compares with the same peer."""
    lines = [line for line in peer.requirements.read_text().splitlines() if not line.startswith("#")]
    pins = peer.pins()
    assert len(pins) == len(lines)
    assert all(name == name.strip() and pin for name, pin in pins.items())
    assert peer.version() == pins[peer.distribution]
