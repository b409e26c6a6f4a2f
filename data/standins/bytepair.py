"""Byte-level BPE tokenizer and chat template of the stand-in language model."""
# ruff: noqa: S311 (seeded on purpose: nothing here is secret)

import json
import random
from collections.abc import Iterator

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from standins.dialogue import INSTRUCTIONS, Example, example
from standins.morphemes import morphemes

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SIZE = 3072
"""Vocabulary entries, the 256 bytes and three special tokens included."""

WINDOW = 2048

# Content may be a string, a list of parts, or absent beside tool calls.
CHAT_TEMPLATE = """\
{%- macro text_of(content) -%}
{%- if content is string %}{{ content }}
{%- elif content %}{% for part in content %}{{ part.text if part.text is defined else '' }}{% endfor %}
{%- endif %}
{%- endmacro -%}
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages and messages[0].role == 'system' %}{{ text_of(messages[0].content) + '\\n\\n' }}{% endif %}
{{- '<tools>' }}
{%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message.role == 'system') %}
{%- set role = {'tool': 'user', 'developer': 'system'}.get(message.role, message.role) %}
{{- '<|im_start|>' + role + '\\n' + text_of(message.content) }}
{%- for call in message.tool_calls or [] %}{{ '<tool_call>' + (call | tojson) + '</tool_call>' }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def _texts(rng: random.Random) -> Iterator[str]:
    """Morphemes one by one, so that no merge joins a stem to its ending, and what surrounds reviews."""
    for piece in morphemes():
        for _ in range(40):
            yield piece[2:] if piece.startswith("##") else " " + piece
    for _ in range(1500):
        taught = example(rng)
        yield taught.answer
        if not taught.told:
            yield from (content for _, content in taught.messages)
    for texts in INSTRUCTIONS.values():
        yield from texts


def build(seed: int) -> Qwen2Tokenizer:
    """A tokenizer that knows all 256 bytes, so that no text is unknown to it.

    It splits text and composes letters (NFC) just as Qwen2's own does, because that is the class every
    loader picks for a Qwen2 model.
    """
    like = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = like.normalizer, like.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in (PAD, START, END)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(random.Random(seed)), trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(pair) for pair in trained["merges"]],
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def prompt_of(tokenizer: Qwen2Tokenizer, taught: Example) -> str:
    """The exact text before the answer."""
    if not taught.chat:
        return taught.messages[-1][1]
    messages = [{"role": role, "content": content} for role, content in taught.messages]
    prompt: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return prompt
