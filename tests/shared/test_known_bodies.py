"""What is let through under overload."""

from hypothesis import given
from hypothesis import strategies as st

from onecard.web.recent_bodies import RecentBodies


@given(st.lists(st.binary(max_size=2)))
def test_it_knows_the_last_bodies_and_no_more(bodies: list[bytes]) -> None:
    """However many there were."""
    known = RecentBodies(max_bodies=3)
    for body in bodies:
        known.add(body)
    last = list(dict.fromkeys(reversed(bodies)))[:3]
    assert len(known) == len(last)
    assert all((body in known) == (body in last) for body in bodies)
