"""What models cost, from their configurations and their files' headers, against numbers worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from onecard.gpu.costs import BERT_BASE, QWEN_0_5B, QWEN_7B, DecoderCost, DecoderShape, EncoderCost, loaded_bytes
from onecard.models.model_files import StoredTensor, stored_tensors

QWEN_CONFIG: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
}
"""Of Qwen2.5-7B-Instruct."""
BERT_CONFIG = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "max_position_embeddings": 512}
"""Of klue/bert-base."""


def bf16(*shape: int) -> StoredTensor:
    """A tensor of this shape."""
    return StoredTensor("BF16", math.prod(shape), math.prod(shape) * 2)


def qwen_tensors() -> list[StoredTensor]:
    """The shapes in Qwen2.5-7B-Instruct's files: embeddings not tied, biases on query, key and value."""
    hidden, key, wide = 3584, 512, 18944
    layer = [bf16(hidden, hidden), bf16(hidden), bf16(key, hidden), bf16(key), bf16(key, hidden), bf16(key)]
    layer += [bf16(hidden, hidden), *[bf16(wide, hidden)] * 3, bf16(hidden), bf16(hidden)]
    return [bf16(152_064, hidden), *layer * 28, bf16(hidden), bf16(152_064, hidden)]


def put_weights(folder: Path, tensors: dict[str, tuple[str, list[int], int]], name: str = "model.safetensors") -> None:
    """A safetensors file with these tensors (format, shape, bytes of a number); its data is a hole in the file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, (dtype, shape, size) in tensors.items():
        begin, end = end, end + size * math.prod(shape)
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / name).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def test_qwen_7b_from_its_files_is_the_known_one() -> None:
    """7,615,616,512 parameters; 2 × 28 layers × 4 heads × (3584 / 28 = 128) × 2 bytes of KV a token."""
    weights = loaded_bytes(qwen_tensors(), 2)
    cost = DecoderCost.from_config(QWEN_CONFIG, weights, 2)
    assert cost == DecoderCost(7_615_616_512 * 2, 57_344, DecoderShape(3584, 18944, 152_064), window_tokens=32768)
    assert cost.shape == QWEN_7B.shape
    assert (cost.weights_bytes, cost.kv_bytes_per_token) == (QWEN_7B.weights_bytes, QWEN_7B.kv_bytes_per_token)


def test_bert_base_from_its_files_is_the_known_one() -> None:
    """110.6 million parameters, stored in FP32 and loaded in FP16; (3 × 768 + 2 × 3072) × 2 bytes a token."""
    stored = [StoredTensor("F32", 110_600_000, 442_400_000)]
    assert EncoderCost.from_config(BERT_CONFIG, loaded_bytes(stored, 2), 2) == BERT_BASE
    assert EncoderCost(221_200_000, 16_896) == BERT_BASE
    assert EncoderCost.from_config(BERT_CONFIG, loaded_bytes(stored, 4), 4) == BERT_BASE.in_full_precision()


def test_the_half_billion_model() -> None:
    """2 × 24 layers × 2 heads × 64 × 2 bytes of KV a token."""
    assert QWEN_0_5B.kv_bytes_per_token == 12_288
    assert QWEN_0_5B.weights_bytes == 988_065_536


def test_quantised_weights_stay_as_stored() -> None:
    """INT4 in I32 words, FP8 in bytes; only their scales are converted."""
    stored = [
        StoredTensor("I32", 448 * 3584, 448 * 3584 * 4),
        StoredTensor("F8_E4M3", 1000, 1000),
        StoredTensor("F32", 10, 40),
    ]
    assert loaded_bytes(stored, 2) == 448 * 3584 * 4 + 1000 + 20


def test_a_head_size_of_its_own_and_a_nested_configuration() -> None:
    """Some models say their head size; those that also see keep the language model's figures under `text_config`."""
    text = {**QWEN_CONFIG, "head_dim": 256}
    assert DecoderCost.from_config({"text_config": text}, 0, 2).kv_bytes_per_token == 2 * 57_344
    without = {k: v for k, v in QWEN_CONFIG.items() if k != "num_key_value_heads"}
    assert DecoderCost.from_config(without, 0, 2).kv_bytes_per_token == 2 * 28 * 28 * 128 * 2


def test_smaller_numbers_make_only_their_own_part_smaller() -> None:
    """FP8 halves the KV cache; 8-bit weights halve all but the embeddings and the output layer (2 × 152,064 × 3,584);
    what is offloaded is not on the GPU."""
    assert QWEN_7B.with_kv_in_one_byte().kv_bytes_per_token == 28_672
    kept = 2 * 152_064 * 3584 * 2
    assert QWEN_7B.with_weights_in_one_byte().weights_bytes == kept + (7_615_616_512 * 2 - kept) // 2
    assert QWEN_7B.with_offloaded(2**30).weights_bytes == 7_615_616_512 * 2 - 2**30
    assert QWEN_7B.with_kv_in_one_byte().weights_bytes == QWEN_7B.weights_bytes


@pytest.mark.parametrize("lacking", ["num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"])
def test_a_configuration_that_lacks_a_figure_is_not_guessed(lacking: str) -> None:
    """A made-up share would be worse than none."""
    with pytest.raises(KeyError, match=lacking):
        DecoderCost.from_config({k: v for k, v in QWEN_CONFIG.items() if k != lacking}, 0, 2)


def test_headers_are_read_and_no_weights(tmp_path: Path) -> None:
    """All files that the index names, and only those."""
    put_weights(tmp_path, {"a": ("F32", [1000, 1000], 4)}, "model-1.safetensors")
    put_weights(tmp_path, {"b": ("I32", [10], 4), "c": ("F16", [], 2)}, "model-2.safetensors")
    put_weights(tmp_path, {"a": ("F32", [1000, 1000], 4)}, "consolidated.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(stored_tensors(tmp_path)) == {
        StoredTensor("F32", 1_000_000, 4_000_000),
        StoredTensor("I32", 10, 40),
        StoredTensor("F16", 1, 2),
    }
