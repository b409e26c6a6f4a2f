"""The start that the strategy describes: Transformers and sentence-transformers in one process, without a cache.

`python -m bench.strategy.before CLASSIFIER ENCODER LLM REVIEWS PORT`. One request is computed at a time, and one text
after the other. On a CPU that start computes in FP32, the LLM too: it asks for FP16 only on a GPU.
"""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline


class Texts(BaseModel):
    """Body of the encoders' requests."""

    input: list[str]


class Search(BaseModel):
    """Body of a search."""

    query: str
    top_k: int = 10


class Chat(BaseModel):
    """Body of a chat."""

    messages: list[dict[str, str]]
    max_tokens: int


class Start:
    """The three models, and the vectors of the stored reviews."""

    def __init__(self, classifier: str, encoder: str, llm: str, reviews: list[dict[str, Any]]) -> None:
        self.turn = threading.Lock()
        self._classify: Any = pipeline("sentiment-analysis", model=classifier, tokenizer=classifier, device="cpu")
        self._encoder = SentenceTransformer(encoder, device="cpu", local_files_only=True)
        self._tokenizer = AutoTokenizer.from_pretrained(llm, local_files_only=True)
        self._llm = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32, local_files_only=True).eval()
        self._reviews = reviews
        # In batches, since the start is not measured.
        self._vectors = self._encoder.encode([review["text"] for review in reviews], normalize_embeddings=True)

    def classify(self, text: str) -> dict[str, Any]:
        """Label one text."""
        found: dict[str, Any] = self._classify(text, truncation=True)[0]
        return found

    def embed(self, text: str) -> Any:
        """Compute a unit vector."""
        return self._encoder.encode([text], normalize_embeddings=True, show_progress_bar=False)[0]

    def search(self, query: str, count: int) -> list[dict[str, Any]]:
        """Find the stored reviews nearest to a query, by comparing it with all of them."""
        scores = self._vectors @ self.embed(query)
        return [{"score": float(scores[row]), "review": self._reviews[row]} for row in np.argsort(-scores)[:count]]

    def generate(self, messages: list[dict[str, str]], tokens: int) -> str:
        """Answer a chat, greedily."""
        prompt = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            made = self._llm.generate(**prompt, max_new_tokens=tokens, do_sample=False)
        return str(self._tokenizer.decode(made[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def create_app(start: Start) -> FastAPI:
    """Create the service. FastAPI runs the handlers in threads, which wait for their turn."""
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/sentiment")
    def sentiment(body: Texts) -> dict[str, Any]:
        with start.turn:
            return {"data": [start.classify(text) for text in body.input]}

    @app.post("/v1/embeddings")
    def embeddings(body: Texts) -> dict[str, Any]:
        with start.turn:
            return {"data": [{"embedding": start.embed(text).tolist()} for text in body.input]}

    @app.post("/v1/reviews/search")
    def search(body: Search) -> dict[str, Any]:
        with start.turn:
            return {"data": start.search(body.query, body.top_k)}

    @app.post("/v1/chat/completions")
    def chat(body: Chat) -> dict[str, Any]:
        with start.turn:
            content = start.generate(body.messages, body.max_tokens)
        return {"choices": [{"message": {"role": "assistant", "content": content}}]}

    return app


if __name__ == "__main__":
    classifier, encoder, llm, reviews, port = sys.argv[1:]
    start = Start(classifier, encoder, llm, json.loads(Path(reviews).read_text()))
    uvicorn.run(create_app(start), host="127.0.0.1", port=int(port), log_level="warning")
