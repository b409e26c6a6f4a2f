"""From lexicon to sentences: which phrases are held out, and the frames that carry them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple
from zlib import crc32

from standins.korean import Predicate, particle
from standins.lexicon import Aspect, aspects

HELD_OUT_SHARE = 6
"""One in this many (subject, predicate) pairs never appears in reviews or training data."""

NEGATED_SHARE = 0.12
"""Share of phrases said by negating their opposite: «비싸지 않아요» for praise of the price."""


class Opinion(NamedTuple):
    """An aspect and whether it is praised."""

    aspect: str
    positive: bool


@dataclass(frozen=True)
class Phrase:
    """A subject and what is said of it, not yet inflected."""

    opinion: Opinion
    subject: str
    predicate: Predicate
    negated: bool = False


@dataclass(frozen=True)
class Frames:
    """Sentence patterns for one split. Training and held-out patterns share no member.

    `{i}` `{n}` `{d}` are the subject with 이/가, 은/는, 도; the rest are endings (`Predicate.forms`).
    A second phrase's fields end in 2.
    """

    plain: tuple[str, ...]
    strong: tuple[str, ...]
    praise: tuple[str, ...]
    blame: tuple[str, ...]
    contrast: tuple[str, ...]
    agree: tuple[str, ...]
    query: tuple[str, ...]

    def all(self) -> frozenset[str]:
        """Every pattern of this split."""
        groups = (self.plain, self.strong, self.praise, self.blame, self.contrast, self.agree, self.query)
        return frozenset(frame for group in groups for frame in group)


# `strong` holds degree adverbs, which do not go with a negated predicate.
TRAIN_FRAMES = Frames(
    plain=(
        "{i} {yo}.", "{n} {yo}", "{i} {ne}.", "{i} {past}.", "{n} {past}.", "{i} {formal}.", "{d} {yo}.",
        "{i} {um}", "{n} {um}.", "여기 {i} {yo}", "이 집은 {i} {yo}.", "{n} 생각보다 {past}.", "{i} {yo}~",
        "갈 때마다 {i} {yo}.", "{i} {adn} 편이에요.", "{i} {adn} 것 같아요.", "우선 {i} {yo}.",
    ),
    strong=(
        "{i} 정말 {yo}!", "{i} 진짜 {ne}", "{n} 너무 {yo}", "{i} 참 {ne}~", "{i} 매우 {formal}.",
        "{i} 완전 {um}", "{i} 많이 {yo}.",
    ),
    praise=(
        "{i} {yo} ㅎㅎ", "{i} {ne}ㅋㅋ", "{i} {yo}!! 👍", "{i} {yo} 😊", "역시 {i} {ne} ♥",
        "기대 이상으로 {i} {past}.",
    ),
    blame=(
        "{i} {yo}ㅠㅠ", "{i} {ne} ㅜㅜ", "{i} {past}... 😡", "하... {i} {yo}", "{i} {um} 👎",
        "기대했는데 {i} {past}.",
    ),
    contrast=(
        "{n} {nde} {n2} {yo2}.", "{n} {jiman} {n2} {past2}.", "{i} {nde} {i2} {ne2}.", "{n} {jiman} {i2} {um2}",
        "{n} {nde} {i2} 좀 {yo2}.",
    ),
    agree=("{i} {go} {d2} {yo2}.", "{n} {go} {n2} {past2}.", "{d} {go} {d2} {ne2}.", "{i} {go} {i2} {um2}"),
    query=(
        "{i} {adn} 곳", "{i} {adn} 식당", "{i} {adn} 맛집", "{i} {adn} 데 추천해 줘", "{i} {adn} 곳 알려 주세요",
        "{i} {adn} 음식점 어디예요", "{i} {yo}", "{i} {adn} 리뷰", "{subject} {adn} 곳", "여기 {i} 어때요",
    ),
)  # fmt: skip

HELD_OUT_FRAMES = Frames(
    plain=(
        "솔직히 {i} {past}.", "먹어 보니 {i} {ne}.", "가 보니까 {i} {ne}~", "제 기준에는 {i} {yo}.",
        "{n} 전반적으로 {formal}.", "친구 말대로 {i} {past}", "이번에도 {n} {past}.", "{i} {adn} 게 느껴져요.",
    ),
    strong=("{n} 꽤 {yo}~", "{n} 확실히 {ne}.", "{i} 아주 {um}", "{i} 무척 {past}."),
    praise=("{i} {yo} ㅋㅋㅋㅋ 😍", "와 {i} {ne}!!", "{i} {past} ㅎㅎㅎ"),
    blame=("{i} {yo} ㅠㅠㅠ 😤", "에휴 {i} {ne}", "{i} {past} ;;"),
    contrast=("{n} {jiman} 그래도 {n2} {ne2}.", "{i} {nde} 정작 {n2} {past2}.", "{n} {nde} {d2} {yo2}..."),
    agree=("{i} {go} 게다가 {d2} {yo2}.", "{n} {go} 또 {i2} {ne2}."),
    query=(
        "{i} {adn} 집", "{i} {adn} 가게 찾아요", "근처에 {i} {adn} 데 있나요", "{i} {adn} 밥집 좀",
        "{subject} {adn} 집", "오늘 저녁 {i} {adn} 곳으로 가고 싶어", "{i} {adn} 맛집 어디 있지",
    ),
)  # fmt: skip


def is_held_out(subject: str, predicate: Predicate) -> bool:
    """Whether this pair is kept for evaluation only: a fixed function of its letters."""
    return crc32(f"{subject}|{predicate.stem}".encode()) % HELD_OUT_SHARE == 0


@cache
def phrases(aspect_id: str, positive: bool, held_out: bool) -> tuple[Phrase, ...]:
    """Every phrase of an aspect and polarity in one split, negated opposites not included."""
    aspect = aspects()[aspect_id]
    return tuple(
        Phrase(Opinion(aspect_id, positive), subject, predicate)
        for group in aspect.groups
        for subject in group.subjects
        for predicate in (group.praise if positive else group.blame)
        if is_held_out(subject, predicate) == held_out
    )


@cache
def _negatable(aspect_id: str, positive: bool, held_out: bool) -> tuple[Phrase, ...]:
    return tuple(p for p in phrases(aspect_id, positive, held_out) if p.predicate.negatable)


def pick_phrase(rng: random.Random, opinion: Opinion, *, held_out: bool) -> Phrase:
    """A phrase for an opinion, now and then by negating the opposite."""
    negated = rng.random() < NEGATED_SHARE
    source = _negatable if negated else phrases
    phrase = rng.choice(source(opinion.aspect, opinion.positive != negated, held_out))
    return Phrase(opinion, phrase.subject, phrase.predicate, negated)


def _fields(phrase: Phrase, suffix: str = "") -> dict[str, str]:
    subject = phrase.subject
    predicate = phrase.predicate.negated() if phrase.negated else phrase.predicate
    fields = {
        "i": particle(subject, "이", "가"),
        "n": particle(subject, "은", "는"),
        "d": subject + "도",
        "subject": subject,
        **predicate.forms,
    }
    return {name + suffix: value for name, value in fields.items()}


def frames_of(held_out: bool) -> Frames:
    """The patterns of one split."""
    return HELD_OUT_FRAMES if held_out else TRAIN_FRAMES


def sentence(rng: random.Random, phrase: Phrase, *, held_out: bool) -> str:
    """One sentence saying one phrase."""
    frames = frames_of(held_out)
    groups = [frames.plain, frames.plain, frames.praise if phrase.opinion.positive else frames.blame]
    if not phrase.negated:
        groups.append(frames.strong)
    return rng.choice(rng.choice(groups)).format(**_fields(phrase))


def joined(rng: random.Random, first: Phrase, second: Phrase, *, held_out: bool) -> str:
    """One sentence saying two phrases, «…지만 …» when they disagree."""
    frames = frames_of(held_out)
    same = first.opinion.positive == second.opinion.positive
    frame = rng.choice(frames.agree if same else frames.contrast)
    return frame.format(**_fields(first), **_fields(second, "2"))


def query(rng: random.Random, phrase: Phrase, *, held_out: bool) -> str:
    """A search query for places where the phrase is true."""
    return rng.choice(frames_of(held_out).query).format(**_fields(phrase))


def idiom(rng: random.Random, opinion: Opinion) -> str:
    """A fixed colourful sentence for an opinion; training split only."""
    aspect: Aspect = aspects()[opinion.aspect]
    text = rng.choice(aspect.praise_idioms if opinion.positive else aspect.blame_idioms)
    return text + rng.choice((".", "", "!", " ㅋㅋ" if opinion.positive else " ㅠㅠ"))


def say(rng: random.Random, opinions: Sequence[Opinion], *, held_out: bool, dishes: Sequence[str] = ()) -> str:
    """A text of one to a few sentences stating every opinion in order."""
    parts: list[str] = []
    rest = [_phrase_with_dish(rng, o, held_out, dishes) for o in opinions]
    while rest:
        first = rest.pop(0)
        if rest and rng.random() < 0.5:
            parts.append(joined(rng, first, rest.pop(0), held_out=held_out))
        elif not held_out and rng.random() < 0.08:
            parts.append(idiom(rng, first.opinion))
        else:
            parts.append(sentence(rng, first, held_out=held_out))
    return " ".join(parts)


def _phrase_with_dish(rng: random.Random, opinion: Opinion, held_out: bool, dishes: Sequence[str]) -> Phrase:
    phrase = pick_phrase(rng, opinion, held_out=held_out)
    # The first taste group speaks of dishes, the second of flavour: only there can a dish stand in.
    if opinion.aspect != "taste" or not dishes or rng.random() < 0.4:
        return phrase
    if phrase.subject not in aspects()["taste"].groups[0].subjects:
        return phrase
    dish = rng.choice(list(dishes))
    if is_held_out(dish, phrase.predicate) != held_out:
        return phrase
    return Phrase(opinion, dish, phrase.predicate, phrase.negated)


def random_opinions(rng: random.Random, count: int, *, positive_share: float = 0.5) -> list[Opinion]:
    """`count` opinions on different aspects."""
    chosen = rng.sample(sorted(aspects()), count)
    return [Opinion(a, rng.random() < positive_share) for a in chosen]


def every_opinion() -> list[Opinion]:
    """All opinions, each followed by its opposite."""
    return [Opinion(aspect, positive) for aspect in aspects() for positive in (True, False)]
