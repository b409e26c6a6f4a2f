"""The canary of vLLM's engine, and the end of an engine that does not answer it."""

import asyncio
import itertools
import multiprocessing
import os
from typing import Any

import psutil
from prometheus_client import CollectorRegistry
from vllm import SamplingParams
from vllm.engine.protocol import EngineClient
from vllm.inputs import TokensPrompt
from vllm.platforms import current_platform

from llm_service.canary import CANARY_PRIORITY, CANARY_TEXT, CanaryReference
from llm_service.on_vllm.output_guard import CANARY_ID, OutputGuard
from llm_service.settings import LlmSettings
from onecard import logs
from onecard.web.canary import Canary

EXIT_SECONDS = 10.0
"""How long the server may take to end after its engine was killed."""

log = logs.logger()


class EngineCanary:
    """Asks the engine how probable a fixed text is: one step of it, without its caches and its metrics."""

    def __init__(self, engine: EngineClient, registry: CollectorRegistry) -> None:
        self._engine = engine
        self._registry = registry
        self._guard = OutputGuard(engine.output_processor, registry)
        self._tokens: list[int] = engine.get_tokenizer().encode(CANARY_TEXT, add_special_tokens=False)
        self._reference = CanaryReference()
        self._numbers = itertools.count()

    async def compute(self) -> None:
        """Compute it once.

        Raises:
            CanaryFailed: The answer is not finite, or far from the first one.
            Exception: The engine refuses it or fails; see `AsyncLLM.generate`.
        """
        # One token: a request of one step never shows in vLLM's number of running requests.
        params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=0, prompt_logprobs=0, detokenize=False)
        prompt, request_id = TokensPrompt(prompt_token_ids=self._tokens), f"{CANARY_ID}-{next(self._numbers)}"
        outputs = self._engine.generate(prompt, params, request_id, priority=CANARY_PRIORITY)
        answer = [output async for output in outputs][-1]
        self._reference.check(_logprobs(answer))

    def progress(self) -> int:
        """A counter of the engine's progress.

        Returns:
            Steps of the engine; on a CPU, where one may take longer than the limit of a hang, plus seconds of computing
            time. On a GPU computing time says nothing, since a thread that waits for a GPU spins.
        """
        seconds = int(_engine_cpu_seconds()) if current_platform.is_cpu() else 0
        return self._guard.steps + seconds

    def watch(self, settings: LlmSettings) -> Canary:
        """Make the canary that asks for it on a timer. When the engine is lost, it and the server end.

        Args:
            settings: The service's settings.

        Returns:
            The canary, not started.
        """
        return Canary(
            self.compute,
            self.progress,
            interval_seconds=settings.canary_seconds,
            hang_seconds=settings.engine_hang_seconds,
            on_lost=lambda _: _end_engine(),
            registry=self._registry,
        )


def _logprobs(answer: Any) -> list[float]:
    """Log probability of each token of the prompt after the first, and of the generated one."""
    positions = [*answer.prompt_logprobs[1:], *answer.outputs[0].logprobs]
    return [one.logprob for position in positions for one in itertools.islice(position.values(), 1)]


def _engine_cpu_seconds() -> float:
    seconds = 0.0
    for child in multiprocessing.active_children():
        try:
            times = psutil.Process(child.pid).cpu_times()
        except psutil.Error:  # It has ended.
            continue
        seconds += times.user + times.system
    return seconds


def _end_engine() -> None:
    """Kill the engine's processes. vLLM notices, fails its requests, and ends the server with an error.

    A process that hangs in the driver may outlast even SIGKILL. Then the server ends by itself, to be restarted.
    """
    for child in multiprocessing.active_children():
        child.kill()
    asyncio.get_running_loop().call_later(EXIT_SECONDS, os._exit, 1)
