"""Stand-ins with two layers left, for tests of what a service does rather than of what its model says."""

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path

from safetensors.torch import load_file, save_file

from onecard.models.folders import STAND_INS, ModelKind, folder_name


def shallow_models(model_cache: Path, folder: Path) -> Path:
    """Make a model cache whose encoders start and compute in a fraction of the time.

    Args:
        model_cache: holds the three stand-ins.
        folder: the model cache to make; its language model is a link to that of `model_cache`.

    Returns:
        The folder.
    """
    encoders: tuple[ModelKind, ...] = ("sentiment", "embedding")
    for kind in encoders:
        name = folder_name(STAND_INS[kind])
        copy_two_layers(model_cache / name, folder / name)
    name = folder_name(STAND_INS["llm"])
    (folder / name).symlink_to(model_cache / name)
    return folder


def copy_two_layers(model: Path, folder: Path) -> None:
    """Copy a model without most of its layers; its manifest names the new weights.

    Args:
        model: folder of an encoder.
        folder: the copy.
    """
    shutil.copytree(model, folder)
    weights = {
        name: tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if not (layer := re.search(r"encoder\.layer\.(\d+)\.", name)) or int(layer[1]) < 2
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    layers = min(2, config["num_hidden_layers"])
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    manifest = json.loads((folder / "onecard.json").read_text())
    files = {file: sha256((folder / file).read_bytes()).hexdigest() for file in manifest["files"]}
    (folder / "onecard.json").write_text(json.dumps({**manifest, "files": files}))
