"""Use in Redis, where all gateways share it: decided and counted in one step, by Redis's clock."""

from gateway.limits.admission import Decision, Outcome, Quota, Use
from gateway.limits.window import MINUTE_MS, Window
from onecard.cache.channel import Channel
from onecard.cache.link import LinkFailure
from onecard.cache.resp import Reply, ServerError, command

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

_ADMIT = f"""{_WINDOW}
local requests, tokens = window(KEYS[1]), window(KEYS[2])
local most_requests, most_tokens = tonumber(ARGV[1]), tonumber(ARGV[2])
local outcome = 0
if most_tokens > 0 and used(tokens) >= most_tokens then outcome = 2
elseif most_requests > 0 and used(requests) + 1 > most_requests then outcome = 1
else take(KEYS[1], requests, 1) end
return {{outcome, now, requests.start, requests.current, requests.previous,
        tokens.start, tokens.current, tokens.previous}}
""".encode()

_SPEND = f"""{_WINDOW}
take(KEYS[1], window(KEYS[1]), tonumber(ARGV[1]))
return 1
""".encode()

_OUTCOMES: tuple[Outcome, ...] = ("admitted", "out_of_requests", "out_of_tokens")

PROBE = command(b"EVAL", _SPEND, b"1", b"onecard:limits:probe", b"0")
"""Does what spending does: a Redis that is full, or a replica, cannot."""


class RedisUse:
    """The use of every key. Nothing here waits for a Redis that is away."""

    # The scripts are sent whole with every call (1 KB): Redis keeps them by their hash, but a restarted one has none,
    # and to it a hash alone is an error.

    def __init__(self, channel: Channel) -> None:
        """Commands go over `channel`, which somebody else opens and closes; its probe is `PROBE`."""
        self._channel = channel

    async def admit(self, name: str, quota: Quota) -> Decision | None:
        """Take one request of the key `name`, or refuse it; None if Redis gives no answer."""
        limits = (quota.requests or 0, quota.tokens or 0)
        words = (b"2", _key(name, "requests"), _key(name, "tokens"), *(b"%d" % most for most in limits))
        reply = await self._call(_ADMIT, *words)
        match reply:
            case [int(outcome), int(now_ms), *numbers] if outcome in range(3) and len(numbers) == 6:
                r_start, r_current, r_previous, t_start, t_current, t_previous = (int(str(n)) for n in numbers)
                requests, tokens = Window(r_start, r_current, r_previous), Window(t_start, t_current, t_previous)
                return Decision(_OUTCOMES[outcome], Use(now_ms, requests, tokens))
        return None

    async def spend(self, name: str, tokens: int) -> None:
        """Count tokens of the key `name`; lost if Redis gives no answer."""
        await self._call(_SPEND, b"1", _key(name, "tokens"), b"%d" % tokens)

    async def _call(self, script: bytes, *words: bytes) -> Reply:
        try:
            return (await self._channel.call(command(b"EVAL", script, *words), 1))[0]
        except (LinkFailure, ServerError):
            return None


def _key(name: str, what: str) -> bytes:
    return f"onecard:limits:{name}:{what}".encode()
