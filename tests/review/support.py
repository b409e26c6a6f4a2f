"""What several tests of the review service start."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import Server, free_port, serving


@contextmanager
def gateway_of(review: Server, **env: str) -> Iterator[Server]:
    """A gateway that keeps no answers, in front of a review service and of nothing else."""
    nobody = f"http://127.0.0.1:{free_port()}"
    others = {"LLM_URL": nobody, "SENTIMENT_URL": nobody, "EMBEDDING_URL": nobody, "CACHE_ENABLED": "false"}
    with serving("gateway", port_variable="GATEWAY_PORT", env={**others, "REVIEW_URL": review.url, **env}) as server:
        yield server
