"""Outcomes of attempts and states of replicas, as metrics, traces and load balancing name them."""

from typing import Literal

Failure = Literal["away", "silent", "error", "refused", "full"]
"""How an attempt failed. Away: no connection, or it ended early; silent: no first byte in time; error: 500 or 502;
refused: 503, with which a service says that it is full or stopping; full: 429."""

EjectionReason = Literal["errors", "away", "unready"]
"""Why a replica is ejected: see `gateway.upstream.outlier_ejection`."""

AttemptOutcome = Literal["ok", Failure, "broken_off", "given_up"]
"""How an attempt ended. Ok: a response that is no failure of the replica; broken off: an incomplete response; given
up: the client has left, or its time is over."""
