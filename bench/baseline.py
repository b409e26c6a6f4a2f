"""The contender `before`: sentence-transformers in FP32, called once per request, as in a first draft.

`python -m bench.baseline MODEL_FOLDER PORT`. FastAPI runs a plain function in its thread pool, so concurrent
requests run in parallel.
"""

import base64
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class EmbeddingInput(BaseModel):
    """The same request body that all contenders get."""

    input: list[str]


def create_app(folder: str) -> FastAPI:
    """Create the service. `folder` is a sentence-transformers model."""
    app = FastAPI()
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)

    @app.get("/health")
    def health() -> dict[str, str]:
        """Answer once the model is loaded."""
        return {"status": "ok"}

    @app.post("/v1/embeddings")
    def embeddings(body: EmbeddingInput) -> dict[str, Any]:
        """Return float32 vectors in base64, as the other contenders do."""
        vectors = model.encode(body.input, show_progress_bar=False)
        data = [
            {"object": "embedding", "index": index, "embedding": base64.b64encode(vector.tobytes()).decode()}
            for index, vector in enumerate(vectors)
        ]
        return {"object": "list", "data": data}

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
