"""A request whose answer may be kept, with all that tells it from others. Pure."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

from gateway.answers.policy import Question
from gateway.calls import Call
from onecard.cache.control import CachePolicy
from onecard.cache.identity import Identity
from onecard.cache.keys import Keyspace


@dataclass(frozen=True)
class Wanted:
    """What is asked, of which model, and what its `Cache-Control` allows."""

    question: Question
    call: Call
    model: Identity
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

        Nobody gets another's time limit or place in the queue, and who wants a new answer gets one that was begun for
        somebody who wanted that too.
        """
        headers = self.call.headers
        terms = (headers.get("x-onecard-timeout-ms"), headers.get("x-onecard-lane"), self.question.priority)
        return (self.key, self.policy.read, terms)
