"""Scheduling parameters of a request: its lane, how long its client waits, and whether it has waited before."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import cast, get_args

from onecard.batching.queue import Lane
from onecard.errors import InvalidRequest
from onecard.inference.settings import EncoderSettings
from onecard.web.request_parsing import timeout_seconds

LANE_HEADER = "x-onecard-lane"
"""`interactive` or `bulk`. Without it, the number of texts decides."""
WAITED_HEADER = "x-onecard-waited"
"""`1`: the request was refused before, and comes again after the time that it was told. The gateway sets it, and takes
it from no client. Whoever can reach an encoder's own port can set it too: that gains room in the queue, as choosing the
lane does, and a longer wait."""

_NEXT_TEXT = re.compile(rb',\s*+["\[]')


@dataclass(frozen=True)
class SchedulingParams:
    """Lane and time limit of a request."""

    lane: Lane
    timeout_seconds: float
    has_waited: bool = False
    """Whether it was refused before, and comes again after the time that it was told."""


def requested_lane(headers: Mapping[str, str], default: Lane) -> Lane:
    """Read the lane from a request's headers.

    Args:
        headers: of the request.
        default: the lane without a header.

    Returns:
        The lane.

    Raises:
        InvalidRequest: the header names no lane.
    """
    value = headers.get(LANE_HEADER, default)
    if value not in get_args(Lane):
        raise InvalidRequest(f"{LANE_HEADER} is 'interactive' or 'bulk'.", param=LANE_HEADER)
    return cast(Lane, value)


def max_text_count(body: bytes, enough: int) -> int:
    """An upper bound on the number of texts in a body, without parsing it.

    Before each text but the first there is a comma, and the text begins with a quote, or a bracket of token ids. Other
    fields, and texts that end with a comma, may add a few.

    Args:
        body: JSON.
        enough: it is not counted any further: a long body may have a million.

    Returns:
        The bound, at least 1; `enough` + 1 if there may be more than `enough` texts.
    """
    return sum(1 for _ in islice(_NEXT_TEXT.finditer(body), enough)) + 1


def scheduling_params(headers: Mapping[str, str], texts: int, settings: EncoderSettings) -> SchedulingParams:
    """Read the scheduling parameters from a request's headers.

    Args:
        headers: of the request.
        texts: their number; decides the lane unless a header does.
        settings: limits of both lanes.

    Returns:
        The parameters.

    Raises:
        InvalidRequest: a header's value is invalid.
    """
    lane = requested_lane(headers, "interactive" if texts <= settings.interactive_texts else "bulk")
    max_seconds = settings.request_timeout_seconds if lane == "interactive" else settings.bulk_timeout_seconds
    return SchedulingParams(lane, timeout_seconds(headers, max_seconds), headers.get(WAITED_HEADER) == "1")
