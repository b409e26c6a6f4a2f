"""`python -m onecard_stack.doctor.cuda_probe GPU_DEVICE`: compute something on the GPU, and say how it went, in JSON.

In a process of its own, because a CUDA that fails may hang, and cannot be tried again in the same process.
"""

import json
import sys


def probe(device: int) -> dict[str, str | None]:
    """Multiply two matrices on the GPU.

    Args:
        device: its index among the visible ones.

    Returns:
        The fields of `facts.Cuda`.
    """
    try:
        import torch
    except Exception as error:
        return {"error": f"torch cannot be imported ({_line(error)})"}
    found = {"torch": torch.__version__, "built_for": torch.version.cuda}
    if torch.version.cuda is None:
        return {**found, "error": "torch is its CPU build"}
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        ones = torch.ones(64, 64, device=f"cuda:{device}", dtype=torch.float16)
        wrong = float((ones @ ones).sum()) != 64**3
    except Exception as error:
        return {**found, "error": _line(error)}
    return {**found, "error": "a product of two matrices came out wrong" if wrong else None}


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


if __name__ == "__main__":
    print(json.dumps(probe(int(sys.argv[1]))))
