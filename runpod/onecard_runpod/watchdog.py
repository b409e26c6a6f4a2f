"""`python -m onecard_runpod.watchdog`: stops the pod that nobody uses, or that does not get ready.

It starts before everything else in a pod and needs nothing of the stack, so that no fault of the stack, of its settings
or of its models keeps a pod running. It alone has the key of RunPod's API.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx2 as httpx

from onecard import logs
from onecard.client_traffic import INTERNAL_HEADER
from onecard.settings import load_from
from onecard_runpod.activity import ActivitySample, PodState, StopReason, next_state, parse_activity, time_left
from onecard_runpod.client import RunPodClient
from onecard_runpod.errors import PodError
from onecard_runpod.settings import WatchdogSettings

POLL_SECONDS = 15.0
READ_TIMEOUT_SECONDS = 5.0
RETRY_SECONDS = 60.0
"""Wait after a stop request, whether RunPod accepted or refused it, before the next one."""
DEFAULT_IDLE_MINUTES = 60.0
"""Used where `IDLE_STOP_MINUTES` is set to something that is no number."""

log = logs.logger()


@dataclass(frozen=True)
class WatchdogActions:
    """The side effects of the watchdog, which tests replace."""

    ready: Callable[[], bool]
    """Whether all services are ready."""
    samples: Callable[[], dict[str, ActivitySample]]
    """Activity by URL, of the services that answer."""
    stop: Callable[[], None]
    """Stop the pod, or raise."""
    clock: Callable[[], float]
    """Monotonic time in seconds."""
    pause: Callable[[float], None]
    """Wait for a number of seconds."""


def watch(actions: WatchdogActions, *, idle_seconds: float | None, unready_seconds: float) -> None:
    """Poll the services and stop the pod when its time is over. Never returns: a stop request may have no effect.

    Args:
        actions: how to poll, stop and wait.
        idle_seconds: how long clients may ask for nothing, once the pod has been ready; None: for ever.
        unready_seconds: how long the pod may neither be ready nor do what a client asks for.
    """
    state = PodState(working_at=actions.clock())
    while True:
        try:
            state = next_state(state, actions.samples(), actions.clock(), ready=actions.ready())
        except Exception:  # A watchdog that ends would begin to count anew.
            log.exception("the pod could not be asked")
        left, reason = time_left(state, actions.clock(), idle_seconds=idle_seconds, unready_seconds=unready_seconds)
        if left > 0:
            actions.pause(min(POLL_SECONDS, left))
            continue
        _try_to_stop(actions, reason)
        actions.pause(RETRY_SECONDS)


def _try_to_stop(actions: WatchdogActions, reason: StopReason) -> None:
    log.warning("stopping the pod", reason=reason)
    try:
        actions.stop()
    except PodError as error:
        log.error("the pod could not be stopped, and goes on costing", why=str(error), again_seconds=RETRY_SECONDS)
    except Exception:
        log.exception("the pod could not be stopped, and goes on costing", again_seconds=RETRY_SECONDS)


class ServiceProbe:
    """Polls services over HTTP."""

    def __init__(self, urls: Sequence[str], api_key: str | None) -> None:
        """Poll the services at `urls`, whose metrics need `api_key` if there is one."""
        try:
            key = {b"authorization": f"Bearer {api_key}".encode("ascii")} if api_key else {}
        except UnicodeEncodeError:  # With such a key the stack does not start.
            key = {}
        headers = {INTERNAL_HEADER.encode(): b"watchdog", **key}
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
                if response.is_success:
                    found[url] = parse_activity(response.text)
                else:
                    log.error("a service does not show its metrics, and counts as idle", status=response.status_code)
            except httpx.HTTPError:
                continue
            except ValueError:
                log.error("a service's metrics cannot be read, and it counts as idle")
        return found


def load_settings(environment: Mapping[str, str]) -> WatchdogSettings:
    """Load the settings, with defaults in place of invalid ones: a watchdog that does not start would stop nothing.

    Args:
        environment: the variables, which hold what is set for the whole pod.

    Returns:
        The settings.
    """
    values = {name.lower(): value for name, value in environment.items() if value}
    try:
        return load_from(WatchdogSettings, values)
    except ValueError as error:
        log.error("invalid settings, the watchdog's defaults hold", reason=str(error))
    # Somebody wanted the pod to stop when it is idle: a limit that cannot be read is not for ever.
    usable: dict[str, str] = {"idle_stop_minutes": str(DEFAULT_IDLE_MINUTES)} if "idle_stop_minutes" in values else {}
    for name in WatchdogSettings.model_fields.keys() & values.keys():
        with suppress(ValueError):
            load_from(WatchdogSettings, {name: values[name]})
            usable[name] = values[name]
    return load_from(WatchdogSettings, usable)


def _end(number: int, _: object) -> None:
    """Write the last log lines and end; not by an exception, which a finalizer or a callback of Python's swallows."""
    logging.shutdown()
    os._exit(0)


def main() -> None:
    """Run the watchdog until SIGTERM."""
    logs.configure("watchdog", "info")
    signal.signal(signal.SIGTERM, _end)
    settings = load_settings(os.environ)
    if settings.runpod_pod_id is None:
        raise SystemExit("watchdog: RUNPOD_POD_ID is not set, so that this is no pod of RunPod.")
    pod_id = settings.runpod_pod_id
    urls = [f"http://127.0.0.1:{port}" for port in (settings.gateway_port, settings.vllm_port)]
    probe = ServiceProbe(urls, settings.api_key.get_secret_value() if settings.api_key else None)

    def stop() -> None:
        with RunPodClient(settings) as api:
            api.pod_action(pod_id, "stop")

    log.info("watching", idle_minutes=settings.idle_stop_minutes, unready_minutes=settings.unready_stop_minutes)
    idle = settings.idle_stop_minutes
    watch(
        WatchdogActions(probe.ready, probe.samples, stop, time.monotonic, time.sleep),
        idle_seconds=idle * 60 if idle else None,
        unready_seconds=settings.unready_stop_minutes * 60,
    )


if __name__ == "__main__":
    main()
