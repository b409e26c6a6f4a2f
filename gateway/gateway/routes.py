"""The table of the relayed routes: everything the gateway does for a route depends on its line here. Pure."""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from fastapi.responses import Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope

from gateway import schemas
from gateway.request_body import JsonBody, json_of
from onecard.cache.keys import CacheKind

Handler = Callable[[Scope, Receive], Awaitable[Response]]
"""Answers the requests of a route. Load shedding and caches are handlers around the one that relays."""
ServiceName = Literal["llm", "sentiment", "embedding", "review"]
LLM_KINDS = frozenset[CacheKind | None]({"chat", "completion", "generate"})
"""Kinds of LLM responses. Requests with equivalent fields share one."""
ENCODER_KINDS = frozenset[CacheKind | None]({"embedding", "sentiment"})
"""Kinds of an encoder's responses. Requests with identical bodies share one."""


class Cost(NamedTuple):
    """What a request counts against its key's limits: one request, and the tokens of its prompt, by its length."""

    writes: bool = False
    """Whether an LLM generates the response, whose tokens then count too."""
    answer_fields: tuple[str, ...] = ()
    """Body fields that limit the tokens of one response; the first one present applies."""


PROMPT = Cost()
SUMMARY = Cost(writes=True)


@dataclass(frozen=True)
class Route:
    """A path that is relayed to a service."""

    method: str
    path: str
    """`{…}` matches any segment."""
    service: ServiceName
    summary: str
    documentation: Mapping[str, Any] = field(default_factory=dict)
    """Its body and parameters, as OpenAPI has them."""
    cost: Cost | None = None
    """None: it counts against no limit."""
    cache: CacheKind | None = None
    """Kind of the cached responses; None: they are not cached."""
    makes_cache_keys: bool = True
    """Whether cache keys are made of its bodies, which are then parsed exactly."""

    @property
    def span_name(self) -> str:
        """Name of its spans."""
        return f"{self.method} {self.path}"

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """Matches the paths of its requests; None for a fixed path."""
        return compile_path(self.path)[0] if "{" in self.path else None

    def json(self, scope: Scope) -> JsonBody:
        """The body of one of its requests.

        Args:
            scope: of the request.

        Returns:
            The body, which is parsed when needed.
        """
        return json_of(scope, is_exact=self.makes_cache_keys and self.cache in LLM_KINDS)


class RouteTable:
    """Routes, looked up by method and path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Index the routes.

        Args:
            routes: the first one that matches a request applies.
        """
        self.routes = tuple(routes)
        self._by_path = {(route.method, route.path): route for route in self.routes if route.pattern is None}
        self._with_pattern = [(route, route.pattern) for route in self.routes if route.pattern is not None]

    def __iter__(self) -> Iterator[Route]:
        return iter(self.routes)

    def without_cache_keys(self) -> "RouteTable":
        """The same routes for a gateway whose cache is off: the faster parser is enough there.

        Returns:
            A new table.
        """
        return RouteTable(replace(route, makes_cache_keys=False) for route in self.routes)

    def find(self, method: str, path: str) -> Route | None:
        """The route of a request.

        Args:
            method: in upper case.
            path: decoded.

        Returns:
            The route; None if the request is not relayed.
        """
        fixed = self._by_path.get((method, path))
        if fixed is not None:
            return fixed
        matching = (route for route, pattern in self._with_pattern if route.method == method and pattern.match(path))
        return next(matching, None)

    def cost(self, method: str, path: str) -> Cost | None:
        """What a request counts against limits. A POST always counts, even to an unknown path.

        Args:
            method: in upper case.
            path: decoded.

        Returns:
            The cost; None if the request counts against no limit.
        """
        route = self.find(method, path)
        if route is None:
            return PROMPT if method == "POST" else None
        return route.cost

    def json(self, scope: Scope) -> JsonBody:
        """The body of any request, relayed or not.

        Args:
            scope: of the request.

        Returns:
            The body, which is parsed when needed.
        """
        route = self.find(scope["method"], scope["path"])
        return json_of(scope) if route is None else route.json(scope)


_CHAT = Cost(True, ("max_completion_tokens", "max_tokens"))
_TEXT = Cost(True, ("max_tokens",))
_RESPONSE = Cost(True, ("max_output_tokens",))
_RESTAURANT = "/v1/restaurants/{restaurant_id}"
_BY_RESTAURANT = schemas.path("restaurant_id")
_BY_REVIEW = schemas.path("review_id")

# `/v1/responses` is not cached, because the server keeps state for each response.
# fmt: off
ROUTES = RouteTable((
    Route("POST", "/v1/chat/completions", "llm", "Chat, as OpenAI's API has it.", schemas.CHAT, _CHAT, "chat"),
    Route("POST", "/v1/completions", "llm", "Completion of a text, as OpenAI's API has it.", schemas.COMPLETIONS, _TEXT, "completion"),  # noqa: E501
    Route("POST", "/v1/responses", "llm", "A response, as OpenAI's API has it.", schemas.RESPONSES, _RESPONSE),
    Route("POST", "/tokenize", "llm", "Token ids of a text.", schemas.TOKENIZE, PROMPT),
    Route("POST", "/detokenize", "llm", "The text of token ids.", schemas.DETOKENIZE, PROMPT),
    Route("POST", "/generate", "llm", "Completion of a raw prompt, in one short answer.", schemas.GENERATE, _TEXT, "generate"),  # noqa: E501
    Route("POST", "/v1/embeddings", "embedding", "Unit vectors of texts, as OpenAI's API.", schemas.EMBEDDINGS, PROMPT, "embedding"),  # noqa: E501
    Route("POST", "/v1/sentiment", "sentiment", "Label and probabilities of texts.", schemas.SENTIMENT, PROMPT, "sentiment"),  # noqa: E501
    Route("POST", "/v1/reviews", "review", "Store reviews: one, a list, or one a line.", schemas.REVIEWS, PROMPT),
    Route("POST", "/v1/reviews/search", "review", "Find reviews by meaning, by words, or by both.", schemas.SEARCH, PROMPT),  # noqa: E501
    Route("DELETE", "/v1/reviews/{review_id}", "review", "Remove a review.", _BY_REVIEW),
    Route("POST", "/v1/precompute", "review", "Make popular answers ready now.", schemas.PRECOMPUTE, PROMPT),
    Route("GET", "/v1/precompute/status", "review", "How far the answers are that are made ready."),
    Route("GET", "/v1/restaurants", "review", "Restaurants, in the order that is asked for.", schemas.RESTAURANTS),
    Route("GET", f"{_RESTAURANT}/sentiment", "review", "How many of a restaurant's reviews are positive.", _BY_RESTAURANT),  # noqa: E501
    Route("GET", f"{_RESTAURANT}/summary", "review", "What a restaurant's reviews say, with evidence.", _BY_RESTAURANT, SUMMARY),  # noqa: E501
    Route("GET", f"{_RESTAURANT}/strengths", "review", "What a restaurant is liked for more than others.", _BY_RESTAURANT, SUMMARY),  # noqa: E501
))
# fmt: on
