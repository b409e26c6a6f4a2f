"""Which model each replica of a service has, as its answers tell. Pure."""

from collections.abc import Callable

from onecard import logs
from onecard.models import identity
from onecard.models.identity import ModelIdentity

log = logs.logger()


class ServedModels:
    """What was heard last of each replica, by number. One that is away keeps it: nothing has taken its place yet."""

    def __init__(self, count: int) -> None:
        self._models: list[ModelIdentity | None] = [None] * count

    def observe(self, number: int, status: int, told: str | None) -> ModelIdentity | None:
        """Take note of the `identity.MODEL_HEADER` of an answer that has just come; the model it names, if any.

        A replica that answers well and does not name its model has none that answers can be kept of. Errors without it
        may be a proxy's, and are no other model.
        """
        found = identity.parse_header(told)
        if found is None and status >= 400:
            return None
        before, self._models[number] = self._models[number], found
        if before is not None and before != found:
            log.info("replica has another model", replica=number, model=found.header_value() if found else None)
        return found

    def model(self, in_service: Callable[[int], bool]) -> ModelIdentity | None:
        """The model of the first replica that is in service; if none is, of the first that ever was; None if unknown.

        While replicas are exchanged one by one, two models are served at once, and either is a right one.
        """
        numbers = range(len(self._models))
        asked = [number for number in numbers if in_service(number)] or numbers
        return next((model for number in asked if (model := self._models[number])), None)
