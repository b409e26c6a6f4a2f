"""The demonstration: classifies, stores, searches and summarises the sample reviews through the gateway."""

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
    """Locate the sample reviews that come with the repository."""
    spec = find_spec("standins")
    folders = [Path(folder).parent for folder in (spec.submodule_search_locations or [])] if spec else []
    return next((folder / "sample_reviews.jsonl" for folder in folders), Path("data/sample_reviews.jsonl"))


def read_reviews(path: Path) -> list[SampleReview]:
    """Read reviews from a file.

    Args:
        path: a file with one JSON object per line.

    Returns:
        The reviews in the order of the file.

    Raises:
        StackError: the file cannot be read.
    """
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
    except OSError:
        raise StackError(f"The sample reviews are not in {path}: run this in a checkout.") from None
    return [SampleReview(record["restaurant_id"], record["restaurant_name"], record["text"]) for record in records]


def run(settings: StackSettings, console: Console) -> None:
    """Run all steps and print their results. The reviews stay stored.

    Args:
        settings: the stack's settings.
        console: where to print.

    Raises:
        StackError: the gateway cannot be reached or answers with an error.
    """
    headers = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
    path = sample_file()
    reviews = read_reviews(path)
    timeout = httpx.Timeout(READ_TIMEOUT_SECONDS, connect=5)
    base = settings.gateway_url
    try:
        with httpx.Client(base_url=base, headers=headers, timeout=timeout, trust_env=False) as client:
            demo = _Demo(client, console)
            demo.sentiment(reviews)
            review_import.run(path, settings, console)
            demo.search()
            demo.restaurant(reviews[0])
            demo.summary(reviews[0])
            demo.stream(reviews)
    except httpx.HTTPError as error:
        raise StackError(f"The gateway broke off ({type(error).__name__}). 'make logs' shows why.") from None


class _Demo:
    """The steps of the demonstration."""

    def __init__(self, client: httpx.Client, console: Console) -> None:
        self._client = client
        self._console = console
        models = self._send("GET", "/v1/models")["data"]
        self._llm = next((model["id"] for model in models if model.get("service") == "llm"), "")
        self._stand_in_for = {model["id"]: model["stand_in_for"] for model in models if model.get("stand_in_for")}

    def sentiment(self, reviews: list[SampleReview]) -> None:
        """Classify some reviews of all restaurants."""
        chosen = reviews[:: max(1, len(reviews) // CLASSIFIED_REVIEWS)][:CLASSIFIED_REVIEWS]
        with self._timed(f"{CLASSIFIED_REVIEWS} reviews classified") as done:
            response = self._send("POST", "/v1/sentiment", {"input": [review.text for review in chosen]})
            done.append(response["model"])
        table = Table(box=None, show_header=False, pad_edge=False)
        for review, result in zip(chosen, response["data"], strict=True):
            colour = "green" if result["label"] == "positive" else "red"
            table.add_row(Text(result["label"], style=colour), f"{result['score']:.3f}", Text(review.text))
        self._console.print(table)

    def search(self) -> None:
        """Show the first results of a hybrid search."""
        with self._timed(f"«{QUERY}» searched for, by meaning and by words"):
            response = self._send("POST", "/v1/reviews/search", {"query": QUERY, "top_k": SEARCH_RESULTS})
        table = Table(box=None, show_header=False, pad_edge=False)
        for hit in response["data"]:
            review = hit["review"]
            name = Text(review["restaurant_name"] or review["restaurant_id"], style="bold")
            table.add_row(f"{hit['score']:.3f}", name, Text(review["text"]))
        self._console.print(table)

    def restaurant(self, review: SampleReview) -> None:
        """Show the share of positive reviews of a restaurant, and its strengths and weaknesses."""
        path = f"/v1/restaurants/{review.restaurant_id}"
        with self._timed(f"{review.restaurant_name}, by all of its reviews"):
            shares = self._send("GET", f"{path}/sentiment")
            comparison = self._send("GET", f"{path}/strengths")
        ratios = f"{shares['positive_ratio']}% positive, {shares['negative_ratio']}% negative"
        self._console.print(f"{ratios} of {shares['total_count']} reviews", highlight=False)
        for word, aspects in (("better", comparison["strengths"]), ("worse", comparison["weaknesses"])):
            for aspect in aspects:
                figures = f"{aspect['positive_ratio']}% positive, elsewhere {aspect['others_positive_ratio']}%"
                self._console.print(f"{word} than others in {aspect['label']}: {figures}", highlight=False)

    def summary(self, review: SampleReview) -> None:
        """Show the summary of a restaurant's reviews, with quotes as evidence."""
        with self._timed(f"{review.restaurant_name} summarised, with evidence"):
            summary = self._send("GET", f"/v1/restaurants/{review.restaurant_id}/summary")
        for name in ("overall_summary", "positive_summary", "negative_summary"):
            self._console.print(Text(summary[name]))
        for quote in summary["evidence"]:
            self._console.print(Text(f"  {quote['review_id']}: «{quote['snippet']}»", style="dim"))
        self._console.print(f"source: {summary['source']}", style="dim", highlight=False)

    def stream(self, reviews: list[SampleReview]) -> None:
        """Stream a summary of one restaurant's reviews by a plain chat request.

        Args:
            reviews: all sample reviews; those of the first one's restaurant are summarised.

        Raises:
            StackError: the gateway answers with an error, or the stream has no text.
        """
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
        """Yield pieces of the generated text as they arrive, each with the model's name."""
        with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
                raise _gateway_error(response)
            for line in response.iter_lines():
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
        response = self._client.request(method, path, json=body)
        if response.is_error:
            raise _gateway_error(response)
        result: dict[str, Any] = response.json()
        return result

    @contextmanager
    def _timed(self, title: str) -> Iterator[list[str]]:
        """Print the title before the block, then its duration with the models that the block adds to the list."""
        self._console.rule(Text(title, style="bold"), align="left")
        models: list[str] = []
        started = time.monotonic()
        yield models
        seconds = time.monotonic() - started
        result = f"{seconds:.2f} s"
        for model in models:
            stand_in = f" (stand-in for {self._stand_in_for[model]})" if model in self._stand_in_for else ""
            result += f" · {model}{stand_in}"
        self._console.print(result, style="cyan", highlight=False)


def _gateway_error(response: httpx.Response) -> StackError:
    return StackError(
        f"The gateway answers {response.status_code} to {response.request.url.path}: {error_message(response)}"
    )
