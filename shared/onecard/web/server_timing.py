"""The `server-timing` header (W3C Server Timing): the middleware writes it, callers of a service parse it. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_NAME = r"[\w!#$%&'*+.^`|~-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PARAMETER = re.compile(rf";\s*({_NAME})\s*=\s*({_NAME}|{_QUOTED})", re.ASCII)
_ENTRY = re.compile(rf"\s*({_NAME})((?:\s*{_PARAMETER.pattern})*)\s*(?:,|$)", re.ASCII)


@dataclass(frozen=True)
class Timing:
    """Duration of one stage of a request."""

    ms: float
    """Milliseconds."""
    description: str | None = None
    """Printable ASCII."""


def serialize(timings: Mapping[str, Timing]) -> str:
    """Write the header's value.

    Args:
        timings: by name; names are HTTP tokens, such as `queue`.

    Returns:
        The value.
    """
    return ", ".join(f"{name}{_description(timing)};dur={timing.ms:.2f}" for name, timing in timings.items())


def _description(timing: Timing) -> str:
    if timing.description is None:
        return ""
    escaped = re.sub(r'(["\\])', r"\\\1", timing.description)
    return f';desc="{escaped}"'


def parse(header: str) -> dict[str, Timing]:
    """Parse the header's value.

    Args:
        header: the value.

    Returns:
        The timings by name. Entries without a duration are skipped; parsing stops at the first malformed entry.
    """
    timings: dict[str, Timing] = {}
    offset = 0
    while offset < len(header) and (entry := _ENTRY.match(header, offset)):
        offset = entry.end()
        parameters = {name.lower(): _unquote(value) for name, value in _PARAMETER.findall(entry[2])}
        try:
            timings[entry[1]] = Timing(float(parameters["dur"]), parameters.get("desc"))
        except (KeyError, ValueError):
            continue
    return timings


def _unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
