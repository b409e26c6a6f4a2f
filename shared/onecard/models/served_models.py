"""Which model each replica of a service runs, according to its responses. Pure."""

from collections.abc import Callable

from onecard import logs
from onecard.models import identity
from onecard.models.identity import ModelIdentity

log = logs.logger()


class ServedModels:
    """The last reported model of each replica, by number; an unavailable replica keeps its model."""

    def __init__(self, count: int) -> None:
        """Start without any report.

        Args:
            count: number of replicas.
        """
        self._models: list[ModelIdentity | None] = [None] * count

    def observe(self, number: int, status: int, header: str | None) -> ModelIdentity | None:
        """Record the model that a response names.

        A successful response without the header clears the replica's model: its results cannot be cached. An error
        without the header may come from a proxy and changes nothing.

        Args:
            number: of the replica.
            status: HTTP status of the response.
            header: its `identity.MODEL_HEADER`; None if it is missing.

        Returns:
            The model that the response names; None if it names none.
        """
        reported = identity.parse_header(header)
        if reported is None and status >= 400:
            return None
        previous, self._models[number] = self._models[number], reported
        if previous is not None and previous != reported:
            log.info("replica has another model", replica=number, model=reported.header_value() if reported else None)
        return reported

    def of(self, number: int) -> ModelIdentity | None:
        """The last reported model of a replica, by number; None if it has reported none."""
        return self._models[number]

    def model(self, in_service: Callable[[int], bool]) -> ModelIdentity | None:
        """The model to look up cached results for.

        While replicas are replaced one by one, two models are served at once, and either is acceptable.

        Args:
            in_service: whether a replica, by number, receives requests.

        Returns:
            The model of the first replica in service; of the first one that ever reported if none is; None if none has
            reported.
        """
        numbers = range(len(self._models))
        candidates = [number for number in numbers if in_service(number)] or numbers
        return next((model for number in candidates if (model := self._models[number])), None)
