"""Applies the rate limits: ASGI middleware around all routes, inside the request middleware.

The guard cannot do it, because it decides at once, by the headers alone, while this waits for Redis. The routes cannot
either, because any POST counts, even to an unknown path.
"""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.keys.key_ring import Key
from gateway.limits import reservation
from gateway.limits.rate_limiter import Admission, RateLimiter
from gateway.routes import RouteTable
from gateway.telemetry.response_tap import ResponseTap
from gateway.telemetry.trace import RequestTrace
from onecard.errors import DeadlineExceeded
from onecard.web.middleware import request_state


class RateLimitMiddleware:
    """Counts the requests of keys that cost something. The rate limiter is in the app's state."""

    def __init__(self, app: ASGIApp, table: RouteTable, answer_tokens: int) -> None:
        """Wrap an app.

        Args:
            app: handles the admitted requests.
            table: knows what each request costs.
            answer_tokens: tokens reserved for a response that its request does not limit.
        """
        self._app = app
        self._table = table
        self._answer_tokens = answer_tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface. The request middleware renders what is raised.

        Args:
            scope: of the connection.
            receive: ASGI channel.
            send: ASGI channel.

        Raises:
            RateLimited: the key's requests or tokens of this minute are used up.
            HTTPException: as the app.
        """
        key: Key | None = request_state(scope).get("caller") if scope["type"] == "http" else None
        cost = self._table.cost(scope["method"], scope["path"]) if key else None
        if key is None or cost is None:
            await self._app(scope, receive, send)
            return
        rate_limiter: RateLimiter = scope["app"].state.service.rate_limiter
        limit, tokens = rate_limiter.rate_limit(key), 0
        if limit.tokens is not None:
            tokens = reservation.reserved_tokens(cost, self._table.json(scope), self._answer_tokens)
        admission = await rate_limiter.admit(key, limit, tokens)
        tap = ResponseTap.of(scope, send)
        tap.estimates_tokens = limit.tokens is not None
        tap.extra_headers = [(name.encode(), value.encode()) for name, value in admission.headers.items()]
        settlement = _Settlement(rate_limiter, key, admission, tap, scope, cost.writes)
        tap.before_last = settlement.settle
        try:
            await self._app(scope, receive, tap.send)
        except HTTPException as error:
            settlement.settle(abandoned=settlement.is_worked_on and isinstance(error, DeadlineExceeded))
            raise
        finally:
            settlement.settle(abandoned=settlement.is_worked_on)
            tap.close()


class _Settlement:
    """Counts the tokens of one admitted request, once."""

    def __init__(
        self,
        rate_limiter: RateLimiter,
        key: Key,
        admission: Admission,
        tap: ResponseTap,
        scope: Scope,
        writes: bool,
    ) -> None:
        self._rate_limiter = rate_limiter
        self._key = key
        self._admission: Admission | None = admission
        self._tap = tap
        self._scope = scope
        self._writes = writes

    @property
    def was_sent(self) -> bool:
        """Whether a service has had the request."""
        return self._trace is not None and self._trace.attempts > 0

    @property
    def is_worked_on(self) -> bool:
        """Whether models have worked on the response: it has begun, or a service has had the request or its like."""
        return bool(self._tap.status) or (self._trace is not None and self._trace.is_worked_on)

    @property
    def _trace(self) -> RequestTrace | None:
        trace: RequestTrace | None = request_state(self._scope).get("trace")  # Made further inside.
        return trace

    def settle(self, *, abandoned: bool = False) -> None:
        """Count the tokens, unless that is done already.

        Of an abandoned stream the tokens so far count. Any other abandoned response counts as all reserved tokens:
        models have worked on it, and how much is unknown. A cached one cost no model anything.

        Args:
            abandoned: whether the client has left, or its time was over, while a service had the request. The client
                may set that time, and the service may be the first to notice.
        """
        admission, self._admission = self._admission, None
        if admission is None or admission.reserved is None:
            return
        usage = self._tap.token_usage  # None for requests that are not relayed.
        spent = usage.tokens() if usage is not None else 0
        # An encoder refuses with 504, too, before it computes anything.
        too_late = self._tap.status == HTTPStatus.GATEWAY_TIMEOUT and self.was_sent and self._writes
        whole = not self._tap.status or (usage is not None and usage.is_made_before)
        if too_late or (abandoned and whole and self._tap.x_cache != "hit"):
            spent = max(spent, admission.reserved)
        self._rate_limiter.settle(self._key, admission, spent)
