"""The canary of both LLM engines: what is asked, and which answers are plausible. Pure."""

import math
from collections.abc import Sequence

from onecard.web.canary import CanaryFailed

CANARY_TEXT = "맛있어요. 다음에 또 올게요. Thank you, it was very good."
"""The engine says how probable each token of this text is. No user's text, so that it may be logged and cached."""
CANARY_PRIORITY = -(2**31)
"""Ahead of every request that waits: lower numbers are served first, in both engines."""
TOLERANCE_NATS = 0.5
"""How far the mean log probability may lie from that at the start. Half precision and other kernels for other batch
sizes move it by a few hundredths; a damaged weight or a wrong cache moves it by whole nats."""


class CanaryReference:
    """What the engine said at its start; later answers have to be close to it."""

    def __init__(self) -> None:
        self._mean: float | None = None

    def check(self, logprobs: Sequence[float]) -> None:
        """Check an answer. The first one that is finite becomes the reference.

        Args:
            logprobs: natural logarithm of the probability of each token, at least one.

        Raises:
            CanaryFailed: One is NaN or infinite, or their mean is too far from the first answer's.
        """
        if not all(map(math.isfinite, logprobs)):
            raise CanaryFailed("gives no finite numbers")
        mean = math.fsum(logprobs) / len(logprobs)
        if self._mean is None:
            self._mean = mean
        elif abs(mean - self._mean) > TOLERANCE_NATS:
            raise CanaryFailed("answers otherwise than at its start")
