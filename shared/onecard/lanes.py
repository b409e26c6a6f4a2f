"""On which terms a request is served: its lane, and how long its client waits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

from onecard.batching.queue import Lane
from onecard.encoder_settings import EncoderSettings
from onecard.errors import InvalidRequest
from onecard.wire import timeout_seconds

LANE_HEADER = "x-onecard-lane"
"""`interactive` or `bulk`. Without it the number of texts decides."""


@dataclass(frozen=True)
class Terms:
    """What a request is served on."""

    lane: Lane
    timeout_seconds: float


def terms(headers: Mapping[str, str], texts: int, settings: EncoderSettings) -> Terms:
    """The terms of a request with so many texts.

    Raises:
        InvalidRequest: a header has a value that means nothing.
    """
    given = headers.get(LANE_HEADER)
    if given is not None and given not in get_args(Lane):
        raise InvalidRequest(f"{LANE_HEADER} is 'interactive' or 'bulk'.", param=LANE_HEADER)
    by_size: Lane = "interactive" if texts <= settings.interactive_texts else "bulk"
    lane = cast(Lane, given or by_size)
    most = settings.request_timeout_seconds if lane == "interactive" else settings.bulk_timeout_seconds
    return Terms(lane, timeout_seconds(headers, most))
