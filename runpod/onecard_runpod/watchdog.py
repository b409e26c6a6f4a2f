"""`python -m onecard_runpod.watchdog URL…`: stops the pod once the services at these URLs have been idle long enough.

Idle time counts from the moment when all of them have been ready once.
"""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx2 as httpx

from onecard import logs
from onecard.settings import load
from onecard_runpod.activity import ActivitySample, IdleState, next_state, parse_activity
from onecard_runpod.client import RunPodClient
from onecard_runpod.errors import PodError
from onecard_runpod.settings import WatchdogSettings

POLL_SECONDS = 15.0
READ_TIMEOUT_SECONDS = 5.0
RETRY_SECONDS = 60.0
"""Wait after a stop request, whether RunPod accepted or refused it, before the next one."""
BUSY = ActivitySample(running=1.0)
"""Assumed for a service that answers but refuses to show its metrics."""

log = logs.logger()


@dataclass(frozen=True)
class WatchdogActions:
    """The side effects of the watchdog, which tests replace."""

    ready: Callable[[], bool]
    """Whether all services are ready."""
    samples: Callable[[], dict[str, ActivitySample]]
    """Activity by URL, of the services that answer."""
    stop: Callable[[], None]
    """Stop the pod, or raise PodError."""
    clock: Callable[[], float]
    """Monotonic time in seconds."""
    pause: Callable[[float], None]
    """Wait for a number of seconds."""


def watch(actions: WatchdogActions, idle_seconds: float) -> None:
    """Poll the services and stop the pod when it is idle. Never returns, because a stop request may have no effect.

    Args:
        actions: how to poll, stop and wait.
        idle_seconds: how long the services have to be idle.
    """
    while not actions.ready():
        actions.pause(POLL_SECONDS)
    state = IdleState(actions.clock())
    while True:
        state = next_state(state, actions.samples(), actions.clock())
        idle = actions.clock() - state.since
        if idle < idle_seconds:
            actions.pause(min(POLL_SECONDS, idle_seconds - idle))
            continue
        log.warning("stopping an idle pod", idle_minutes=round(idle / 60, 1))
        try:
            actions.stop()
        except PodError as error:
            log.error("an idle pod could not be stopped", reason=str(error), again_seconds=RETRY_SECONDS)
        actions.pause(RETRY_SECONDS)


class ServiceProbe:
    """Polls services over HTTP."""

    def __init__(self, urls: Sequence[str], api_key: str | None) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._urls = urls
        self._http = httpx.Client(headers=headers, timeout=READ_TIMEOUT_SECONDS, trust_env=False)

    def ready(self) -> bool:
        """Check whether all services are ready."""
        try:
            return all(self._http.get(f"{url}/health/ready").is_success for url in self._urls)
        except httpx.HTTPError:
            return False

    def samples(self) -> dict[str, ActivitySample]:
        """Read the activity of each service that answers, by URL."""
        found = {}
        for url in self._urls:
            try:
                response = self._http.get(f"{url}/metrics")
            except httpx.HTTPError:
                continue
            found[url] = _parse_sample(response)
        return found


def _parse_sample(response: httpx.Response) -> ActivitySample:
    if response.is_success:
        return parse_activity(response.text)
    log.error("a part does not show its metrics, and counts as busy: set API_KEY", status=response.status_code)
    return BUSY


def main() -> None:
    """Run the watchdog until SIGTERM."""
    settings = load(WatchdogSettings)
    logs.configure("watchdog", settings.log_level)
    if settings.idle_stop_minutes is None or settings.runpod_pod_id is None or len(sys.argv) < 2:
        raise SystemExit("watchdog: set IDLE_STOP_MINUTES and RUNPOD_POD_ID, and name the addresses to watch.")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(0))
    pod_id = settings.runpod_pod_id
    probe = ServiceProbe(sys.argv[1:], settings.api_key.get_secret_value() if settings.api_key else None)

    def stop() -> None:
        with RunPodClient(settings) as api:
            api.pod_action(pod_id, "stop")

    log.info("watching", idle_minutes=settings.idle_stop_minutes)
    watch(
        WatchdogActions(probe.ready, probe.samples, stop, time.monotonic, time.sleep), settings.idle_stop_minutes * 60
    )


if __name__ == "__main__":
    main()
