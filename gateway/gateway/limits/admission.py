"""May a request come in, and what is it told? Pure."""

import math
from typing import Literal, NamedTuple

from gateway.limits.window import Window
from onecard.errors import RateLimited

FAR_REQUESTS = 1_000
"""A key with at least so many requests left is far from that limit."""
FAR_TOKENS = 1_000_000
"""And with so many tokens from that: what `MOST_UNTOLD` answers of 31,000 tokens cost."""

Outcome = Literal["admitted", "out_of_requests", "out_of_tokens"]


class Quota(NamedTuple):
    """How much may be used in a minute; None: as much as one likes."""

    requests: int | None = None
    tokens: int | None = None
    """Of prompts and answers together."""

    @property
    def is_empty(self) -> bool:
        """Nothing is limited."""
        return self.requests is None and self.tokens is None


class Use(NamedTuple):
    """What one key has used, at one moment."""

    now_ms: int
    requests: Window
    tokens: Window

    def at(self, now_ms: int) -> "Use":
        """The same, seen from a later moment."""
        return Use(now_ms, self.requests.at(now_ms), self.tokens.at(now_ms))

    def by_clock(self, now_ms: int) -> "Use":
        """The same, by a clock that shows `now_ms` at this moment."""
        by_ms = now_ms - self.now_ms
        return Use(now_ms, self.requests.moved(by_ms), self.tokens.moved(by_ms))


class Decision(NamedTuple):
    """What became of a request, and the key's use after it."""

    outcome: Outcome
    use: Use


def decide(use: Use, quota: Quota) -> Decision:
    """Take one request, if there is one left and the tokens are not used up.

    What the request will cost in tokens is known when it has been answered. So the last one may overdraw them, and the
    following wait for longer.
    """
    most_requests, most_tokens = quota.requests, quota.tokens
    if most_tokens is not None and use.tokens.used(use.now_ms) >= most_tokens:
        return Decision("out_of_tokens", use)
    if most_requests is not None and use.requests.used(use.now_ms) + 1 > most_requests:
        return Decision("out_of_requests", use)
    return Decision("admitted", Use(use.now_ms, use.requests.plus(1), use.tokens))


def is_far(use: Use, quota: Quota) -> bool:
    """So much is left that the next requests may come in before they are counted."""
    requests_left = math.inf if quota.requests is None else quota.requests - use.requests.used(use.now_ms)
    tokens_left = math.inf if quota.tokens is None else quota.tokens - use.tokens.used(use.now_ms)
    return requests_left >= FAR_REQUESTS and tokens_left >= FAR_TOKENS


def headers(use: Use, quota: Quota) -> dict[str, str]:
    """The `x-ratelimit-…` headers, as OpenAI has them, for what is limited."""
    limited = {"requests": (quota.requests, use.requests), "tokens": (quota.tokens, use.tokens)}
    found: dict[str, str] = {}
    for name, (most, window) in limited.items():
        if most is not None:
            found[f"x-ratelimit-limit-{name}"] = str(most)
            found[f"x-ratelimit-remaining-{name}"] = str(max(0, int(most - window.used(use.now_ms))))
            found[f"x-ratelimit-reset-{name}"] = duration(window.wait_ms(use.now_ms, 0))
    return found


def refusal(decision: Decision, quota: Quota) -> RateLimited:
    """The answer to a request that may not come in."""
    use = decision.use
    if decision.outcome == "out_of_tokens":
        what, most, window = "tokens", quota.tokens, use.tokens
    else:
        what, most, window = "requests", quota.requests, use.requests
    wait_seconds = window.wait_ms(use.now_ms, (most or 1) - 1) / 1000
    return RateLimited(
        f"This API key's {most} {what} a minute are used up. Try again in {max(1.0, wait_seconds):.0f} s, or ask the "
        "operator for a higher limit.",
        retry_after=wait_seconds,
        headers=headers(use, quota),
    )


def duration(milliseconds: float) -> str:
    """As OpenAI writes it: `0s`, `250ms`, `8.64s`, `1m30.5s`."""
    whole = round(milliseconds)
    if 0 < whole < 1000:
        return f"{whole}ms"
    minutes, rest = divmod(whole, 60_000)
    seconds = f"{rest / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds
