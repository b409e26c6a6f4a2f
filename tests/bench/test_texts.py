"""The benchmark's texts."""

import pytest

from bench import texts, weights
from bench.load import LoadCell, LoadSpec, bodies


def test_same_seed_same_texts() -> None:
    """A seed decides the texts, and a longer list begins with the shorter one."""
    samples = weights.reviews()
    assert texts.make(samples, 50, seed="a") == texts.make(samples, 80, seed="a")[:50]


def test_no_text_is_sent_twice() -> None:
    """Neither within a cell nor between the cells of a run is a text repeated."""
    samples = weights.reviews()
    made = [text for cell in range(8) for text in texts.make(samples, 1_000, seed=f"round 0 {cell}")]
    assert len(set(made)) == len(made)


def test_whole_reviews_get_a_number() -> None:
    """Each text is one review and a phrase that makes it unique."""
    made = texts.make(["맛있어요. 또 갈게요"], 50, seed="whole", whole=True)
    assert len(set(made)) == 50
    assert all("맛있어요. 또 갈게요" in text for text in made)


def test_lengths_are_realistic(tmp_path_factory: pytest.TempPathFactory) -> None:
    """About 18 tokens on average, short ones and a long tail, nothing unknown, within the window."""
    from tokenizers import Tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    weights.write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoded = tokenizer.encode_batch(texts.make(weights.reviews(), 2_000, seed="lengths"))
    lengths = sorted(len(text.ids) for text in encoded)
    assert 17 <= sum(lengths) / len(lengths) <= 20
    assert lengths[100] <= 12
    assert 28 <= lengths[-100] <= lengths[-1] <= weights.WINDOW
    assert not any("[UNK]" in text.tokens for text in encoded)


def test_bodies_are_requests_of_the_cells_size() -> None:
    """Each body holds as many texts as the cell says, and there is at least one for each client."""
    import json

    load = LoadSpec("http://unused", "bench", LoadCell(texts=32, clients=8), 0.5, 1.0, "bodies")
    made = [json.loads(body) for body in bodies(load)]
    assert len(made) >= 8
    assert {len(request["input"]) for request in made} == {32}
    assert {request["encoding_format"] for request in made} == {"base64"}
