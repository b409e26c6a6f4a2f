"""Which model a service has, told by its replicas."""

from onecard.models.identity import ModelIdentity
from onecard.models.served_models import ServedModels

OLD, NEW = (ModelIdentity("a/b", "r1", digit * 16) for digit in "01")


def test_what_a_replica_told_last_counts_also_while_it_is_away() -> None:
    """Until it, or another in its place, says something else."""
    served = ServedModels(1)
    assert served.model(lambda _: True) is None
    served.observe(0, 200, OLD.header_value())
    assert served.model(lambda _: False) == OLD
    served.observe(0, 503, None)
    assert served.model(lambda _: True) == OLD
    served.observe(0, 503, NEW.header_value())
    assert served.model(lambda _: True) == NEW
    served.observe(0, 200, None)
    assert served.model(lambda _: True) is None


def test_each_replica_has_its_own() -> None:
    """The one that it named last."""
    served = ServedModels(2)
    served.observe(1, 200, OLD.header_value())
    assert (served.of(0), served.of(1)) == (None, OLD)


def test_a_replica_in_service_counts_before_one_that_is_out() -> None:
    """Also when it has not told its model: what is out may have been replaced by it."""
    served = ServedModels(2)
    served.observe(0, 200, OLD.header_value())
    assert served.model(lambda number: number == 1) is None
    served.observe(1, 200, NEW.header_value())
    assert served.model(lambda number: number == 1) == NEW
    assert served.model(lambda _: True) == OLD
