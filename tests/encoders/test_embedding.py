"""The embedding service against the plain model, and through OpenAI's SDK."""

import json
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sentence_transformers import SentenceTransformer

from embedding_service.vectors import truncate
from onecard.errors import InvalidRequest
from tests.support import Server

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def sdk(embedding: Server) -> openai.OpenAI:
    """The official client, pointed at the service."""
    return openai.OpenAI(base_url=f"{embedding.url}/v1", api_key="unused", max_retries=0)


@pytest.fixture(scope="module")
def reviews() -> list[str]:
    """All sample reviews."""
    lines = (ROOT / "data" / "sample_reviews.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def embed(sdk: openai.OpenAI, texts: list[str]) -> np.ndarray:
    answer = sdk.embeddings.create(model="jhgan/ko-sbert-multitask", input=texts)
    return np.array([one.embedding for one in answer.data], dtype=np.float32)


def test_vectors_equal_the_plain_models(sdk: openai.OpenAI, reviews: list[str], model_cache: Path) -> None:
    """Cosine of at least 0.999 to sentence-transformers in FP32, on every sample review."""
    plain = SentenceTransformer(str(model_cache / "onecard--standin-ko-sbert"), device="cpu")
    wanted = plain.encode(reviews, normalize_embeddings=True)
    assert np.sum(embed(sdk, reviews) * wanted, axis=1).min() >= 0.999


def test_vectors_have_unit_length(sdk: openai.OpenAI, reviews: list[str]) -> None:
    """So that a dot product is the cosine."""
    assert np.linalg.norm(embed(sdk, reviews[:50]), axis=1) == pytest.approx(1, abs=1e-5)


def test_the_sdk_default_is_base64_and_equals_float(sdk: openai.OpenAI) -> None:
    """The SDK asks for base64 by itself; asked for floats, the numbers are the same to the last bit."""
    packed = embed(sdk, ["직원이 친절한 곳"])[0]
    plain = sdk.embeddings.create(model="jhgan/ko-sbert-multitask", input="직원이 친절한 곳", encoding_format="float")
    assert np.array_equal(packed, np.array(plain.data[0].embedding, dtype=np.float32))
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 0


def test_dimensions_cut_and_renormalise(sdk: openai.OpenAI) -> None:
    """The first numbers, scaled to unit length; more than the model has is a 400."""
    full = embed(sdk, ["양이 많아요"])[0]
    short = (
        sdk.embeddings.create(model="jhgan/ko-sbert-multitask", input="양이 많아요", dimensions=16).data[0].embedding
    )
    assert np.array(short) == pytest.approx(full[:16] / np.linalg.norm(full[:16]), abs=1e-5)
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        sdk.embeddings.create(model="jhgan/ko-sbert-multitask", input="a", dimensions=100_000)


def test_token_ids_are_embedded_like_their_text(embedding: Server, sdk: openai.OpenAI, model_cache: Path) -> None:
    """A list of ids is one input; an id outside the vocabulary is a 400."""
    tokenizer = SentenceTransformer(str(model_cache / "onecard--standin-ko-sbert"), device="cpu").tokenizer
    ids = tokenizer("가격이 싸요")["input_ids"]
    by_ids = sdk.embeddings.create(model="jhgan/ko-sbert-multitask", input=ids).data
    assert len(by_ids) == 1
    assert np.dot(by_ids[0].embedding, embed(sdk, ["가격이 싸요"])[0]) > 0.999
    bad = httpx.post(f"{embedding.url}/v1/embeddings", json={"input": [[1, 99_999_999]]})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "input")


def test_an_unknown_model_is_the_sdks_not_found(sdk: openai.OpenAI) -> None:
    """The SDK raises its own class."""
    with pytest.raises(openai.NotFoundError, match="No such model"):
        sdk.embeddings.create(model="text-embedding-3-small", input="a")


@given(
    arrays.arrays(np.float32, (3, 8), elements=st.floats(-1, 1, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)),
    st.integers(1, 12),
)
def test_cut_vectors_have_unit_length_or_are_refused(vectors: np.ndarray, dimensions: int) -> None:
    """Any cut is of unit length, unless nothing is left of the vector; nothing becomes NaN."""
    if dimensions > 8:
        with pytest.raises(InvalidRequest):
            truncate(vectors, dimensions)
        return
    shorter = truncate(vectors, dimensions)
    assert shorter.shape == (3, dimensions)
    assert np.isfinite(shorter).all()
    if dimensions < 8:
        norms = np.linalg.norm(shorter, axis=1)
        assert ((np.abs(norms - 1) < 1e-4) | (norms == 0)).all()
