"""A request whose answer may be kept, with all that tells it from others. Pure."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

from gateway.answers.cache_policy import CacheableRequest
from gateway.upstream.request import UpstreamRequest
from onecard.cache.directives import CachePolicy
from onecard.cache.keys import Keyspace
from onecard.models.identity import ModelIdentity
from onecard.web.request_parsing import TIMEOUT_HEADER


@dataclass(frozen=True)
class CacheLookup:
    """What is asked, of which model, and what its `Cache-Control` allows."""

    request: CacheableRequest
    upstream_request: UpstreamRequest
    model: ModelIdentity
    cache_control: CachePolicy

    @cached_property
    def key(self) -> bytes:
        """The name of the kept answer."""
        model = self.model
        space = Keyspace(self.request.kind, model.model, model.revision, model.fingerprint)
        return space.for_json(self.request.key_fields)

    @property
    def flight_key(self) -> Hashable:
        """Equal for requests that may share one computation.

        Who shares has the place of the one who asked first, in the queue for the service too. Who names a time limit
        shares with nobody, for the service is told of it. Who wants a new answer gets one that was begun for somebody
        who wanted that too.
        """
        lane = self.upstream_request.headers.get("x-onecard-lane")
        return (self.key, self.cache_control.read, lane, self.request.priority, id(self) if self.is_unshared else None)

    @property
    def is_unshared(self) -> bool:
        """It shares with nobody."""
        return TIMEOUT_HEADER in self.upstream_request.headers
