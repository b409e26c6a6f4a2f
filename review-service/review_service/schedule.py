"""Run the schedule: `python -m review_service.schedule`. It queues a round of precomputing at a fixed interval.

Several schedules may run: the worker does not start a round while another one is in progress.
"""

from typing import Any

from celery import Celery
from celery.apps.beat import Beat
from celery.beat import Scheduler

from onecard import logs, settings
from review_service.heartbeat import BEAT_SECONDS, Heartbeat
from review_service.precompute.task_queue import PLAN_TASK, keep_log_configuration, open_queue
from review_service.settings import WorkerSettings


def create_schedule(config: WorkerSettings) -> Celery:
    """Create the Celery app with the schedule.

    Args:
        config: Interval between rounds, and the address of Redis.

    Returns:
        The task queue; connects when it is used.
    """
    queue = open_queue(config)
    # A round that no worker has started when the next one is due is dropped.
    entry = {
        "task": PLAN_TASK,
        "schedule": config.precompute_seconds,
        "options": {"expires": config.precompute_seconds},
    }
    queue.conf.beat_schedule = {"precompute": entry}
    return queue


def _heartbeat_scheduler(heartbeat: Heartbeat) -> type[Scheduler]:
    """A scheduler class that stores nothing on disk, and touches the heartbeat file at every tick."""

    class HeartbeatScheduler(Scheduler):  # type: ignore[misc]
        def tick(self, *arguments: Any, **options: Any) -> float:
            wait: float = super().tick(*arguments, **options)
            heartbeat.beat()
            return wait

    return HeartbeatScheduler


def main() -> None:
    """Queue rounds until SIGTERM."""
    config = settings.load(WorkerSettings)
    logs.configure("schedule", config.log_level)
    keep_log_configuration()
    # Celery's own start message is disabled, so the process logs one.
    logs.logger().info("schedule", seconds=config.precompute_seconds)
    scheduler = _heartbeat_scheduler(Heartbeat(config.precompute_heartbeat_file))
    Beat(
        app=create_schedule(config),
        max_interval=BEAT_SECONDS,
        scheduler_cls=scheduler,
        loglevel=config.log_level,
        redirect_stdouts=False,
        quiet=True,
    ).run()


if __name__ == "__main__":
    main()
