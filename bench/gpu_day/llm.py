"""Qwen2.5-7B's shape: tokens a second by Transformers, and by vLLM where it imports."""

import gc
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from bench.gpu_day.interleaving import DEVICE, Scale
from bench.tables import figure_table

TITLE = "LLM"
BATCHES = (1, 20)
"""Prompts at a time."""
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
QWEN_7B = (152_064, 3_584, 18_944, 28, 28)
TINY = (512, 32, 64, 2, 4)
KEY_VALUE_HEADS = 4
PROMPT_TOKENS, NEW_TOKENS = 256, 128
VLLM_SHARE = 0.8
"""Of the card's memory."""

Generate = Callable[[int], int]
"""Answers so many prompts, and returns how many tokens it wrote."""


def by_transformers(config: Qwen2Config, new_tokens: int) -> Generate:
    """Make the model, and generate greedily without an end."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def generate(count: int) -> int:
        prompt = torch.randint(5, config.vocab_size, (count, PROMPT_TOKENS), device=DEVICE)
        limits = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
        made = model.generate(prompt, attention_mask=torch.ones_like(prompt), **limits)
        return int(made.shape[1] - PROMPT_TOKENS) * count

    return generate


def by_vllm(config: Qwen2Config, folder: str, new_tokens: int) -> Generate:
    """Start vLLM on the same shape; it makes random weights itself."""
    from vllm import LLM, SamplingParams

    config.save_pretrained(Path(folder))
    options = {"load_format": "dummy", "skip_tokenizer_init": True, "max_model_len": 1_024, "dtype": "bfloat16"}
    engine = LLM(folder, gpu_memory_utilization=VLLM_SHARE, **options)
    wanted = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)

    def generate(count: int) -> int:
        rows = torch.randint(5, config.vocab_size, (count, PROMPT_TOKENS)).tolist()
        answers = engine.generate([{"prompt_token_ids": row} for row in rows], wanted, use_tqdm=False)
        return sum(len(answer.outputs[0].token_ids) for answer in answers)

    return generate


def measure(scale: Scale) -> dict[str, Any]:
    """Measure Transformers, and vLLM after it: both models do not fit a card of 24 GB together."""
    shape: dict[str, Any] = dict(zip(SIZES, TINY if scale.tiny else QWEN_7B, strict=True))
    config = Qwen2Config(num_key_value_heads=KEY_VALUE_HEADS, architectures=["Qwen2ForCausalLM"], **shape)
    new_tokens = 4 if scale.tiny else NEW_TOKENS

    def rates(generate: Generate) -> dict[str, float]:
        return scale.rates({str(count): partial(generate, count) for count in BATCHES}, 15.0)

    measured = {"transformers": rates(by_transformers(config, new_tokens))}
    gc.collect()
    torch.cuda.empty_cache()
    try:
        with TemporaryDirectory() as folder:
            measured["vllm"] = rates(by_vllm(config, folder, new_tokens))
    except Exception as error:  # What was measured before must not be lost.
        return {"tokens_per_second": measured, "without_vllm": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"tokens_per_second": measured}


def as_markdown(document: Mapping[str, Any]) -> list[str]:
    """Render the part of the report."""
    missing = document.get("without_vllm")
    return [
        "Tokens a second of Qwen2.5-7B's shape, random weights, greedily; medians of interleaved rounds.",
        figure_table("prompts at a time", document["tokens_per_second"]),
        f"vLLM did not run: {missing}" if missing else "",
    ]
