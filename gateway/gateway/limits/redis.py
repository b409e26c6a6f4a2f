"""Use in Redis, where all gateways share it: decided and counted in one step, by Redis's clock."""

from typing import NamedTuple

from gateway.limits.admission import Decision, Outcome, Quota, Use
from gateway.limits.window import MINUTE_MS, Window
from onecard.cache.batches import NoAnswer
from onecard.cache.channel import Channel
from onecard.cache.client import Command

_WINDOW = f"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function window(key)
  local kept = redis.call('HMGET', key, 'start', 'current', 'previous')
  local start, current, previous = tonumber(kept[1] or 0), tonumber(kept[2] or 0), tonumber(kept[3] or 0)
  local passed = math.floor((now - start) / {MINUTE_MS})
  if passed >= 2 then return {{start = now, current = 0, previous = 0}} end
  if passed == 1 then return {{start = start + {MINUTE_MS}, current = 0, previous = current}} end
  return {{start = start, current = current, previous = previous}}
end
local function used(w)
  return w.previous * math.min({MINUTE_MS}, w.start + {MINUTE_MS} - now) / {MINUTE_MS} + w.current
end
local function take(key, w, amount)
  w.current = w.current + amount
  redis.call('HSET', key, 'start', w.start, 'current', w.current, 'previous', w.previous)
  redis.call('PEXPIRE', key, {2 * MINUTE_MS})
end
"""

_TAKE = f"""{_WINDOW}
local requests, tokens = window(KEYS[1]), window(KEYS[2])
local most_requests, most_tokens = tonumber(ARGV[1]), tonumber(ARGV[2])
local granted, spent, let_in, outcome = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), 0
if spent > 0 then take(KEYS[2], tokens, spent) end
if let_in > 0 then take(KEYS[1], requests, let_in) end
if most_tokens > 0 and used(tokens) >= most_tokens then granted, outcome = 0, 2
elseif most_requests > 0 then
  local left = math.max(0, math.floor(most_requests - used(requests)))
  if left < granted then granted, outcome = left, 1 end
end
if granted > 0 then take(KEYS[1], requests, granted) end
return {{outcome, granted, now, requests.start, requests.current, requests.previous,
        tokens.start, tokens.current, tokens.previous}}
""".encode()

_OUTCOMES: tuple[Outcome, ...] = ("admitted", "out_of_requests", "out_of_tokens")


class Taken(NamedTuple):
    """What Redis says to several requests of one key."""

    granted: int
    """The first ones, which may come in."""
    outcome: Outcome
    """What became of the others; `admitted` where there are none."""
    use: Use
    """After all of them."""

    def decision(self, place: int) -> Decision:
        """What became of the request at `place`, and the key's use right after it."""
        if place >= self.granted:
            return Decision(self.outcome, self.use)
        now_ms, requests, tokens = self.use
        return Decision("admitted", Use(now_ms, requests.plus(place + 1 - self.granted), tokens))


def _eval(name: str, quota: Quota, requests: int, tokens: int, let_in: int) -> Command:
    # The name in braces: a Cluster keeps both keys on one server, as a script's have to be.
    keys = (f"onecard:limits:{{{name}}}:{what}" for what in ("requests", "tokens"))
    return ("EVAL", _TAKE, 2, *keys, quota.requests or 0, quota.tokens or 0, requests, tokens, let_in)


PROBE = _eval("probe", Quota(), 1, 0, 0)
"""Writes, as taking does: a Redis that is full, or a replica, cannot."""


class RedisUse:
    """The use of every key. Nothing here waits for a Redis that is away."""

    # The script is sent whole with every call (1.5 KB): Redis keeps it by its hash, but a restarted one has none, and
    # to it a hash alone is an error.

    def __init__(self, channel: Channel) -> None:
        """Commands go over `channel`, which somebody else opens and closes; its probe is `PROBE`."""
        self._channel = channel

    async def take(self, name: str, quota: Quota, requests: int, *, tokens: int = 0, let_in: int = 0) -> Taken | None:
        """Count `tokens` of the key `name` and the requests that were `let_in` already, then let in as many of its
        `requests` as there is room for.

        None if Redis gives no answer; it may or may not have counted then.
        """
        try:
            [reply] = await self._channel.call(_eval(name, quota, requests, tokens, let_in))
        except NoAnswer:
            return None
        match reply:
            case [int(outcome), int(granted), int(now_ms), *numbers] if outcome in range(3) and len(numbers) == 6:
                r_start, r_current, r_previous, t_start, t_current, t_previous = (int(str(n)) for n in numbers)
                use = Use(now_ms, Window(r_start, r_current, r_previous), Window(t_start, t_current, t_previous))
                return Taken(granted, _OUTCOMES[outcome], use)
        return None
