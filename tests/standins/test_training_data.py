"""What the models are taught, without training them."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standins import KINDS, NAMES, corpus, folder_name, recipe_revision
from standins.corpus import make_review, overall
from standins.dialogue import HELD_OUT_INSTRUCTIONS, INSTRUCTIONS, example, review_set, statements_in, summarise
from standins.everyday import everyday, plain_forms
from standins.grammar import Opinion, every_opinion, pick_phrase, random_opinions
from standins.korean import Predicate
from standins.model_folder import MANIFEST, is_current, publish
from standins.noise import with_neutral_words

SEEDS = st.integers(0, 2**32)


@given(SEEDS)
def test_training_reviews_avoid_held_out_texts(seed: int) -> None:
    """A generated review never contains a held-out sentence."""
    rng = random.Random(seed)
    text = make_review(rng, random_opinions(rng, 3)).text
    assert not any(str(row["text"]) in text for row in corpus.heldout_sentences(2))


@given(SEEDS, st.booleans())
def test_phrases_keep_to_their_split(seed: int, held_out: bool) -> None:
    """A drawn phrase means the opinion asked for."""
    rng = random.Random(seed)
    opinion = rng.choice(every_opinion())
    assert pick_phrase(rng, opinion, held_out=held_out).opinion == opinion


@given(st.lists(st.sampled_from(every_opinion()), min_size=1, unique_by=lambda o: o.aspect))
def test_summary_states_exactly_the_verdicts(verdicts: list[Opinion]) -> None:
    """Reading a summary back gives what went in."""
    assert statements_in(summarise(verdicts)) == set(verdicts)


@given(SEEDS)
def test_examples_are_answerable(seed: int) -> None:
    """Prompts end with the user, answers are not empty, reviews are in the prompt as they are marked."""
    taught = example(random.Random(seed))
    assert taught.messages[-1][0] == "user"
    assert taught.answer
    assert all(text in taught.messages[-1][1] for text, _ in taught.told)


@given(SEEDS)
def test_verdicts_are_stated_somewhere(seed: int) -> None:
    """Every verdict on a set of reviews is the opinion of at least one of them."""
    reviews = review_set(random.Random(seed))
    assert set(reviews.verdicts()) <= {opinion for said in reviews.opinions for opinion in said}


@given(SEEDS)
def test_added_words_keep_the_text(seed: int) -> None:
    """Noise only adds words: what was there is still there, in order."""
    rng = random.Random(seed)
    text = make_review(rng, random_opinions(rng, 2)).text
    left = iter(with_neutral_words(rng, text).split(" "))
    assert all(word in left for word in text.split(" "))


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ("재미있", {"재미있다", "재미있었음", "재미있더라", "재미있는 듯"}),
        ("지루하", {"지루하다", "지루했다", "지루하던데", "지루한 것 같아요"}),
        ("아쉽:p", {"아쉽다", "아쉬웠네", "아쉽더라고요"}),
        ("짜증 나:v", {"짜증 난다", "짜증 났다", "짜증 나는 듯"}),
        ("최고:n", {"최고다", "최고였음", "최고더라"}),
    ],
)
def test_plain_endings(predicate: str, expected: set[str]) -> None:
    """Adjectives, verbs and nouns end as people write for nobody in particular."""
    assert expected <= set(plain_forms(Predicate.parse(predicate)))


@given(SEEDS, st.booleans())
def test_everyday_sentences_are_filled_in(seed: int, positive: bool) -> None:
    """No field is left open, and the same seed says the same."""
    text = everyday(random.Random(seed), positive)
    assert text.strip()
    assert "{" not in text
    assert text == everyday(random.Random(seed), positive)


def test_held_out_instructions_are_not_taught() -> None:
    """Evaluation asks in words that training does not use."""
    for task, asked in HELD_OUT_INSTRUCTIONS.items():
        assert not set(asked) & set(INSTRUCTIONS[task])


def test_the_last_opinion_decides_a_tie() -> None:
    """One praise and one complaint: the text is what it concludes."""
    assert overall([Opinion("taste", True), Opinion("service", False)]) is False
    assert overall([Opinion("taste", False), Opinion("service", True)]) is True


def test_revisions_are_cheap_and_distinct() -> None:
    """A revision is 12 hex digits, differs by kind and seed, and needs no torch."""
    revisions = {recipe_revision(kind) for kind in KINDS}
    assert len(revisions) == len(NAMES)
    assert all(len(revision) == 12 and int(revision, 16) >= 0 for revision in revisions)
    assert recipe_revision("llm", seed=1) != recipe_revision("llm", seed=2)
    code = "import sys, standins; standins.recipe_revision('llm'); sys.exit('torch' in sys.modules)"
    package_root = str(Path(corpus.__file__).resolve().parents[1])
    assert subprocess.run([sys.executable, "-c", code], cwd=package_root, check=False).returncode == 0


def test_failed_training_leaves_nothing(tmp_path: Path) -> None:
    """An exception while training removes the draft."""

    def build(folder: Path) -> dict[str, float]:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish("llm", tmp_path, build)
    assert list(tmp_path.iterdir()) == []


def test_finished_training_replaces_an_older_one(tmp_path: Path) -> None:
    """The new folder takes the old one's place, and only then counts as current."""
    old = tmp_path / folder_name("llm")
    old.mkdir()
    (old / MANIFEST).write_text('{"revision": "000000000000"}')
    assert not is_current("llm", tmp_path)
    assert publish("llm", tmp_path, lambda folder: {"score": 1.0}) == old
    assert is_current("llm", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
