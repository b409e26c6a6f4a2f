"""The aspects that clauses are filed under, as a file describes them. Pure, but for `read_aspects`.

The rule: a clause has the aspects that its words name, as Kiwi's terms («대기업» is not «대기»); of a compound and its
parts, the compound counts («배달비» is a price). A clause without such a word has the aspect whose descriptions its
vector is nearest to, if it is near enough; hints and objects among its words bring an aspect nearer. A clause that is
near none has the aspect whose object it speaks of («고기»), if there is one.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from review_service.schemas import Text
from review_service.words.terms import Term

ASPECTS_VERSION = 1
"""Incremented when the same clause gets other aspects."""
_DEFAULT_FILE = Path(__file__).with_name("aspects.toml")
HINT_BONUS = 0.2
"""What a hint adds to an aspect's similarity."""
OBJECT_BONUS = 0.1
"""What an object adds to it, if there is no hint."""
MIN_SIMILARITY = 0.35
"""Minimum of similarity and bonus."""
NEAREST = 2
"""Number of an aspect's descriptions whose similarity counts."""

Vectors = npt.NDArray[np.float32]


class DescribedAspect(BaseModel):
    """An aspect as the file describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: Text
    words: str
    hints: str = ""
    objects: str = ""
    descriptions: tuple[Text, ...] = Field(min_length=NEAREST)


_FILE: TypeAdapter[dict[str, DescribedAspect]] = TypeAdapter(dict[str, DescribedAspect])


@dataclass(frozen=True)
class AspectCatalog:
    """The aspects of a file."""

    aspects: Mapping[str, DescribedAspect]
    """By key, in the order of the file."""
    version: str
    """Differs if a clause may get other aspects."""

    @cached_property
    def descriptions(self) -> list[str]:
        """The descriptions of all aspects, in their order."""
        return [text for aspect in self.aspects.values() for text in aspect.descriptions]

    @cached_property
    def _by_word(self) -> dict[str, str]:
        return {word: key for key, aspect in self.aspects.items() for word in aspect.words.split()}

    @cached_property
    def _hints(self) -> dict[str, frozenset[str]]:
        return {key: frozenset(aspect.hints.split()) for key, aspect in self.aspects.items()}

    @cached_property
    def _objects(self) -> dict[str, frozenset[str]]:
        return {key: frozenset(aspect.objects.split()) for key, aspect in self.aspects.items()}

    def named(self, terms: Sequence[Term]) -> list[str]:
        """List the aspects that words name.

        Args:
            terms: Terms of a clause.

        Returns:
            Keys in the order of the file.
        """
        naming = [term for term in terms if term.text in self._by_word]
        found = {self._by_word[term.text] for term in naming if not any(_is_part(term, other) for other in naming)}
        return [key for key in self.aspects if key in found]

    def nearest(self, similarities: Sequence[float], terms: Sequence[Term]) -> list[str]:
        """Find the aspect that a clause is nearest to.

        Args:
            similarities: `DescriptionVectors.similarities` of the clause's vector.
            terms: Terms of the clause.

        Returns:
            The aspect's key; empty if none is near enough, and no object is spoken of.
        """
        words = {term.text for term in terms}
        objects = [key for key in self.aspects if not words.isdisjoint(self._objects[key])]
        scores: dict[str, float] = {}
        for key, similarity in zip(self.aspects, similarities, strict=True):
            hinted = not words.isdisjoint(self._hints[key])
            scores[key] = similarity + (HINT_BONUS if hinted else OBJECT_BONUS * (key in objects))
        nearest = max(scores, key=lambda key: scores[key])
        return [nearest] if scores[nearest] >= MIN_SIMILARITY else objects[:1]


class DescriptionVectors:
    """The vectors of a catalog's descriptions, by one model."""

    def __init__(self, catalog: AspectCatalog, vectors: Vectors) -> None:
        """Take float32 of shape (descriptions, size), rows of unit length, in the order of the descriptions."""
        # What all descriptions have in common says nothing about aspects, and is most of some encoders' vectors.
        self._centre = vectors.mean(axis=0)
        self._vectors = _unit(vectors - self._centre)
        counts = [len(aspect.descriptions) for aspect in catalog.aspects.values()]
        self._ends = np.cumsum(counts)[:-1]

    def similarities(self, vector: Vectors) -> list[float]:
        """Compute how near a clause is to each aspect.

        Args:
            vector: The clause's vector, of the same model and of unit length.

        Returns:
            For each aspect, the mean of the `NEAREST` largest cosines with its descriptions.
        """
        cosines = self._vectors @ _unit(vector - self._centre)
        return [float(np.sort(own)[-NEAREST:].mean()) for own in np.split(cosines, self._ends)]


def read_aspects(path: Path | None = None) -> AspectCatalog:
    """Read a file of aspects.

    Args:
        path: The file; None for the one that comes with the service.

    Returns:
        The aspects.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no TOML in UTF-8, has no aspect, or an aspect lacks something.
    """
    return parse_aspects((path or _DEFAULT_FILE).read_text("utf-8"))


def parse_aspects(text: str) -> AspectCatalog:
    """Parse a file of aspects.

    Args:
        text: TOML, as `aspects.toml` has it.

    Returns:
        The aspects.

    Raises:
        ValueError: It is no TOML, has no aspect, or an aspect lacks something. The message is one line, and says what.
    """
    digest = blake2b(f"{ASPECTS_VERSION}\0{text}".encode(), digest_size=6).hexdigest()
    try:
        aspects = _FILE.validate_python(tomllib.loads(text))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(f"'{'.'.join(map(str, first['loc']))}': {first['msg']}") from None
    if not aspects:
        raise ValueError("it describes no aspect")
    return AspectCatalog(aspects, digest)


def _is_part(term: Term, other: Term) -> bool:
    """Whether a term is within a longer one."""
    longer = other.end - other.start > term.end - term.start
    return longer and other.start <= term.start and term.end <= other.end


def _unit(vectors: Vectors) -> Vectors:
    # A clause may be the centre itself, however unlikely: no division by 0.
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
    return unit
