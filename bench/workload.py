"""What the encoders' contenders serve, and the texts that they get."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import texts, weights
from bench.paths import E5_SMALL, MODEL, REAL_REVIEWS, WORK

SAMPLE_TEXTS = 1_300
"""As many as `onecard build-engine` takes."""

REFERENCE_TEXTS = 16
"""Number of texts whose FP32 vectors are the reference for every contender."""


@dataclass(frozen=True)
class Workload:
    """A model and texts. Every contender of a run has the same ones."""

    name: str
    what: str
    """Description in one line, for the report."""
    model: Path
    """A sentence-transformers folder with mean pooling."""
    window: int
    """Most tokens of a text."""
    reviews: Callable[[], list[str]]
    """Reads the reviews that texts are made of."""
    whole: bool = False
    """Whether a text is one whole review, or a few words to five reviews."""

    @property
    def reference(self) -> Path:
        """File with FP32 vectors of fixed texts, with which responses are compared."""
        return WORK / f"reference-{self.name}.json"

    @property
    def results(self) -> str:
        """Name of the result files."""
        return "encoders" if self is SHORT else f"encoders-{self.name}"

    def texts(self, count: int, *, seed: str) -> list[str]:
        """Make texts, as `texts.make`."""
        return texts.make(self.reviews(), count, seed=seed, whole=self.whole)

    def checked_texts(self) -> list[str]:
        """Make the texts whose vectors are checked after each cell."""
        return self.texts(REFERENCE_TEXTS, seed="checked")

    def write_sample(self) -> Path:
        """Write texts with which engines are compared and calibrated, one a line. Returns the file."""
        file = WORK / f"sample-{self.name}.txt"
        lines = (text.replace("\n", " ") for text in self.texts(SAMPLE_TEXTS, seed="engines"))
        file.write_text("\n".join(lines), encoding="utf-8")
        return file

    def prepare(self) -> None:
        """Make the model if it is missing; a FileNotFoundError says what to run if that cannot be done."""
        if self.model == MODEL:
            weights.build()
        elif not self.model.is_dir():
            raise FileNotFoundError("there is no e5-small; run: python -m standins train --only embedding")
        if self.whole and not REAL_REVIEWS.exists():
            raise FileNotFoundError(f"there are no real reviews in {REAL_REVIEWS.parent.name}")


SHORT = Workload("bert-base", "BERT-base's shape, random weights, short texts", MODEL, weights.WINDOW, weights.reviews)
REAL = Workload(
    "bert-base-real",
    "BERT-base's shape, random weights, real Korean reviews",
    MODEL,
    weights.WINDOW,
    texts.real_reviews,
    whole=True,
)
E5 = Workload(
    "e5-small",
    "multilingual-e5-small's real weights, real Korean reviews",
    E5_SMALL,
    512,
    texts.real_reviews,
    whole=True,
)
WORKLOADS = {workload.name: workload for workload in (SHORT, REAL, E5)}
