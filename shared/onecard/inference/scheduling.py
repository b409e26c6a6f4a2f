"""On which terms a request is served: its lane, and how long its client waits."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

from onecard.batching.queue import Lane
from onecard.errors import InvalidRequest
from onecard.inference.settings import EncoderSettings
from onecard.web.request_parsing import timeout_seconds

LANE_HEADER = "x-onecard-lane"
"""`interactive` or `bulk`. Without it the number of texts decides."""

_BETWEEN_TEXTS = re.compile(rb"""["\]]\s*,\s*["\[]""")


@dataclass(frozen=True)
class SchedulingParams:
    """What a request is served on."""

    lane: Lane
    timeout_seconds: float


def requested_lane(headers: Mapping[str, str], default: Lane) -> Lane:
    """The lane that a request asks for; `default` if it does not say.

    Raises:
        InvalidRequest: there is no such lane.
    """
    given = headers.get(LANE_HEADER, default)
    if given not in get_args(Lane):
        raise InvalidRequest(f"{LANE_HEADER} is 'interactive' or 'bulk'.", param=LANE_HEADER)
    return cast(Lane, given)


def max_text_count(body: bytes) -> int:
    """How many texts a body has at most, found without parsing it: between two there are quotes, or brackets of token
    ids, and a comma. Other fields may add a few."""
    return len(_BETWEEN_TEXTS.findall(body)) + 1


def scheduling_params(headers: Mapping[str, str], texts: int, settings: EncoderSettings) -> SchedulingParams:
    """The terms of a request with so many texts.

    Raises:
        InvalidRequest: a header has a value that means nothing.
    """
    lane = requested_lane(headers, "interactive" if texts <= settings.interactive_texts else "bulk")
    most = settings.request_timeout_seconds if lane == "interactive" else settings.bulk_timeout_seconds
    return SchedulingParams(lane, timeout_seconds(headers, most))
