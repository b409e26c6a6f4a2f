"""Which model a service has, told by its replicas."""

from onecard.cache.identity import Identity
from onecard.served import Served

OLD, NEW = (Identity("a/b", "r1", digit * 16) for digit in "01")


def test_what_a_replica_told_last_counts_also_while_it_is_away() -> None:
    """Until it, or another in its place, says something else."""
    served = Served(1)
    assert served.model(lambda _: True) is None
    served.heard(0, 200, OLD.told())
    assert served.model(lambda _: False) == OLD
    served.heard(0, 503, None)
    assert served.model(lambda _: True) == OLD
    served.heard(0, 503, NEW.told())
    assert served.model(lambda _: True) == NEW
    served.heard(0, 200, None)
    assert served.model(lambda _: True) is None


def test_a_replica_in_service_counts_before_one_that_is_out() -> None:
    """Also when it has not told its model: what is out may have been replaced by it."""
    served = Served(2)
    served.heard(0, 200, OLD.told())
    assert served.model(lambda number: number == 1) is None
    served.heard(1, 200, NEW.told())
    assert served.model(lambda number: number == 1) == NEW
    assert served.model(lambda _: True) == OLD
