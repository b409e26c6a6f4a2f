"""Query parameters that a route does not have are a mistake, and named as one: FastAPI passes them over."""

from collections.abc import Collection
from difflib import get_close_matches
from urllib.parse import parse_qsl

from fastapi.dependencies.utils import get_flat_dependant
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from onecard.errors import InvalidRequest

MAX_SHOWN_CHARACTERS = 64
"""Characters of a parameter's name that are repeated to who sent it."""


def require_known_parameters(scope: Scope, paths: Collection[str] | None = None) -> None:
    """Check the query of a request to a FastAPI app, whose middleware asks before the app does.

    Args:
        paths: those of the routes that are looked at, as they are declared; None: all.

    Raises:
        InvalidRequest: the route has no parameter of that name.
    """
    if not scope["query_string"] or (route := _route(scope)) is None or not (paths is None or route.path in paths):
        return
    described = (route.openapi_extra or {}).get("parameters", ())
    known = {one.alias for one in get_flat_dependant(route.dependant).query_params}
    known |= {one["name"] for one in described if one["in"] == "query"}
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
