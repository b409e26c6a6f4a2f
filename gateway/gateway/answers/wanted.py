"""A request whose answer may be kept, with all that tells it from others. Pure."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

from gateway.answers.policy import Question
from gateway.calls import Call
from onecard.cache.cache_policy import CachePolicy
from onecard.cache.keys import Keyspace
from onecard.models.identity import ModelIdentity
from onecard.web.request_parsing import TIMEOUT_HEADER


@dataclass(frozen=True)
class Wanted:
    """What is asked, of which model, and what its `Cache-Control` allows."""

    question: Question
    call: Call
    model: ModelIdentity
    policy: CachePolicy

    @cached_property
    def key(self) -> bytes:
        """The name of the kept answer."""
        model = self.model
        space = Keyspace(self.question.kind, model.model, model.revision, model.fingerprint)
        return space.for_json(self.question.material)

    @property
    def flight(self) -> Hashable:
        """Equal for requests that may share one computation.

        Who shares has the place of the one who asked first, in the queue for the service too. Who names a time limit
        shares with nobody, for the service is told of it. Who wants a new answer gets one that was begun for somebody
        who wanted that too.
        """
        lane = self.call.headers.get("x-onecard-lane")
        return (self.key, self.policy.read, lane, self.question.priority, id(self) if self.is_alone else None)

    @property
    def is_alone(self) -> bool:
        """It shares with nobody."""
        return TIMEOUT_HEADER in self.call.headers
