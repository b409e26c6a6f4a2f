"""The demonstration: the sample reviews classified, stored, searched and summarised, all through the gateway."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2 as httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onecard_stack.commands import review_import
from onecard_stack.commands.gateway_errors import error_message
from onecard_stack.errors import StackError
from onecard_stack.settings import StackSettings

CLASSIFIED_REVIEWS = 12
SEARCH_RESULTS = 3
SUMMARISED_REVIEWS = 6
QUERY = "주차하기 편한 가게"
READ_TIMEOUT_SECONDS = 180.0


@dataclass(frozen=True)
class SampleReview:
    """A sample review."""

    restaurant_id: str
    restaurant_name: str
    text: str


def sample_file() -> Path:
    """Where the reviews lie that come with the repository."""
    spec = find_spec("standins")
    places = [Path(folder).parent for folder in (spec.submodule_search_locations or [])] if spec else []
    return next((place / "sample_reviews.jsonl" for place in places), Path("data/sample_reviews.jsonl"))


def read_reviews(path: Path) -> list[SampleReview]:
    """The reviews of a file.

    Raises:
        StackError: they are not there.
    """
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
    except OSError:
        raise StackError(f"The sample reviews are not in {path}: run this in a checkout.") from None
    return [SampleReview(record["restaurant_id"], record["restaurant_name"], record["text"]) for record in records]


def run(settings: StackSettings, console: Console) -> None:
    """Print the parts of the demonstration; the reviews stay stored.

    Raises:
        StackError: the gateway answers with an error.
    """
    headers = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
    path = sample_file()
    reviews = read_reviews(path)
    timeout = httpx.Timeout(READ_TIMEOUT_SECONDS, connect=5)
    base = settings.gateway_url
    try:
        with httpx.Client(base_url=base, headers=headers, timeout=timeout, trust_env=False) as client:
            show = _Demo(client, console)
            show.sentiment(reviews)
            review_import.run(path, settings, console)
            show.search()
            show.restaurant(reviews[0])
            show.summary(reviews[0])
            show.stream(reviews)
    except httpx.HTTPError as error:
        raise StackError(f"The gateway broke off ({type(error).__name__}). 'make logs' shows why.") from None


class _Demo:
    """The parts, over one client of the gateway."""

    def __init__(self, client: httpx.Client, console: Console) -> None:
        self._client = client
        self._console = console
        cards = self._send("GET", "/v1/models")["data"]
        self._llm = next((card["id"] for card in cards if card.get("service") == "llm"), "")
        self._stand_in_for = {card["id"]: card["stand_in_for"] for card in cards if card.get("stand_in_for")}

    def sentiment(self, reviews: list[SampleReview]) -> None:
        """Label and score of reviews spread over all restaurants."""
        chosen = reviews[:: max(1, len(reviews) // CLASSIFIED_REVIEWS)][:CLASSIFIED_REVIEWS]
        with self._timed(f"{CLASSIFIED_REVIEWS} reviews classified") as done:
            answer = self._send("POST", "/v1/sentiment", {"input": [review.text for review in chosen]})
            done.append(answer["model"])
        table = Table(box=None, show_header=False, pad_edge=False)
        for review, result in zip(chosen, answer["data"], strict=True):
            colour = "green" if result["label"] == "positive" else "red"
            table.add_row(Text(result["label"], style=colour), f"{result['score']:.3f}", Text(review.text))
        self._console.print(table)

    def search(self) -> None:
        """The stored reviews that a hybrid search puts first."""
        with self._timed(f"«{QUERY}» searched for, by meaning and by words"):
            answer = self._send("POST", "/v1/reviews/search", {"query": QUERY, "top_k": SEARCH_RESULTS})
        table = Table(box=None, show_header=False, pad_edge=False)
        for hit in answer["data"]:
            review = hit["review"]
            name = Text(review["restaurant_name"] or review["restaurant_id"], style="bold")
            table.add_row(f"{hit['score']:.3f}", name, Text(review["text"]))
        self._console.print(table)

    def restaurant(self, one: SampleReview) -> None:
        """How a restaurant's reviews are, and in what it differs from the others."""
        path = f"/v1/restaurants/{one.restaurant_id}"
        with self._timed(f"{one.restaurant_name}, by all of its reviews"):
            shares = self._send("GET", f"{path}/sentiment")
            told = self._send("GET", f"{path}/strengths")
        ratios = f"{shares['positive_ratio']}% positive, {shares['negative_ratio']}% negative"
        self._console.print(f"{ratios} of {shares['total_count']} reviews", highlight=False)
        for word, aspects in (("better", told["strengths"]), ("worse", told["weaknesses"])):
            for one_aspect in aspects:
                figures = f"{one_aspect['positive_ratio']}% positive, elsewhere {one_aspect['others_positive_ratio']}%"
                self._console.print(f"{word} than others in {one_aspect['label']}: {figures}", highlight=False)

    def summary(self, one: SampleReview) -> None:
        """What its reviews say, with places in them to look up."""
        with self._timed(f"{one.restaurant_name} summarised, with evidence"):
            told = self._send("GET", f"/v1/restaurants/{one.restaurant_id}/summary")
        for name in ("overall_summary", "positive_summary", "negative_summary"):
            self._console.print(Text(told[name]))
        for place in told["evidence"]:
            self._console.print(Text(f"  {place['review_id']}: «{place['snippet']}»", style="dim"))
        self._console.print(f"source: {told['source']}", style="dim", highlight=False)

    def stream(self, reviews: list[SampleReview]) -> None:
        """A summary in free words of one restaurant's reviews, printed as it is written."""
        first = reviews[0]
        texts = [review.text for review in reviews if review.restaurant_id == first.restaurant_id][:SUMMARISED_REVIEWS]
        prompt = f"다음은 '{first.restaurant_name}'의 리뷰입니다. 요약해 주세요.\n" + "\n".join(
            f"- {text}" for text in texts
        )
        body = {
            "model": self._llm,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 200,
            "stream": True,
        }
        for text in texts:
            self._console.print(Text(f"  - {text}", style="dim"))
        with self._timed(f"{len(texts)} reviews of {first.restaurant_name} summarised, streamed") as done:
            for piece, model in self._stream(body):
                self._console.print(Text(piece), end="", soft_wrap=True)
                if not done:
                    done.append(model)
            self._console.print()
            if not done:
                raise StackError("The LLM answered without a word. 'make logs part=llm' shows why.")

    def _stream(self, body: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Pieces of the answer as they arrive, each with the model's name."""
        with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.is_error:
                answer.read()
                raise _gateway_error(answer)
            for line in answer.iter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                chunk = json.loads(data)
                if "error" in chunk:
                    raise StackError(f"The answer broke off: {chunk['error']['message']}")
                for choice in chunk.get("choices", []):
                    if piece := choice["delta"].get("content"):
                        yield piece, chunk["model"]

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self._client.request(method, path, json=body)
        if answer.is_error:
            raise _gateway_error(answer)
        result: dict[str, Any] = answer.json()
        return result

    @contextmanager
    def _timed(self, title: str) -> Iterator[list[str]]:
        """Print title, then the block's output, then time and model, if the block puts one into the list."""
        self._console.rule(Text(title, style="bold"), align="left")
        models: list[str] = []
        began = time.monotonic()
        yield models
        seconds = time.monotonic() - began
        told = f"{seconds:.2f} s"
        for model in models:
            stand_in = f" (stand-in for {self._stand_in_for[model]})" if model in self._stand_in_for else ""
            told += f" · {model}{stand_in}"
        self._console.print(told, style="cyan", highlight=False)


def _gateway_error(answer: httpx.Response) -> StackError:
    return StackError(f"The gateway answers {answer.status_code} to {answer.request.url.path}: {error_message(answer)}")
