"""Decides whether a key may make a request, and renders the decision for the client. Pure."""

import math
from typing import Literal, NamedTuple

from gateway.limits.sliding_window import Window
from onecard.errors import RateLimited

AdmissionOutcome = Literal["admitted", "out_of_requests", "out_of_tokens"]


class RateLimit(NamedTuple):
    """Limits of a minute; None: unlimited."""

    requests: int | None = None
    tokens: int | None = None
    """Of prompts and responses together."""

    @property
    def is_unlimited(self) -> bool:
        """Whether neither is limited."""
        return self.requests is None and self.tokens is None


class Usage(NamedTuple):
    """What a key has used of what is limited."""

    requests: Window = Window()
    tokens: Window = Window()

    def at(self, now_ms: int) -> "Usage":
        """The usage at another moment.

        Args:
            now_ms: the moment.

        Returns:
            What still counts then.
        """
        return Usage(self.requests.at(now_ms), self.tokens.at(now_ms))

    def settled(self, now_ms: int, settlement: "Settlement") -> "Usage":
        """Replace reserved tokens by the actual number.

        Args:
            now_ms: current time; tokens beyond the reserved ones count from now.
            settlement: the difference; tokens that were not needed are taken off where they were reserved.

        Returns:
            The new usage.
        """
        at_ms, extra = settlement
        tokens = self.tokens.plus(now_ms, extra) if extra > 0 else self.tokens.less(at_ms, -extra)
        return Usage(self.requests, tokens)


class Settlement(NamedTuple):
    """The difference between the tokens of a request and those reserved for it."""

    at_ms: int
    """When they were reserved, by the clock of the decision."""
    tokens: int
    """Negative if fewer were used than reserved."""


class Decision(NamedTuple):
    """Whether a request is admitted, and what its key has used after it. 0 for what is not limited."""

    requests_wait_ms: int
    """Time until a request is left; 0 if there is one."""
    tokens_wait_ms: int
    """Time until the reserved tokens are left; 0 if they are."""
    requests_used: int
    tokens_used: int
    requests_reset_ms: int
    """Time until no request counts any longer."""
    tokens_reset_ms: int
    """Time until no token counts any longer."""
    now_ms: int
    """When it was made, by the clock of Redis, or of the gateway without Redis."""

    @property
    def wait_ms(self) -> int:
        """Time until the request would be admitted; 0 if it is."""
        return max(self.requests_wait_ms, self.tokens_wait_ms)

    @property
    def outcome(self) -> AdmissionOutcome:
        """Admitted, or the limit that it would have to wait for longest."""
        if not self.wait_ms:
            return "admitted"
        return "out_of_tokens" if self.tokens_wait_ms >= self.requests_wait_ms else "out_of_requests"


def decide(usage: Usage, limit: RateLimit, tokens: int, now_ms: int) -> tuple[Decision, Usage]:
    """Count one request and reserve tokens for it, if both limits allow it.

    A request that may need more than the whole limit is admitted when nothing is used. The difference is settled later.

    Args:
        usage: of the key, at this moment.
        limit: of the key.
        tokens: to reserve.
        now_ms: current time.

    Returns:
        The decision, and the usage after it.
    """
    max_requests, max_tokens = limit
    tokens = min(tokens, max_tokens or 0)
    requests_wait = 0 if max_requests is None else usage.requests.wait_ms(now_ms, max_requests - 1)
    tokens_wait = 0 if max_tokens is None else usage.tokens.wait_ms(now_ms, max_tokens - tokens)
    if not requests_wait and not tokens_wait:
        requests = usage.requests if max_requests is None else usage.requests.plus(now_ms, 1)
        usage = Usage(requests, usage.tokens if max_tokens is None else usage.tokens.plus(now_ms, tokens))
    used = (usage.requests.used, usage.tokens.used)
    resets = (usage.requests.wait_ms(now_ms, 0), usage.tokens.wait_ms(now_ms, 0))
    return Decision(requests_wait, tokens_wait, *used, *resets, now_ms), usage


def rate_limit_headers(decision: Decision, limit: RateLimit) -> dict[str, str]:
    """The `x-ratelimit-…` headers, as OpenAI has them.

    Args:
        decision: about the request.
        limit: of the key.

    Returns:
        Headers for what is limited.
    """
    limited = {
        "requests": (limit.requests, decision.requests_used, decision.requests_reset_ms),
        "tokens": (limit.tokens, decision.tokens_used, decision.tokens_reset_ms),
    }
    headers: dict[str, str] = {}
    for name, (maximum, used, reset_ms) in limited.items():
        if maximum is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(maximum)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, maximum - used))
            headers[f"x-ratelimit-reset-{name}"] = format_duration(reset_ms)
    return headers


def rate_limited(decision: Decision, limit: RateLimit) -> RateLimited:
    """The error for a refused request.

    Args:
        decision: about the request.
        limit: of the key.

    Returns:
        A 429 with `Retry-After`.
    """
    if decision.outcome == "out_of_tokens":
        what = f"{limit.tokens} tokens a minute do not leave enough for this request: its prompt, and its 'max_tokens'"
        change = "ask for less"
    else:
        what, change = f"{limit.requests} requests a minute are used up", "ask the operator for a higher limit"
    seconds = math.ceil(decision.wait_ms / 1000)  # As the header has it.
    return RateLimited(
        f"This API key's {what}. Try again in {seconds} s, or {change}.",
        retry_after=seconds,
        headers=rate_limit_headers(decision, limit),
    )


def format_duration(milliseconds: float) -> str:
    """Format a duration as OpenAI does: `0s`, `250ms`, `8.64s`, `1m30.5s`.

    Args:
        milliseconds: the duration.

    Returns:
        The text.
    """
    whole = round(milliseconds)
    if 0 < whole < 1000:
        return f"{whole}ms"
    minutes, rest = divmod(whole, 60_000)
    seconds = f"{rest / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds
