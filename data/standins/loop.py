"""The training loop all three stand-ins share."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn

BatchT = TypeVar("BatchT")

REPORT_EVERY_S = 5.0
"""Seconds between progress lines where the output is not a terminal."""


def prepare(seed: int) -> None:
    """Seed torch, and keep it to one thread.

    Models this small gain little from a second thread, and with one the result does not depend on the
    number of cores. Several models train side by side instead.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively; emulated it is slower than float32."""
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False


def autocast() -> AbstractContextManager[object]:
    """Bfloat16 matrix products where they are native, otherwise nothing."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if has_bfloat16() else nullcontext()


class Progress:
    """One line that is rewritten on a terminal, and a line every few seconds elsewhere."""

    def __init__(self, name: str, steps: int) -> None:
        self._name, self._steps = name, steps
        self._start = self._last = time.monotonic()
        self._console = Console(file=sys.stderr)

    def update(self, step: int, loss: float) -> None:
        """Report that `step` steps are done."""
        now = time.monotonic()
        done = step >= self._steps
        live = self._console.is_terminal
        if not done and now - self._last < (0.2 if live else REPORT_EVERY_S):
            return
        self._last = now
        line = f"{self._name}: step {step}/{self._steps}, loss {loss:.3f}, {now - self._start:.0f} s"
        self._console.print(line, end="\r" if live and not done else "\n", highlight=False)


def fit(
    name: str,
    model: nn.Module,
    batches: Iterator[BatchT],
    loss_of: Callable[[BatchT], Tensor],
    *,
    steps: int,
    peak_rate: float,
) -> None:
    """AdamW with a linear warm-up over a tenth of the steps and a cosine decay to a twentieth of the peak."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=peak_rate, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    warm = max(1, steps // 10)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2),
    )
    progress = Progress(name, steps)
    model.train()
    for step in range(1, steps + 1):
        with autocast():
            loss = loss_of(next(batches))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        progress.update(step, float(loss.detach()))
    model.eval()
