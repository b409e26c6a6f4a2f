"""Which model this service has, as its card and its answers tell it."""

from collections.abc import Mapping

from onecard import __version__
from onecard.cache.keys import ServingConfig, fingerprint
from onecard.models import model_files
from onecard.models.folders import ModelFolder
from onecard.models.identity import ModelIdentity
from onecard.models.sampling_defaults import DEFAULT_TEMPERATURE, DEFAULT_TOP_P


def identify(
    folder: ModelFolder, *, engine: str, precision: str, device: str, window: int, more: Mapping[str, str]
) -> ModelIdentity:
    """The model in `folder`, as it is run here.

    Args:
        engine: the program, with its version.
        device: kind of device: kernels differ, and so do the last digits.
        more: whatever else of this engine decides an answer.

    Raises:
        OSError: a file of the model cannot be read.
    """
    facts = ServingConfig(
        tokenizer=model_files.digest(folder.path),
        precision=precision,
        engine=engine,
        window=window,
        truncation="refuse",
        details=(
            ("device", device),
            ("service", __version__),
            ("temperature", str(DEFAULT_TEMPERATURE)),
            ("top_p", str(DEFAULT_TOP_P)),
            *more.items(),
        ),
    )
    return ModelIdentity(folder.name, folder.revision, fingerprint(facts))
