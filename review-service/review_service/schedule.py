"""Run the schedule: `python -m review_service.schedule`. It asks for a round of precomputing again and again.

Several may run: a round that is under way is not begun a second time.
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
    """The queue, with what is due when."""
    queue = open_queue(config)
    # What is not taken up before the next one is due is not worth taking up.
    entry = {
        "task": PLAN_TASK,
        "schedule": config.precompute_seconds,
        "options": {"expires": config.precompute_seconds},
    }
    queue.conf.beat_schedule = {"precompute": entry}
    return queue


def _heartbeat_scheduler(heartbeat: Heartbeat) -> type[Scheduler]:
    """A scheduler that keeps nothing on disk, and beats at every turn."""

    class Beating(Scheduler):  # type: ignore[misc]
        def tick(self, *arguments: Any, **options: Any) -> float:
            wait: float = super().tick(*arguments, **options)
            heartbeat.beat()
            return wait

    return Beating


def main() -> None:
    """Ask until SIGTERM."""
    config = settings.load(WorkerSettings)
    logs.configure("schedule", config.log_level)
    keep_log_configuration()
    # Celery says nothing any more: this is what its log begins with.
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
