"""A request whose answer may be kept, with all that tells it from others. Pure."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

from gateway.answers.policy import Question
from gateway.calls import Call
from onecard.cache.control import CachePolicy
from onecard.cache.identity import Identity
from onecard.cache.keys import Keyspace
from onecard.wire import TIMEOUT_HEADER


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

        Who shares has the place of the one who asked first, in the queue for the service too. Who has a time limit of
        its own shares with nobody: what is under way has used up a part of its own. Who wants a new answer gets one
        that was begun for somebody who wanted that too.
        """
        headers = self.call.headers
        alone = id(self) if TIMEOUT_HEADER in headers else None
        return (self.key, self.policy.read, headers.get("x-onecard-lane"), self.question.priority, alone)
