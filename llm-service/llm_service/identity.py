"""What this service tells of its model: in its card, and in a header of every answer."""

from collections.abc import Callable, Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onecard import __version__, model_files
from onecard.cache.identity import HEADER, Identity
from onecard.cache.keys import Facts, fingerprint
from onecard.models import ModelFolder
from onecard.sampling import TEMPERATURE, TOP_P


def identify(
    folder: ModelFolder, *, engine: str, precision: str, device: str, window: int, more: Mapping[str, str]
) -> Identity:
    """The model in `folder`, as it is run here.

    Args:
        engine: the program, with its version.
        device: kind of device: kernels differ, and so do the last digits.
        more: whatever else of this engine decides an answer.

    Raises:
        OSError: a file of the model cannot be read.
    """
    facts = Facts(
        tokenizer=model_files.digest(folder.path),
        precision=precision,
        engine=engine,
        window=window,
        truncation="refuse",
        details=(
            ("device", device),
            ("service", __version__),
            ("temperature", str(TEMPERATURE)),
            ("top_p", str(TOP_P)),
            *more.items(),
        ),
    )
    return Identity(folder.name, folder.revision, fingerprint(facts))


class TellsModel:
    """ASGI middleware: every answer tells whose it is, once the engine has started."""

    def __init__(self, app: ASGIApp, identity: Callable[[Scope], Identity | None]) -> None:
        """`identity` finds it, with the scope of a request that the app has seen."""
        self._app = app
        self._identity = identity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def tell(message: Message) -> None:
            identity = self._identity(scope) if message["type"] == "http.response.start" else None
            if identity is not None:
                MutableHeaders(scope=message)[HEADER] = identity.told()
            await send(message)

        await self._app(scope, receive, tell)
