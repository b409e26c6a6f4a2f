"""What fails one generation of the Transformers engine fails none beside it."""

import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from llm_service.fallback.decoding import BatchDecoder
from llm_service.fallback.generation import Generation, GenerationEnd, GenerationEvent, SamplingParams
from onecard.errors import InternalError

BYTES = {f"<0x{byte:02X}>": byte for byte in range(256)}
A = len(BYTES)
"""A token that is a letter."""


@pytest.fixture
def tokenizer() -> Tokenizer:
    """One as Llama 2, Gemma and SOLAR have: bytes that are no whole character are tokens by themselves."""
    made = Tokenizer(BPE({**BYTES, "a": A}, [], byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])  # type: ignore[assignment]
    return made


@pytest.fixture
def decoder() -> BatchDecoder:
    """On a model of one small layer, with the weights that it was born with."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = Qwen2Config(vocab_size=A + 1, num_hidden_layers=1, **sizes)
    torch.manual_seed(0)
    return BatchDecoder(Qwen2ForCausalLM(config).eval(), "cpu", GenerationConfig(), frozenset(), largest=2)


def test_a_byte_that_begins_no_character_does_not_end_an_answer(tokenizer: Tokenizer) -> None:
    """가, a lone byte, a letter: with it all bytes decode to something else, and the library gives up."""
    events: list[GenerationEvent] = []
    generation = Generation(tokenizer, [A], SamplingParams(max_tokens=6), events.append)
    for token in (*"가".encode(), 0xF0, A, A):
        generation.accept(token, ())
    assert events == ["가", "a", "a", GenerationEnd("length", 6)]


@pytest.mark.parametrize("part", ["decoder", "sampler", "seed"])
def test_what_fails_one_generation_leaves_the_others_of_its_batch(
    tokenizer: Tokenizer, decoder: BatchDecoder, part: str
) -> None:
    """Whether its text cannot be decoded, its probabilities are infinite, or its sampler cannot be made."""
    params = {
        "decoder": SamplingParams(max_tokens=3),
        "sampler": SamplingParams(max_tokens=3, temperature=1.0, repetition_penalty=5e-324),
        "seed": SamplingParams(max_tokens=3, seed=2**65),
    }[part]
    failed: list[GenerationEvent] = []
    ended: list[GenerationEvent] = []
    broken = Generation(
        None if part == "decoder" else tokenizer,  # type: ignore[arg-type]
        range(A + 1),
        params,
        failed.append,
    )
    decoder.run([broken, Generation(tokenizer, [A], SamplingParams(max_tokens=3), ended.append)])
    assert [type(event) for event in failed] == [InternalError]
    assert ended[-1] == GenerationEnd("length", 3)
