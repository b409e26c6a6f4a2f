"""A cacheable request, with everything that its cache key depends on. Pure."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

from gateway.answers.cache_policy import CacheableRequest
from gateway.upstream.request import UpstreamRequest
from onecard.cache.directives import CachePolicy
from onecard.cache.keys import Keyspace, canonical
from onecard.models.identity import ModelIdentity
from onecard.web.request_parsing import TIMEOUT_HEADER


@dataclass(frozen=True)
class CacheLookup:
    """Request, model, and what the `Cache-Control` header allows."""

    request: CacheableRequest
    upstream_request: UpstreamRequest
    model: ModelIdentity
    cache_control: CachePolicy

    @cached_property
    def key(self) -> bytes:
        """Cache key of the response."""
        model = self.model
        space = Keyspace(self.request.kind, model.model, model.revision, model.fingerprint)
        return space.for_json(self.request.key_fields)

    @property
    def flight_key(self) -> Hashable:
        """Equal for requests that may share a computation.

        The shared computation is that of the request that started it: in its lane, with its priority, and refused if
        the service refuses that request, for its content type or for a field without effect. So only requests that are
        equal in all of this join. A request with a time limit of its own shares with none, because the limit is passed
        to the service. A request that must not read the cache (`no-cache`) only shares with requests like it.
        """
        headers = self.upstream_request.headers
        sent = (headers.get("x-onecard-lane"), headers.get("content-type"), canonical(self.request.unkeyed_fields))
        return (self.key, self.cache_control.read, *sent, id(self) if self.is_unshared else None)

    @property
    def is_unshared(self) -> bool:
        """Whether it shares with no other request."""
        return TIMEOUT_HEADER in self.upstream_request.headers
