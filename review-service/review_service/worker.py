"""Run the worker: `python -m review_service.worker`. It runs the tasks in the queue, one at a time."""

import os
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from celery import Celery, bootsteps
from celery.worker.state import reserved_requests
from prometheus_client import CollectorRegistry, start_http_server

from onecard import logs, settings
from onecard.metrics import new_registry
from review_service.heartbeat import BEAT_SECONDS, Heartbeat
from review_service.precompute.task_queue import keep_log_configuration, open_queue
from review_service.precompute.tasks import Precomputer, add_tasks, open_precomputer
from review_service.settings import WorkerSettings

NICENESS = 19
"""The lowest priority, so that every other process on the host gets the processors first."""
MAX_STALLED_BEATS = 2
"""Number of heartbeats, `BEAT_SECONDS` apart, after which a worker that has no task and cannot take one reconnects."""


def _heartbeat_step(heartbeat: Heartbeat) -> type[bootsteps.StartStopStep]:
    """A Celery boot step: touches the heartbeat file while the worker takes messages and its event loop runs."""

    class HeartbeatStep(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            self._messages = parent.task_consumer.channel.qos
            self._stalled = 0
            self._timer = parent.timer.call_repeatedly(BEAT_SECONDS, self._beat)
            heartbeat.beat()

        def stop(self, parent: Any) -> None:
            self._timer.cancel()

        def _beat(self) -> None:
            """Touch the heartbeat file, and reconnect if the worker is stalled.

            If Redis fails while Celery acknowledges a message, Celery gives up on it but still counts it as being
            processed. With one task at a time, the worker would then wait forever.

            Raises:
                ConnectionError: The worker is stalled. Celery's consumer handles it as a lost connection.
            """
            heartbeat.beat()
            stalled = not reserved_requests and not self._messages.can_consume()
            self._stalled = self._stalled + 1 if stalled else 0
            if self._stalled >= MAX_STALLED_BEATS:
                raise ConnectionError("a task that was done was not taken off the queue")

    return HeartbeatStep


def create_worker(config: WorkerSettings, portal: BlockingPortal, precomputer: Precomputer) -> Celery:
    """Create the Celery app with the tasks and the heartbeat.

    Args:
        config: The worker's settings.
        portal: Runs the tasks' coroutines on the event loop of `precomputer`.
        precomputer: Does the work of the tasks.

    Returns:
        The task queue; its `Worker` runs the tasks.
    """
    queue = open_queue(config)
    add_tasks(queue, portal, precomputer)
    queue.steps["consumer"].add(_heartbeat_step(Heartbeat(config.precompute_heartbeat_file)))
    return queue


def _serve_metrics(registry: CollectorRegistry, host: str, port: int) -> None:
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        raise SystemExit(
            f"cannot listen on {host}:{port}: {error.strerror}. Stop what uses it, or set another "
            "PRECOMPUTE_METRICS_PORT."
        ) from None


def main() -> None:
    """Run tasks until SIGTERM, then finish the current task.

    Raises:
        SystemExit: Always, with the worker's exit code at the end; at the start if the metrics port is in use.
    """
    config = settings.load(WorkerSettings)
    logs.configure("worker", config.log_level)
    keep_log_configuration()
    os.nice(NICENESS)
    registry = new_registry()
    if config.precompute_metrics_port is not None:
        _serve_metrics(registry, config.host, config.precompute_metrics_port)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_precomputer(config, registry)) as precomputer,
    ):
        worker = create_worker(config, portal, precomputer).Worker(
            # A thread is enough, because tasks only wait for responses. The consumer's loop keeps running meanwhile,
            # and a killed worker leaves no child process behind.
            pool="threads",
            concurrency=1,
            loglevel=config.log_level,
            quiet=True,
            without_gossip=True,
            without_heartbeat=True,
            without_mingle=True,
        )
        worker.start()
    raise SystemExit(worker.exitcode)


if __name__ == "__main__":
    main()
