"""Which model this service has, as its card and its answers tell it."""

from collections.abc import Mapping

from onecard import __version__, model_files
from onecard.cache.identity import Identity
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
