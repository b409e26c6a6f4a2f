"""The identity of the served model, for its model object and for the header of every response."""

from collections.abc import Mapping

from onecard import __version__
from onecard.cache.keys import ServingConfig, fingerprint
from onecard.models import model_files
from onecard.models.folders import ModelFolder
from onecard.models.identity import ModelIdentity
from onecard.models.sampling_defaults import DEFAULT_TEMPERATURE, DEFAULT_TOP_P


def identify(
    folder: ModelFolder, *, engine: str, precision: str, device: str, window: int, details: Mapping[str, str]
) -> ModelIdentity:
    """Identify the model with everything that influences its answers.

    Args:
        folder: The model that is served. Its files are read and hashed.
        engine: Name and version of the engine and its libraries.
        precision: Data type of the weights.
        device: Kind of device, such as `cuda` or `cpu`. Kernels differ, so results differ in the last digits.
        window: Maximum length of prompt and answer together, in tokens.
        details: Other options of this engine that influence answers, by name.

    Returns:
        Name, revision and fingerprint of the model.

    Raises:
        OSError: A file of the model cannot be read.
    """
    config = ServingConfig(
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
            *details.items(),
        ),
    )
    return ModelIdentity(folder.name, folder.revision, fingerprint(config))
