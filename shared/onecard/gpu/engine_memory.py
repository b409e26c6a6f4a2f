"""What vLLM needs besides weights and KV cache: activations, sampling, CUDA graphs. Pure; each by its own rule."""

from dataclasses import dataclass

from onecard.gpu.costs import DecoderShape

BATCHED_TOKENS = 2048
"""Tokens of one step on a GPU below 70 GiB: vLLM's default for its server (`arg_utils.py`), which the launcher sets by
the GPU that is planned for."""
LARGE_GPU_BATCHED_TOKENS = 8192
"""The same from 70 GiB on. On an A100 it is 2,048; the plan takes the larger for all."""
LARGE_GPU_GB = 72
LARGEST_GRAPH_TOKENS = 512
"""vLLM captures no CUDA graph for more tokens, nor for more than twice its number of sequences."""
SAMPLING_BYTES = 2 + 4 + 4 + 8 + 4 + 1 + 1
"""Most bytes that sampling holds for each sequence and token id: logits as computed, in FP32, sorted, their indices,
probabilities, and the masks of top-k and top-p (`apply_top_k_top_p_pytorch` in vLLM)."""
GRAPH_BYTES = (1 << 20, 24 << 20)
"""Least and most that one captured graph takes besides the shared pool: what vLLM's profiler assumes at least
(`profile_cudagraph_memory`), and what was measured for a graph of whole steps (vLLM issue 50780)."""


@dataclass(frozen=True)
class EngineLimits:
    """The sizes for which vLLM profiles."""

    max_seqs: int
    """Most sequences at a time (`--max-num-seqs`)."""
    batched_tokens: int = BATCHED_TOKENS
    """Most tokens in one step (`--max-num-batched-tokens`)."""
    graphs: bool = True
    """Whether CUDA graphs are captured; not with `--enforce-eager`."""

    @classmethod
    def for_gpu(cls, gpu_gb: float) -> "EngineLimits":
        """The limits by the size of the GPU.

        Args:
            gpu_gb: nominal size.

        Returns:
            The launcher's defaults. `LLM_MAX_SEQS` and `LLM_EAGER` are not taken into account.
        """
        tokens = LARGE_GPU_BATCHED_TOKENS if gpu_gb >= LARGE_GPU_GB else BATCHED_TOKENS
        return cls(max_sequences(gpu_gb), tokens)

    @property
    def captured(self) -> tuple[int, int]:
        """Number of graphs: of steps cut at the attention, for every size; and of whole steps, which only decode."""
        if not self.graphs:
            return 0, 0
        largest = min(2 * self.max_seqs, LARGEST_GRAPH_TOKENS)
        return _capture_sizes(largest), _capture_sizes(min(self.max_seqs, largest))


def max_sequences(gpu_gb: float) -> int:
    """Most sequences that are generated at the same time, by the size of the GPU.

    Args:
        gpu_gb: nominal size.

    Returns:
        64 below 24 GB, 128 below 40 GB, 256 from there on.
    """
    if gpu_gb < 24:
        return 64
    return 128 if gpu_gb < 40 else 256


def _capture_sizes(largest: int) -> int:
    """How many sizes vLLM captures up to `largest`: 1, 2, 4, then steps of 8 below 256, then steps of 16."""
    return sum(1 for size in (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)) if size <= largest)


def layer_bytes(shape: DecoderShape, tokens: int) -> int:
    """Peak of the widest layer: hidden states, residual and normalised input; gate, up and their product.

    Args:
        shape: of the model.
        tokens: in the step.

    Returns:
        Bytes.
    """
    return tokens * (3 * shape.hidden + 3 * shape.intermediate) * shape.bytes_per_number


def sampling_bytes(shape: DecoderShape, limits: EngineLimits) -> int:
    """Peak of sampling for all sequences at once, while the hidden states of the step are still held.

    Args:
        shape: of the model.
        limits: sequences and tokens.

    Returns:
        Bytes.
    """
    hidden = limits.batched_tokens * shape.hidden * shape.bytes_per_number
    return limits.max_seqs * shape.vocabulary * SAMPLING_BYTES + hidden


def activation_bytes(shape: DecoderShape, limits: EngineLimits) -> int:
    """Peak of vLLM's profiling run: the widest layer and sampling come one after the other.

    Args:
        shape: of the model.
        limits: for which it profiles.

    Returns:
        Bytes.
    """
    return max(layer_bytes(shape, limits.batched_tokens), sampling_bytes(shape, limits))


def graph_bytes(shape: DecoderShape, limits: EngineLimits) -> tuple[int, int]:
    """CUDA graphs: a pool for the activations of the largest captured step, shared by all, and each graph's own.

    vLLM 0.32 counts them inside its share, 0.11 did not.

    Args:
        shape: of the model.
        limits: sequences.

    Returns:
        Least and most bytes; the number that is taken depends on the driver.
    """
    pieces, whole = limits.captured
    if not pieces:
        return 0, 0
    pool = layer_bytes(shape, min(2 * limits.max_seqs, LARGEST_GRAPH_TOKENS))
    least, most = GRAPH_BYTES
    return pool + (pieces + whole) * least, pool + pieces * least + whole * most


def kv_bytes(
    share_bytes: float, weights_bytes: int, shape: DecoderShape, limits: EngineLimits, *, graphs_inside: bool = True
) -> tuple[int, int]:
    """What vLLM leaves for the KV cache: its share less weights, activations and, since 0.21, CUDA graphs.

    Args:
        share_bytes: the share (`--gpu-memory-utilization` of the total).
        weights_bytes: of the loaded weights that lie on the GPU.
        shape: of the model.
        limits: for which vLLM profiles.
        graphs_inside: whether graphs are part of the share; before vLLM 0.21 they were taken from what is outside.

    Returns:
        Least and most bytes, by what graphs take; negative where the rest does not fit.
    """
    left = int(share_bytes) - weights_bytes - activation_bytes(shape, limits)
    least, most = graph_bytes(shape, limits) if graphs_inside else (0, 0)
    return left - most, left - least
