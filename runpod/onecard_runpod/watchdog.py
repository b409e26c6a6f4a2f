"""`python -m onecard_runpod.watchdog URL…`: stops the pod once its parts at those addresses have nothing to do.

Until all of them have been ready once, the pod still starts.
"""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx2 as httpx

from onecard import logs
from onecard.settings import load
from onecard_runpod.client import RunPodClient
from onecard_runpod.errors import PodError
from onecard_runpod.idle import ActivitySample, IdleState, next_state, parse_activity
from onecard_runpod.settings import WatchdogSettings

POLL_SECONDS = 15.0
READ_TIMEOUT_SECONDS = 5.0
RETRY_SECONDS = 60.0
"""How long a pod that was told to stop may go on before it is told again; and the wait after a refusal."""
BUSY = ActivitySample(running=1.0)
"""What is assumed of a part that answers and does not show its metrics."""

log = logs.logger()


@dataclass(frozen=True)
class WatchdogActions:
    """What the watchdog does to the world; tests put other things here."""

    ready: Callable[[], bool]
    """Has the stack started?"""
    samples: Callable[[], dict[str, ActivitySample]]
    """The parts that answer."""
    stop: Callable[[], None]
    """Stop the pod, or raise PodError."""
    clock: Callable[[], float]
    """Seconds, going forward."""
    pause: Callable[[float], None]
    """Wait so many seconds."""


def watch(doing: WatchdogActions, idle_seconds: float) -> None:
    """Look, and stop the pod once it has been quiet for `idle_seconds`; for ever, since a stop may come to nothing."""
    while not doing.ready():
        doing.pause(POLL_SECONDS)
    quiet = IdleState(doing.clock())
    while True:
        quiet = next_state(quiet, doing.samples(), doing.clock())
        idle = doing.clock() - quiet.since
        if idle < idle_seconds:
            doing.pause(min(POLL_SECONDS, idle_seconds - idle))
            continue
        log.warning("stopping an idle pod", idle_minutes=round(idle / 60, 1))
        try:
            doing.stop()
        except PodError as error:
            log.error("an idle pod could not be stopped", reason=str(error), again_seconds=RETRY_SECONDS)
        doing.pause(RETRY_SECONDS)


class ServiceProbe:
    """The parts over HTTP."""

    def __init__(self, urls: Sequence[str], api_key: str | None) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._urls = urls
        self._http = httpx.Client(headers=headers, timeout=READ_TIMEOUT_SECONDS, trust_env=False)

    def ready(self) -> bool:
        """All parts can work."""
        try:
            return all(self._http.get(f"{url}/health/ready").is_success for url in self._urls)
        except httpx.HTTPError:
            return False

    def samples(self) -> dict[str, ActivitySample]:
        """What each part that answers shows."""
        found = {}
        for url in self._urls:
            try:
                answer = self._http.get(f"{url}/metrics")
            except httpx.HTTPError:
                continue
            found[url] = _parse_sample(answer)
        return found


def _parse_sample(answer: httpx.Response) -> ActivitySample:
    if answer.is_success:
        return parse_activity(answer.text)
    log.error("a part does not show its metrics, and counts as busy: set API_KEY", status=answer.status_code)
    return BUSY


def main() -> None:
    """Watch until SIGTERM."""
    settings = load(WatchdogSettings)
    logs.configure("watchdog", settings.log_level)
    if settings.idle_stop_minutes is None or settings.runpod_pod_id is None or len(sys.argv) < 2:
        raise SystemExit("watchdog: set IDLE_STOP_MINUTES and RUNPOD_POD_ID, and name the addresses to watch.")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(0))
    pod_id = settings.runpod_pod_id
    parts = ServiceProbe(sys.argv[1:], settings.api_key.get_secret_value() if settings.api_key else None)

    def stop() -> None:
        with RunPodClient(settings) as api:
            api.pod_action(pod_id, "stop")

    log.info("watching", idle_minutes=settings.idle_stop_minutes)
    watch(
        WatchdogActions(parts.ready, parts.samples, stop, time.monotonic, time.sleep), settings.idle_stop_minutes * 60
    )


if __name__ == "__main__":
    main()
