"""What becomes of attempts and of endpoints, in the words of metrics, traces and load balancing."""

from typing import Literal

Failure = Literal["away", "silent", "error", "refused", "full"]
"""What a request met with. Away: no connection, or one that ended early; silent: no first byte in time; error: 500 or
502; refused: 503, by which a service says that it is full or stopping; full: 429."""

EjectionReason = Literal["errors", "away", "unready"]
"""Why a replica is out."""

AttemptOutcome = Literal["ok", Failure, "broken_off", "given_up"]
"""What became of an attempt. Ok: an answer that says nothing against the replica; broken off: one that was not
finished; given up: the client has left, or its time was over."""
