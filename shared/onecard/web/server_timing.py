"""The `server-timing` header (W3C Server Timing): written by the edge, read by whoever calls a service. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_NAME = r"[\w!#$%&'*+.^`|~-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PARAMETER = re.compile(rf";\s*({_NAME})\s*=\s*({_NAME}|{_QUOTED})", re.ASCII)
_ENTRY = re.compile(rf"\s*({_NAME})((?:\s*{_PARAMETER.pattern})*)\s*(?:,|$)", re.ASCII)


@dataclass(frozen=True)
class Timing:
    """How long one part of an answer took."""

    ms: float
    description: str | None = None
    """Printable ASCII."""


def serialize(timings: Mapping[str, Timing]) -> str:
    """The header's value; names are HTTP tokens, such as `queue`."""
    return ", ".join(f"{name}{_description(timing)};dur={timing.ms:.2f}" for name, timing in timings.items())


def _description(timing: Timing) -> str:
    if timing.description is None:
        return ""
    escaped = re.sub(r'(["\\])', r"\\\1", timing.description)
    return f';desc="{escaped}"'


def parse(header: str) -> dict[str, Timing]:
    """What `write` wrote, by name. Entries without a duration are passed over, and all from the first malformed one."""
    timings: dict[str, Timing] = {}
    at = 0
    while at < len(header) and (entry := _ENTRY.match(header, at)):
        at = entry.end()
        parameters = {name.lower(): _unquote(value) for name, value in _PARAMETER.findall(entry[2])}
        try:
            timings[entry[1]] = Timing(float(parameters["dur"]), parameters.get("desc"))
        except (KeyError, ValueError):
            continue
    return timings


def _unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
