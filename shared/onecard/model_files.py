"""Whether the files of a model folder are whole. Looked at before anything is loaded, by whoever starts a model."""

import json
from pathlib import Path

_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")


def fault(folder: Path) -> str | None:
    """Why a model in `folder` could not be loaded, or None. Reads headers, not weights."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return "config.json is missing or is not JSON"
    if not isinstance(config, dict) or "model_type" not in config:
        return "config.json does not name a model_type"
    if not any((folder / name).is_file() and (folder / name).stat().st_size for name in _TOKENIZERS):
        return "there is no tokenizer"
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file() and (complaint := _broken_json(tokenizer)):
        return complaint
    return _broken_weights(folder)


def _broken_json(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError):
        return f"{path.name} is not JSON"
    return None


def _broken_weights(folder: Path) -> str | None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError):
            return f"{index.name} cannot be read"
        files = [folder / shard for shard in sorted(shards)]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        return "there are no safetensors weights"
    return next((complaint for file in files if (complaint := _broken_safetensors(file))), None)


def _broken_safetensors(path: Path) -> str | None:
    """A safetensors file is 8 bytes of header length, a JSON header, and exactly the bytes that it promises."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size:
                return f"{path.name} is not a safetensors file"
            header = json.loads(file.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    except OSError:
        return f"{path.name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return f"{path.name} is not a safetensors file"
    wanted = 8 + length + max(ends, default=0)
    return None if ends and size == wanted else f"{path.name} is cut short or too long: {size} bytes of {wanted}"
