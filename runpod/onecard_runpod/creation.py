"""Creates pods and volumes so that none is lost: whatever fails, the owner is told what exists or may exist."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onecard_runpod.client import RunPodClient
from onecard_runpod.errors import OutcomeUnknown, PodError, RequestRejected
from onecard_runpod.gpu_offers import GpuOffer
from onecard_runpod.pod_variables import CREATION_VARIABLE

LOOK_SECONDS = (0.0, 2.0, 5.0)
"""Waits before each look whether a pod has come into being."""
GONE = "TERMINATED"
"""Status of a pod that is no more."""


def living(pods: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """Select the pods with a name that still exist, running or stopped."""
    return [pod for pod in pods if pod["name"] == name and pod["status"] != GONE]


def create_volume(api: RunPodClient, name: str, size_gb: int, data_center: str, say: Callable[[str], None]) -> str:
    """Create a network volume.

    Args:
        api: RunPod's API.
        name: the volume's name.
        size_gb: its size in GB.
        data_center: RunPod's id of the data center.
        say: prints a line at once.

    Returns:
        Its id.

    Raises:
        PodError: there is no volume for sure, or the message says that one may exist.
    """
    may_exist = "The volume may exist all the same: see 'onecard-pod volumes'."
    try:
        created = api.create_volume(name, size_gb, data_center)
    except OutcomeUnknown as error:
        raise PodError(f"{error.message} {may_exist}") from None
    except PodError:
        raise
    except BaseException:  # Ctrl-C above all, and what nobody has foreseen.
        say(may_exist)
        raise
    volume_id = created.get("id")
    if not isinstance(volume_id, str) or not volume_id:
        raise PodError(f"RunPod says that a volume was created, and does not name it. {may_exist}")
    return volume_id


@dataclass
class Creation:
    """One attempt to get one pod, on the first GPU that can be had."""

    api: RunPodClient
    name: str
    marker: str
    """Value of the pod's `CREATION_VARIABLE`."""
    say: Callable[[str], None]
    """Prints a line at once."""
    uncertain: bool = False
    """Whether a pod may exist that has not been seen."""
    pod_id: str | None = None
    """The pod, once it is known."""
    _was_uncertain: bool = False
    """Whether an earlier request may have created a pod that has not been seen."""

    def run(self, bodies: Sequence[tuple[GpuOffer, Any]]) -> tuple[str, GpuOffer]:
        """Create the pod.

        Args:
            bodies: GPUs in order of preference, each with its request body.

        Returns:
            The pod's id, and its GPU.

        Raises:
            PodError: there is no pod for sure, or the message says what exists or may exist.
        """
        if living(self.api.pods(), self.name):
            raise PodError(f"There is a pod named '{self.name}' already. For another one, set POD_NAME.")
        try:
            offer = self._first_accepted(bodies)
            self._end_others()
        except PodError as error:
            raise PodError(f"{error.message} {self._what_may_exist()}".strip()) from None
        except BaseException:  # Ctrl-C above all, and what nobody has foreseen.
            self._tell_after_interruption()
            raise
        if self.pod_id is None:  # for the type checker; it was just set
            raise PodError(self._what_may_exist())
        if self._was_uncertain:
            self.say(
                f"An earlier request failed, and RunPod may carry it out late: see in a minute whether "
                f"'onecard-pod status' lists another pod named '{self.name}' besides {self.pod_id}."
            )
        return self.pod_id, offer

    def _first_accepted(self, bodies: Sequence[tuple[GpuOffer, Any]]) -> GpuOffer:
        """Request a pod on one GPU after another. Stock may have changed since the catalog was read."""
        last: PodError = PodError("There is no card.")
        for offer, body in bodies:
            self.uncertain = True  # until there is an answer
            try:
                answer = self.api.create(body)
            except RequestRejected as error:
                self.uncertain, last = self._was_uncertain, error
            except OutcomeUnknown as error:
                if self._find():
                    return offer
                self._was_uncertain, last = True, error
                if not error.refused:
                    raise
            except PodError:
                self.uncertain = self._was_uncertain
                raise
            else:
                given = answer.get("id")
                self.pod_id = given if isinstance(given, str) and given else None
                if self.pod_id or self._find():
                    return offer
                raise OutcomeUnknown("RunPod says that a pod was created, and neither names nor lists it.")
            self.say(f"{offer.gpu}: {last.message}")
        raise PodError(
            "None of the cards in stock could be had. If RunPod gives another reason than capacity, change that; "
            f"else try later, or allow more cards in POD_GPUS. The last one: {last.message}"
        )

    def _find(self) -> bool:
        """Look for the pod of a request whose answer was no use.

        Returns:
            Whether it is there; `pod_id` is then set.

        Raises:
            PodError: there is a pod of this name, and RunPod does not show whose it is.
        """
        for seconds in LOOK_SECONDS:
            if seconds:
                time.sleep(seconds)
            pods = {str(pod["id"]): self._marker(pod) for pod in living(self.api.pods(), self.name)}
            if own := [pod_id for pod_id, marker in pods.items() if marker == self.marker]:
                self.pod_id = own[0]
                return True
            if unmarked := [pod_id for pod_id, marker in pods.items() if marker is None]:
                raise PodError(f"Of {' and '.join(unmarked)}, named '{self.name}', one may be this command's.")
        return False

    @staticmethod
    def _marker(pod: Mapping[str, Any]) -> str | None:
        """The creation that a pod is of; None where RunPod does not show its variables."""
        variables = pod.get("env")
        return str(variables.get(CREATION_VARIABLE)) if isinstance(variables, Mapping) else None

    def _end_others(self) -> None:
        """Leave one pod of this creation, and none if somebody else has created one at the same time.

        Raises:
            PodError: this creation's pod has been ended, or could not be.
        """
        try:
            pods = living(self.api.pods(), self.name)
        except PodError as error:
            self.say(f"Whether there is another pod named '{self.name}' could not be seen: {error.message}")
            return
        own = {str(pod["id"]) for pod in pods if self._marker(pod) == self.marker}
        foreign = [str(pod["id"]) for pod in pods if str(pod["id"]) not in own | {self.pod_id}]
        keep = None if foreign else self.pod_id
        for pod_id in sorted((own | {str(self.pod_id)}) - {keep}):
            self.api.pod_action(pod_id, "terminate")
            self.pod_id = None if pod_id == self.pod_id else self.pod_id
        if foreign:
            self.uncertain = self._was_uncertain
            raise PodError(
                f"Somebody else has created {' and '.join(foreign)}, also named '{self.name}', at the same time: the "
                "one of this command has been ended. If theirs has been, too, try again."
            )

    def _what_may_exist(self) -> str:
        if self.pod_id is not None:
            return f"Pod {self.pod_id} exists, and costs: 'onecard-pod terminate {self.pod_id}' ends it."
        if self.uncertain:
            return f"A pod named '{self.name}' may exist all the same, and cost: see 'onecard-pod status'."
        return ""

    def _tell_after_interruption(self) -> None:
        """Say what exists. A second Ctrl-C while RunPod is asked leaves the cautious answer."""
        try:
            if self.pod_id is None and self.uncertain:
                self._find()
        except BaseException:  # noqa: S110 - what is said below holds without it
            pass
        self.say(self._what_may_exist())
