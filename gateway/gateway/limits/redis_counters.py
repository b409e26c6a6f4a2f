"""Usage in Redis, shared by all gateways. A script decides and counts in one step, by Redis's clock."""

from collections.abc import Sequence

from gateway.limits.rate_limit import Decision, RateLimit, Settlement
from gateway.limits.sliding_window import CELL_MS, MINUTE_MS
from onecard.redis.autopipeline import RedisUnavailable
from onecard.redis.channel import RedisChannel
from onecard.redis.client import RedisCommand

_ADMIT_SCRIPT = f"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local raw = redis.pcall('GET', KEYS[1])
if type(raw) == 'table' and not string.find(raw.err, 'WRONGTYPE') then return raw end
local function counting(kept)
  local cells = {{}}
  for i = 1, #kept, 2 do
    local last, amount = math.min(kept[i], now), kept[i + 1] + 0
    if last > now - {MINUTE_MS} then cells[#cells + 1] = last; cells[#cells + 1] = amount end
  end
  return cells
end
local readable, requests, tokens = pcall(function()
  local kept = cmsgpack.unpack(raw)
  return counting(kept[1]), counting(kept[2])
end)
if not readable then requests, tokens = {{}}, {{}} end
local function used(cells)
  local sum = 0
  for i = 2, #cells, 2 do sum = sum + cells[i] end
  return sum
end
local function add(cells, amount)
  local newest = #cells - 1
  if newest > 0 and math.floor(cells[newest] / {CELL_MS}) == math.floor(now / {CELL_MS}) then
    cells[newest] = now; cells[newest + 1] = cells[newest + 1] + amount
  else
    cells[#cells + 1] = now; cells[#cells + 1] = amount
  end
end
local function wait(cells, most)
  local over, wait = used(cells) - most, 0
  for i = 1, #cells, 2 do
    if over <= 0 then break end
    over = over - cells[i + 1]; wait = cells[i] + {MINUTE_MS} - now
  end
  return wait
end
local most_requests, most_tokens, settled = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 4, 2 + 2 * settled, 2 do
  local at, more = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  if more > 0 then add(tokens, more) end
  for cell = 1, more < 0 and #tokens or 0, 2 do
    if math.floor(tokens[cell] / {CELL_MS}) == math.floor(at / {CELL_MS}) then
      tokens[cell + 1] = math.max(0, tokens[cell + 1] + more)
    end
  end
end
local decisions = {{}}
for i = 4 + 2 * settled, #ARGV do
  local cost = math.min(tonumber(ARGV[i]), most_tokens)
  local requests_wait = most_requests > 0 and wait(requests, most_requests - 1) or 0
  local tokens_wait = most_tokens > 0 and wait(tokens, most_tokens - cost) or 0
  if requests_wait == 0 and tokens_wait == 0 then
    if most_requests > 0 then add(requests, 1) end
    if most_tokens > 0 then add(tokens, cost) end
  end
  for _, number in ipairs({{
    requests_wait, tokens_wait, used(requests), used(tokens), wait(requests, 0), wait(tokens, 0), now
  }}) do decisions[#decisions + 1] = number end
end
redis.call('SET', KEYS[1], cmsgpack.pack({{requests, tokens}}), 'PX', {MINUTE_MS})
return decisions
""".encode()


def _eval(key: str, limit: RateLimit, costs: Sequence[int], settlements: Sequence[Settlement]) -> RedisCommand:
    settled = [number for settlement in settlements for number in settlement]
    limited = (limit.requests or 0, limit.tokens or 0, len(settlements))
    return ("EVAL", _ADMIT_SCRIPT, 1, key, *limited, *settled, *costs)


PROBE = _eval("onecard:limits-probe", RateLimit(1, 1), [0], ())
"""It writes, as `admit` does, because a full Redis or a read-only replica can be read from. Its Redis key is that of no
API key, whatever that is called."""


class RedisCounters:
    """The usage of each key, as one value. No call waits for a Redis that is unavailable."""

    # Each call sends the whole script (2.5 KB). EVALSHA would send its hash only, but fails on a restarted Redis, which
    # has no scripts.

    def __init__(self, channel: RedisChannel) -> None:
        """Use a channel.

        Args:
            channel: the caller opens and closes it; its probe is `PROBE`.
        """
        self._channel = channel

    async def admit(
        self, name: str, limit: RateLimit, costs: Sequence[int], settlements: Sequence[Settlement] = ()
    ) -> list[Decision] | None:
        """Settle requests of a key, then decide on new ones in their order.

        Args:
            name: of the key.
            limit: of the key.
            costs: tokens to reserve for each new request.
            settlements: of earlier requests.

        Returns:
            A decision for each new request; None if Redis did not answer, in which case it may or may not have counted
            them.
        """
        try:
            [reply] = await self._channel.call(_eval(f"onecard:limits:{name}", limit, costs, settlements))
        except RedisUnavailable:
            return None
        width = len(Decision._fields)
        if not isinstance(reply, list) or len(reply) != width * len(costs):
            return None
        numbers = [int(str(number)) for number in reply]
        return [Decision(*numbers[at : at + width]) for at in range(0, len(numbers), width)]
