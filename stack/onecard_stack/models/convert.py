"""`python -m onecard_stack.models.convert FOLDER`: convert pickled weights to safetensors and delete the pickles.

The only file of this package that imports torch. `weights_only` keeps a pickle from running code.
"""

import sys
from pathlib import Path


def convert(folder: Path) -> None:
    """Write `model.safetensors` from all `pytorch_model*.bin` in `folder`.

    Tensors keep their names, shapes and dtypes. Tensors that share memory become copies. Deletes the pickles.

    Args:
        folder: the model's folder.
    """
    import torch
    from safetensors.torch import save_file

    pickles = sorted(folder.glob("pytorch_model*.bin"))
    tensors: dict[str, torch.Tensor] = {}
    for pickle in pickles:
        loaded = torch.load(pickle, map_location="cpu", weights_only=True)
        tensors |= {name: tensor.clone().contiguous() for name, tensor in loaded.items() if torch.is_tensor(tensor)}
    unfinished = folder / "model.safetensors.new"
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.replace(folder / "model.safetensors")
    for old in [*pickles, *folder.glob("pytorch_model.bin.index.json")]:
        old.unlink()


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
