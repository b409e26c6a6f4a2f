"""Interleaved measurements inside one process, on a device that works asynchronously."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from bench.measurements import Measurement, medians

DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"
RUN_SECONDS = 480.0
"""After so long no further round is started, so that a run ends within ten minutes."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    tiny: bool
    """With small models, for moments."""
    deadline: float
    """Clock (`time.monotonic`) after which no further round is started."""

    def rates(self, ways: Mapping[str, Callable[[], int]], seconds: float) -> dict[str, float]:
        """Measure rates of several ways to do the same in three rounds, each first in turn; medians by name."""
        visits, names = [], [*ways]
        for work in ways.values():
            work()  # Not counted: kernels are chosen and memory is allocated.
        for number in range(1 if self.tiny else 3):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                _wait()
                started, done = time.perf_counter(), 0
                while not done or (time.perf_counter() < started + seconds and not self.tiny):
                    done += ways[name]()
                _wait()
                visits.append(Measurement(name, "", number, {"rate": done / (time.perf_counter() - started)}))
            if time.monotonic() > self.deadline:
                break
        return {name: cells[""]["rate"] for name, cells in medians(visits).items()}


def _wait() -> None:
    if DEVICE != "cpu":
        torch.cuda.synchronize()
