"""Makes the model of all contenders: the shape of klue/bert-base, random weights, a Korean WordPiece vocabulary.

Speed does not depend on the values of weights, so nothing is downloaded. Some files are written by hand, because
sentence-transformers 3 (which Infinity needs) and 6 (which this project uses) name their modules differently.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.paths import CLASSIFIER, MODEL, SAMPLE_REVIEWS
from bench.texts import UNIQUE_PHRASES

SEED = 20240501
SIZE = 768
"""Dimensions of a vector."""
WINDOW = 128
"""Maximum tokens per text, as in jhgan/ko-sbert-multitask."""
VOCABULARY = 32_000
"""Rows of the embedding matrix. The tokenizer uses the first few thousand."""
PIECES = 1_100
"""Number of trained word pieces. With more, this small corpus would yield whole words; with this many, a Korean word is
cut into about two pieces, as by klue's vocabulary. Numbers of one and two digits are added, as in klue's."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_DONE = "bench.json"
_RECIPE = {"seed": SEED, "pieces": PIECES, "version": 3}


def reviews() -> list[str]:
    """Read the texts of the sample reviews."""
    with SAMPLE_REVIEWS.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def ready(folder: Path = MODEL) -> bool:
    """Check whether the folder has the complete model, made by this version of the code."""
    try:
        return bool(json.loads((folder / _DONE).read_bytes()) == _RECIPE)
    except (OSError, ValueError):
        return False


def build(folder: Path = MODEL) -> None:
    """Write the sentence encoder unless it is `ready`. Takes about 10 s and 450 MB."""
    if not ready(folder):
        _build(folder, _write_weights, write_modules)


def build_classifier(folder: Path = CLASSIFIER) -> None:
    """Write a sentiment classifier of the same shape unless it is `ready`."""
    if not ready(folder):
        _build(folder, write_classifier)


def _build(folder: Path, *writers: Callable[[Path], None]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for write in (write_tokenizer, *writers):
        write(folder)
    (folder / _DONE).write_text(json.dumps(_RECIPE))


def write_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files. Takes less than a second."""
    from tokenizers import BertWordPieceTokenizer

    # Stripping accents would decompose Hangul syllables.
    options: dict[str, Any] = {"lowercase": False, "strip_accents": False}
    trained = BertWordPieceTokenizer(**options)
    numbered = [phrase.format(0) for phrase in UNIQUE_PHRASES]
    trained.train_from_iterator(
        [*reviews(), *numbered], vocab_size=PIECES, min_frequency=1, special_tokens=list(SPECIAL), show_progress=False
    )
    vocabulary = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    digits = [f"{number:0{width}}" for width in (1, 2) for number in range(10**width)]
    pieces = dict.fromkeys([*vocabulary, *(mark + number for number in digits for mark in ("", "##"))])
    tokenizer = BertWordPieceTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, **options)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.save_model(str(folder))
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": False,
        "strip_accents": False,
        "model_max_length": WINDOW,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_weights(folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(SEED)
    config = BertConfig(vocab_size=VOCABULARY, hidden_size=SIZE, num_hidden_layers=12, num_attention_heads=12)
    BertModel(config).eval().save_pretrained(folder)


def write_classifier(folder: Path) -> None:
    """Write the classifier's weights and labels, without a tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(SEED)
    config = BertConfig(vocab_size=VOCABULARY, id2label={0: "negative", 1: "positive"})
    BertForSequenceClassification(config).save_pretrained(folder)


def write_modules(
    folder: Path, modules: Sequence[str] = ("Transformer", "Pooling"), *, window: int = WINDOW, width: int = SIZE
) -> None:
    """Write the files that make it a sentence-transformers model with mean pooling.

    Args:
        folder: the model's.
        modules: names of the modules, in the library's third version.
        window: most tokens of a text.
        width: numbers in a vector.
    """
    entries: list[dict[str, object]] = []
    for index, name in enumerate(modules):
        path = f"{index}_{name}" if index else ""
        (folder / path).mkdir(parents=True, exist_ok=True)
        entries.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"})
    _write_json(folder / "modules.json", entries)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": window, "do_lower_case": False})
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    _write_json(folder / "1_Pooling" / "config.json", pooling)


def for_older_libraries(model: Path, folder: Path) -> Path:
    """Describe a model's files as sentence-transformers 3 and transformers 4 do, which Infinity needs.

    Args:
        model: a sentence-transformers folder with mean pooling and normalised vectors.
        folder: written anew; weights and tokenizer are links to the model's.

    Returns:
        `folder`, or `model` if its description is an old one already.
    """
    modules = json.loads((model / "modules.json").read_text())
    if all(module["type"].startswith("sentence_transformers.models.") for module in modules):
        return model
    settings = json.loads((model / "tokenizer_config.json").read_text())
    window = settings["model_max_length"]
    width = json.loads((model / "config.json").read_text())["hidden_size"]
    shutil.rmtree(folder, ignore_errors=True)
    write_modules(folder, ("Transformer", "Pooling", "Normalize"), window=window, width=width)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).symlink_to((model / name).resolve())
    _write_json(folder / "tokenizer_config.json", {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    return folder


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False))
