"""What vLLM needs besides weights and KV cache, against figures worked out apart from the code, and a real log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.gpu.costs import GIB, QWEN_7B
from onecard.gpu.engine_memory import (
    EngineLimits,
    activation_bytes,
    graph_bytes,
    kv_bytes,
    layer_bytes,
    max_sequences,
    sampling_bytes,
)
from onecard.gpu.plan import usable_bytes

SHAPE = QWEN_7B.shape


@pytest.mark.parametrize(
    ("gpu_gb", "seqs", "layer", "sampling", "graphs", "least", "most"),
    [
        # Layer: 2,048 × (3 × 3,584 + 3 × 18,944) × 2 bytes; from 72 GB on of 8,192 tokens.
        # Sampling: sequences × 152,064 × 24 bytes + tokens × 3,584 × 2.
        # Graphs: those up to twice the sequences, at most 512, + those up to the sequences, of 1, 2, 4, 8, 16 … 248,
        # 256, 272 … 512. Each 1 MiB, or 24 MiB for those of whole steps; and one layer of the largest of them.
        (12, 64, 276_824_064, 248_250_368, (19, 11), 48_758_784, 314_048_512),
        (16, 64, 276_824_064, 248_250_368, (19, 11), 48_758_784, 314_048_512),
        (24, 128, 276_824_064, 481_820_672, (35, 19), 91_226_112, 549_453_824),
        (40, 256, 276_824_064, 948_961_280, (51, 35), 159_383_552, 1_003_487_232),
        (48, 256, 276_824_064, 948_961_280, (51, 35), 159_383_552, 1_003_487_232),
        (80, 256, 1_107_296_256, 993_001_472, (51, 35), 159_383_552, 1_003_487_232),
    ],
)
def test_each_part_by_its_own_rule(
    gpu_gb: float, seqs: int, layer: int, sampling: int, graphs: tuple[int, int], least: int, most: int
) -> None:
    """Qwen2.5-7B on each usual GPU."""
    limits = EngineLimits.for_gpu(gpu_gb)
    assert limits.max_seqs == max_sequences(gpu_gb) == seqs
    assert layer_bytes(SHAPE, limits.batched_tokens) == layer
    assert sampling_bytes(SHAPE, limits) == sampling
    assert activation_bytes(SHAPE, limits) == max(layer, sampling)
    assert limits.captured == graphs
    assert graph_bytes(SHAPE, limits) == (least, most)


def test_a_real_log_is_predicted() -> None:
    """vLLM 0.11 alone on a 24 GB card, share 0.90, 256 sequences: 14.2488 GiB of weights, and 118,832 tokens of KV
    cache, within 5 %. Its graphs, 0.65 GiB, lay outside the share, between the two bounds."""
    limits = EngineLimits(max_seqs=256)
    assert pytest.approx(14.2488 * GIB, rel=0.05) == QWEN_7B.weights_bytes
    least, most = kv_bytes(0.90 * usable_bytes(24), QWEN_7B.weights_bytes, SHAPE, limits, graphs_inside=False)
    assert least == most
    assert most / QWEN_7B.kv_bytes_per_token == pytest.approx(118_832, rel=0.05)
    lower, upper = graph_bytes(SHAPE, limits)
    assert lower < 0.65 * GIB < upper


def test_without_graphs_there_are_none() -> None:
    """`--enforce-eager`."""
    assert graph_bytes(SHAPE, EngineLimits(max_seqs=128, graphs=False)) == (0, 0)


@given(st.integers(1, 1024), st.integers(1, 16384), st.integers(0, 10**11))
def test_what_is_left_is_the_share_less_each_part(seqs: int, tokens: int, share: int) -> None:
    """To the byte; and graphs inside the share never leave more."""
    limits = EngineLimits(seqs, tokens)
    lower, upper = graph_bytes(SHAPE, limits)
    outside, same = kv_bytes(share, 7, SHAPE, limits, graphs_inside=False)
    assert outside == same == share - 7 - activation_bytes(SHAPE, limits)
    assert kv_bytes(share, 7, SHAPE, limits) == (outside - upper, outside - lower)
