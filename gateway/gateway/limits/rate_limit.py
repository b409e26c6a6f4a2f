"""May a request come in, and what is it told? Pure."""

from typing import Literal, NamedTuple

from gateway.limits.sliding_window import Window
from onecard.errors import RateLimited

AdmissionOutcome = Literal["admitted", "out_of_requests", "out_of_tokens"]


class RateLimit(NamedTuple):
    """How much may be used in a minute; None: as much as one likes."""

    requests: int | None = None
    tokens: int | None = None
    """Of prompts and answers together."""

    @property
    def is_unlimited(self) -> bool:
        """Nothing is limited."""
        return self.requests is None and self.tokens is None


class Usage(NamedTuple):
    """What one key has used of what is limited."""

    requests: Window = Window()
    tokens: Window = Window()

    def at(self, now_ms: int) -> "Usage":
        """The same, seen from another moment."""
        return Usage(self.requests.at(now_ms), self.tokens.at(now_ms))

    def settled(self, now_ms: int, settlement: "Settlement") -> "Usage":
        """With the tokens that an answer cost in place of those reserved: less of what was used then, or more now."""
        at_ms, more = settlement
        tokens = self.tokens.plus(now_ms, more) if more > 0 else self.tokens.less(at_ms, -more)
        return Usage(self.requests, tokens)


class Settlement(NamedTuple):
    """What a request cost beside what was reserved for it."""

    at_ms: int
    """When that was, by the clock of those who decided."""
    tokens: int
    """Tokens; below 0, it cost less."""


class Decision(NamedTuple):
    """What becomes of a request, and what its key has used after it, of what is limited."""

    requests_wait_ms: int
    """How long until there is one left; 0: there is."""
    tokens_wait_ms: int
    """The same for the tokens that it may cost."""
    requests_used: int
    tokens_used: int
    requests_reset_ms: int
    """How long until nothing of it counts."""
    tokens_reset_ms: int
    now_ms: int
    """By the clock of those who decided."""

    @property
    def wait_ms(self) -> int:
        """How long until it may come in; 0: it may."""
        return max(self.requests_wait_ms, self.tokens_wait_ms)

    @property
    def outcome(self) -> AdmissionOutcome:
        """In a word: what it waits for longest."""
        if not self.wait_ms:
            return "admitted"
        return "out_of_tokens" if self.tokens_wait_ms >= self.requests_wait_ms else "out_of_requests"


def decide(use: Usage, limit: RateLimit, tokens: int, now_ms: int) -> tuple[Decision, Usage]:
    """Take one request and reserve `tokens` for it, if both are left; `use` is that of this moment.

    One that may cost more than the whole limit comes in when nothing is used. What it costs in the end is settled.
    """
    most_requests, most_tokens = limit
    tokens = min(tokens, most_tokens or 0)
    requests_wait = 0 if most_requests is None else use.requests.wait_ms(now_ms, most_requests - 1)
    tokens_wait = 0 if most_tokens is None else use.tokens.wait_ms(now_ms, most_tokens - tokens)
    if not requests_wait and not tokens_wait:
        requests = use.requests if most_requests is None else use.requests.plus(now_ms, 1)
        use = Usage(requests, use.tokens if most_tokens is None else use.tokens.plus(now_ms, tokens))
    used = (use.requests.used, use.tokens.used)
    resets = (use.requests.wait_ms(now_ms, 0), use.tokens.wait_ms(now_ms, 0))
    return Decision(requests_wait, tokens_wait, *used, *resets, now_ms), use


def rate_limit_headers(decision: Decision, limit: RateLimit) -> dict[str, str]:
    """The `x-ratelimit-…` headers, as OpenAI has them, for what is limited."""
    limited = {
        "requests": (limit.requests, decision.requests_used, decision.requests_reset_ms),
        "tokens": (limit.tokens, decision.tokens_used, decision.tokens_reset_ms),
    }
    found: dict[str, str] = {}
    for name, (most, used, reset_ms) in limited.items():
        if most is not None:
            found[f"x-ratelimit-limit-{name}"] = str(most)
            found[f"x-ratelimit-remaining-{name}"] = str(max(0, most - used))
            found[f"x-ratelimit-reset-{name}"] = format_duration(reset_ms)
    return found


def rate_limited(decision: Decision, limit: RateLimit) -> RateLimited:
    """The answer to a request that may not come in."""
    if decision.outcome == "out_of_tokens":
        what = f"{limit.tokens} tokens a minute do not leave enough for this request: its prompt, and its 'max_tokens'"
        change = "ask for less"
    else:
        what, change = f"{limit.requests} requests a minute are used up", "ask the operator for a higher limit"
    seconds = decision.wait_ms / 1000
    return RateLimited(
        f"This API key's {what}. Try again in {max(1.0, seconds):.0f} s, or {change}.",
        retry_after=seconds,
        headers=rate_limit_headers(decision, limit),
    )


def format_duration(milliseconds: float) -> str:
    """As OpenAI writes it: `0s`, `250ms`, `8.64s`, `1m30.5s`."""
    whole = round(milliseconds)
    if 0 < whole < 1000:
        return f"{whole}ms"
    minutes, rest = divmod(whole, 60_000)
    seconds = f"{rest / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds
