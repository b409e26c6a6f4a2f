"""The trained stand-ins do what the stack needs of them. Needs the folder of trained models."""

import json
from pathlib import Path

import pytest

from standins import KINDS, NAMES, Kind, corpus, folder_name, recipe_revision
from standins.model_folder import MANIFEST


def folder(model_cache: Path, kind: Kind) -> Path:
    return model_cache / folder_name(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_card_names_the_present_recipe(model_cache: Path, kind: Kind) -> None:
    """A stand-in says what it is; weights are safetensors only."""
    card = json.loads((folder(model_cache, kind) / MANIFEST).read_text(encoding="utf-8"))
    assert (card["name"], card["kind"], card["stand_in"]) == (NAMES[kind], kind, True)
    assert card["revision"] == recipe_revision(kind)
    assert (folder(model_cache, kind) / "model.safetensors").is_file()
    assert not [p for p in folder(model_cache, kind).rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pth")]


def test_sentiment_of_held_out_sentences(model_cache: Path) -> None:
    """At least 95 in 100 are labelled rightly, and 90 in 100 of the clauses that mixed sentences are cut into."""
    from standins.sentiment import accuracy, heldout_clauses, load

    classifier = load(folder(model_cache, "sentiment"))
    assert accuracy(*classifier, corpus.heldout_sentences()) >= 0.95
    assert accuracy(*classifier, heldout_clauses()) >= 0.90


def test_encoder_computes_what_the_package_does(model_cache: Path) -> None:
    """The converted encoder's vectors of 500 Korean texts have a cosine of at least 0.999 to the package's own."""
    from sentence_transformers import SentenceTransformer

    from standins.embedding import least_cosine, probe_texts

    encoder = SentenceTransformer(str(folder(model_cache, "embedding")), device="cpu")
    texts = probe_texts(500)
    assert len(set(texts)) == 500
    assert least_cosine(encoder, texts) >= 0.999


def test_encoder_states_its_prompts(model_cache: Path) -> None:
    """Its configuration says what its makers put in front of queries and of what is searched."""
    card = json.loads((folder(model_cache, "embedding") / "config_sentence_transformers.json").read_text())
    assert card["prompts"] == {"query": "query: ", "document": "passage: "}


def test_language_model_writes_about_the_reviews_it_was_given(model_cache: Path) -> None:
    """Eight sampled answers in ten are full Korean sentences about what the reviews speak of.

    About half claim only what is true; what the others claim wrongly, in right sentences, is an aspect or its polarity.
    """
    from standins.answer_quality import measure_quality

    found = measure_quality(folder(model_cache, "llm"), seed=7)
    assert found.complete >= 0.80
    assert found.true >= 0.45


def test_small_talk_gets_a_sentence(model_cache: Path) -> None:
    """A greeting and an off-topic question get a short Korean sentence."""
    from standins.answer_quality import generate, tokenizer_of
    from standins.bytepair import prompt_of
    from standins.dialogue import Example

    llm = folder(model_cache, "llm")
    prompts = [
        prompt_of(tokenizer_of(llm), Example((("user", text),), "", chat=True))
        for text in ("안녕하세요", "오늘 날씨 어때?")
    ]
    for text, ended in generate(llm, prompts, seed=1):
        assert ended
        assert "리뷰" in text
        assert text.endswith("다.")


@pytest.mark.parametrize("text", ["맛있어요 😀", "é\u200b\x00漢字", "  공백  \r\n", "<b>&amp;</b>"])
def test_language_model_tokens_round_trip(model_cache: Path, text: str) -> None:
    """Any composed text (NFC, as Qwen2 reads it) decodes to itself."""
    from standins.answer_quality import tokenizer_of

    tokenizer = tokenizer_of(folder(model_cache, "llm"))
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_chat_template_takes_what_the_api_sends(model_cache: Path) -> None:
    """System messages, several turns, content parts, tools, tool calls and their results."""
    from standins.answer_quality import tokenizer_of

    call = {"id": "a", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "짧게"},
        {"role": "user", "content": [{"type": "text", "text": "안녕"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "결과"},
    ]
    tools = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
    text = tokenizer_of(folder(model_cache, "llm")).apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, tokenize=False
    )
    assert text.count("<|im_start|>system") == 1
    assert "안녕<|im_end|>" in text
    assert '"find"' in text
    assert text.endswith("<|im_start|>assistant\n")
