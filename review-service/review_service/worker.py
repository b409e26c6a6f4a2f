"""Run the worker: `python -m review_service.worker`. It does what the schedule asks for, one task at a time."""

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
"""Niceness: whatever else wants this machine's processor has it first."""
MAX_STALLED_BEATS = 2
"""For so many beats, `HEARTBEAT_SECONDS` apart, a worker may have no task and not be allowed another one."""


def _heartbeat_step(heartbeat: Heartbeat) -> type[bootsteps.StartStopStep]:
    """A step of the worker's that beats once it takes messages, as long as its loop turns."""

    class Beat(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            self._messages = parent.task_consumer.channel.qos
            self._stalled = 0
            self._timer = parent.timer.call_repeatedly(BEAT_SECONDS, self._beat)
            heartbeat.beat()

        def stop(self, parent: Any) -> None:
            self._timer.cancel()

        def _beat(self) -> None:
            """Beat, and connect anew where Redis went away just when a task was to be taken off the queue.

            Celery gives up on that message, and still counts it as one at hand: with one at a time it would wait for
            ever.

            Raises:
                ConnectionError: Celery's consumer takes it for a lost connection, and begins again.
            """
            heartbeat.beat()
            stalled = not reserved_requests and not self._messages.can_consume()
            self._stalled = self._stalled + 1 if stalled else 0
            if self._stalled >= MAX_STALLED_BEATS:
                raise ConnectionError("a task that was done was not taken off the queue")

    return Beat


def create_worker(config: WorkerSettings, portal: BlockingPortal, work: Precomputer) -> Celery:
    """The queue, with tasks and a heartbeat."""
    queue = open_queue(config)
    add_tasks(queue, portal, work)
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
    """Work until SIGTERM; then finish the task at hand.

    Raises:
        SystemExit: the port for metrics cannot be had.
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
        portal.wrap_async_context_manager(open_precomputer(config, registry)) as work,
    ):
        worker = create_worker(config, portal, work).Worker(
            # Tasks wait for answers and compute nothing, so a thread does. The loop turns meanwhile, and a worker that
            # is killed leaves nothing behind.
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
