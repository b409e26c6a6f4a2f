"""Refuses query parameters that a route does not have; FastAPI would ignore them."""

from collections.abc import Collection
from difflib import get_close_matches
from urllib.parse import parse_qsl

from fastapi.dependencies.utils import get_flat_dependant
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from onecard.errors import InvalidRequest

MAX_SHOWN_CHARACTERS = 64
"""Longest part of a parameter's name that an error message repeats."""


def require_known_parameters(scope: Scope, paths: Collection[str] | None = None) -> None:
    """Check the query parameters of a request to a FastAPI app, from a middleware around it.

    Args:
        scope: of the request.
        paths: route templates to check; None checks all.

    Raises:
        InvalidRequest: the route has no parameter of that name.
    """
    if not scope["query_string"] or (route := _route(scope)) is None or not (paths is None or route.path in paths):
        return
    documented = (route.openapi_extra or {}).get("parameters", ())
    known = {each.alias for each in get_flat_dependant(route.dependant).query_params}
    known |= {each["name"] for each in documented if each["in"] == "query"}
    for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
        if name not in known:
            shown = name[:MAX_SHOWN_CHARACTERS]
            raise InvalidRequest(
                f"There is no query parameter '{shown}' here. {_suggestion(shown, known)}", param=shown
            )


def _route(scope: Scope) -> APIRoute | None:
    routes = (one for one in scope["app"].routes if isinstance(one, APIRoute))
    return next((one for one in routes if one.matches(scope)[0] is Match.FULL), None)


def _suggestion(name: str, known: Collection[str]) -> str:
    if nearest := get_close_matches(name, known, n=1, cutoff=0):
        return f"Did you mean '{nearest[0]}'?"
    return "Leave it out."
