"""What every relay is asked."""

import json

KEY = "sk-bench-0123456789abcdef"
"""The key that clients send; LiteLLM wants its master key to begin like this."""
MODEL = "bench"
"""The request's `model`."""
PATH = "/v1/chat/completions"
HEADERS = {"authorization": f"Bearer {KEY}"}


def body(*, stream: bool = False) -> bytes:
    """A short chat."""
    messages = [{"role": "user", "content": "국물이 진하고 좋았어요. 어떤 느낌인가요?"}]
    more = {"stream": True} if stream else {}
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": 16, **more}).encode()
