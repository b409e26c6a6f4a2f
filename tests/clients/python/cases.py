"""What each Python client is asked to do. Standard library only: it runs in the clients' own environments.

A client's script hands `run` one function a case; `run` calls them and prints what came of each as a line of JSON.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

URL = os.environ.get("ONECARD_URL", "")
"""The gateway's address, without `/v1`."""
BASE_URL = f"{URL}/v1"
KEY = os.environ.get("ONECARD_KEY", "")
LLM = os.environ.get("ONECARD_LLM", "")
EMBEDDING = os.environ.get("ONECARD_EMBEDDING", "")
MESSAGES = [{"role": "user", "content": "리뷰를 한 문장으로 요약해 줘.\n- 국물이 진해요.\n- 직원이 친절해요."}]
PROMPT = MESSAGES[0]["content"]
TEXTS = ["국물이 진해요", "직원이 친절해요"]
PENALTY = 2.0
"""Frequency penalty of what is to be JSON: the stand-in, which knows nothing of weather, writes blanks without end."""
UNKNOWN = "no-such-model"
CITIES = ["서울", "부산"]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": CITIES}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def run(**cases: Callable[[], Any]) -> None:
    """Call each case, or those named on the command line, and print `{case, value}` or `{case, failure}`."""
    for name, case in cases.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        try:
            outcome = {"case": name, "value": case()}
        except Exception as error:
            outcome = {"case": name, "failure": f"{type(error).__name__}: {error}"}
        print("RESULT " + json.dumps(outcome, ensure_ascii=False, default=str), flush=True)


def failure(call: Callable[[], Any]) -> dict[str, Any]:
    """What a call that must fail shows its user: the error's class, its status where it has one, and its text."""
    try:
        call()
    except Exception as error:
        status = getattr(error, "status_code", None)
        return {"error": type(error).__name__, "status": status, "text": str(error)}
    raise AssertionError("it did not fail")
