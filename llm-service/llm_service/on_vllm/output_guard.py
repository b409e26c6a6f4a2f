"""Stands before vLLM's output processor: counts the engine's steps, and lets no answer out that comes from NaN."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter
from vllm.exceptions import GracefulHTTPError
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.engine.output_processor import OutputProcessor, OutputProcessorOutput
from vllm.v1.metrics.stats import IterationStats

from onecard import logs

CANARY_ID = f"onecard-canary-{uuid4().hex}"
"""Start of the ids of this process's canaries. Not to be guessed, since `/v1/responses` takes a request's id from its
body."""

log = logs.logger()


class NotFinite(GracefulHTTPError):  # type: ignore[misc]
    """The model's numbers for a request are NaN."""

    def __init__(self) -> None:
        super().__init__("The model gave no finite numbers for this request.", HTTPStatus.INTERNAL_SERVER_ERROR)


class OutputGuard:
    """Replaces two methods of the output processor with its own, which call them.

    A request whose logits have NaN fails, and the others go on: its sampled token means nothing (for NaN it is token 0,
    often an exclamation mark). The engine counts NaN if `VLLM_COMPUTE_NANS_IN_LOGITS` is set, as the launcher does.
    Canaries are left out of the metrics of requests and tokens.
    """

    def __init__(self, processor: OutputProcessor, registry: CollectorRegistry) -> None:
        self._processor = processor
        self._process = processor.process_outputs
        self._update_scheduler_stats = processor.update_scheduler_stats
        self._not_finite = Counter(
            "onecard_llm_not_finite", "Requests that failed because the model gave NaN.", registry=registry
        )
        self.steps = 0
        """Number of steps of the engine whose results have arrived."""
        processor.process_outputs = self.process_outputs
        processor.update_scheduler_stats = self.update_scheduler_stats

    def update_scheduler_stats(self, stats: Any) -> None:
        """Count a step. vLLM calls this after each, also where a step ends no prompt and writes no token."""
        self.steps += 1
        self._update_scheduler_stats(stats)

    def process_outputs(
        self,
        outputs: list[EngineCoreOutput],
        timestamp: float | None = None,
        iteration_stats: IterationStats | None = None,
        weight_version: str | None = None,
    ) -> OutputProcessorOutput:
        """Process the outputs of a step.

        Args:
            outputs: One for each request that got a token.
            timestamp: When the engine made them; for the metrics.
            iteration_stats: Receives the figures of the step; None if there are no metrics.
            weight_version: Passed on.

        Returns:
            What the output processor returns, with the canaries to abort and the requests to abort because of NaN.
        """
        canaries: list[EngineCoreOutput] = []
        broken: list[EngineCoreOutput] = []
        sound: list[EngineCoreOutput] = []
        for output in outputs:
            if output.request_id.startswith(CANARY_ID):
                canaries.append(output)  # NaN shows in its log probabilities.
            else:
                (broken if output.num_nans_in_logits else sound).append(output)
        aborted = self._fail(broken)
        if canaries:
            aborted += self._process(canaries, timestamp, None, weight_version=weight_version).reqs_to_abort
        result = self._process(sound, timestamp, iteration_stats, weight_version=weight_version)
        result.reqs_to_abort.extend(aborted)
        return result

    def _fail(self, outputs: Sequence[EngineCoreOutput]) -> list[str]:
        """Fail the requests of these outputs; with `n` above 1, all of a request's choices.

        Returns:
            Ids that the engine should compute no further.
        """
        aborted: list[str] = []
        for output in outputs:
            state = self._processor.request_states.get(output.request_id)
            if state is None:  # It has failed or ended already.
                continue
            self._not_finite.inc()
            log.error("the model gave NaN for a request")
            if state.queue is not None:
                state.queue.put(NotFinite())  # Before the abort, whose own output would otherwise be the answer.
            request_id = state.parent_req.request_id if state.parent_req else output.request_id
            aborted += self._processor.abort_requests([request_id], internal=True)
        return aborted
