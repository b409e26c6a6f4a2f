"""The request that every relay gets."""

import json

KEY = "sk-bench-0123456789abcdef"
"""The key that clients send. LiteLLM requires the prefix `sk-`."""
MODEL = "bench"
"""The field `model` of the request."""
PATH = "/v1/chat/completions"
HEADERS = {"authorization": f"Bearer {KEY}"}


def body(*, stream: bool = False) -> bytes:
    """Render a short chat request."""
    messages = [{"role": "user", "content": "국물이 진하고 좋았어요. 어떤 느낌인가요?"}]
    more = {"stream": True} if stream else {}
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": 16, **more}).encode()
