"""Where the limits meet requests: an ASGI layer inside the edge, round all routes.

Not in the guard, which decides by the headers alone and at once, while this waits for Redis. Not in the routes either:
a POST counts wherever it goes.
"""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.keys.key_ring import Key
from gateway.limits import reservation
from gateway.limits.rate_limiter import Admission, RateLimiter
from gateway.routes import RouteTable
from gateway.telemetry.response_tap import ResponseTap
from onecard.web.middleware import request_state


class RateLimitMiddleware:
    """Whatever a known key has models do counts. The limits are in the app's state."""

    def __init__(self, app: ASGIApp, table: RouteTable, answer_tokens: int) -> None:
        """Expect `answer_tokens` of an answer whose request does not bound it."""
        self._app = app
        self._table = table
        self._answer_tokens = answer_tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise what it is refused with; the edge answers it."""
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
        settlement = _Settlement(rate_limiter, key, admission, tap)
        tap.before_last = settlement.settle
        try:
            await self._app(scope, receive, tap.send)
        except HTTPException:
            settlement.settle()
            raise
        finally:
            settlement.settle(abandoned=True)
            tap.close()


class _Settlement:
    """Counts the tokens of one admitted request, once."""

    def __init__(self, rate_limiter: RateLimiter, key: Key, admission: Admission, tap: ResponseTap) -> None:
        self._rate_limiter = rate_limiter
        self._key = key
        self._admission: Admission | None = admission
        self._tap = tap

    def settle(self, *, abandoned: bool = False) -> None:
        """Count them, if nobody has. An answer that its client left before it began costs what was reserved: models
        have worked on it, and nobody knows how much. One that was left later costs as much of it as there was."""
        admission, self._admission = self._admission, None
        if admission is None or admission.reserved is None:
            return
        usage = self._tap.token_usage  # Only what is relayed has one.
        spent = usage.tokens() if usage is not None else 0
        begun = self._tap.status > 0
        self._rate_limiter.settle(self._key, admission, admission.reserved if abandoned and not begun else spent)
