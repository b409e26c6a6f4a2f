"""Checks of the machine: addresses, ports, folders, shared memory, memory, Redis, time. Pure."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from onecard_stack import file_owners
from onecard_stack.doctor.facts import Clock, Disk, Port
from onecard_stack.doctor.findings import Finding, ok, refusal, warning

MIN_FREE_MB = 300
"""Least free space for logs and run files, in MB."""
MIN_SHM_MB = 512
"""Least free shared memory where vLLM runs on a GPU, in MB. Compose gives 2 GB."""
_DAY_SECONDS = 86_400


def check_ports(ports: Sequence[Port]) -> list[Finding]:
    """Check that every process can have its port.

    Args:
        ports: of the process table.

    Returns:
        A refusal for each port that two processes want or that cannot be bound; one finding if all are free.
    """
    wanted = Counter(port.number for port in ports)
    findings = []
    for number in (number for number, count in wanted.items() if count > 1):
        variables = " and ".join(port.variable for port in reversed(ports) if port.number == number)
        findings.append(refusal("ports", f"{variables} are both {number}.", "Set one of them to another port."))
    for port in ports:
        if port.error is not None and wanted[port.number] == 1:
            reason = f"is taken{port.listener}" if port.listener or port.in_use else f"cannot be had ({port.error})"
            message = f"Port {port.number} for {port.process} {reason}."
            findings.append(refusal("ports", message, f"Stop what uses it, or set {port.variable} to another port."))
    numbers = ", ".join(str(port.number) for port in ports)
    return findings or [ok("ports", f"The ports are free, or this stack's own: {numbers}.")]


def check_host(address: str, error: str | None) -> Finding:
    """Check that a server on HOST can be reached from this machine.

    Args:
        address: IP address or name to listen on; `0.0.0.0` and `::` for all.
        error: why it cannot be bound; None if it can. For `::` the loopback address has to be tried, because binding to
            it works even without IPv6.

    Returns:
        The finding.
    """
    if error is None:
        return ok("host", f"HOST={address} is an address of this machine.")
    hint = " (this machine has no IPv6)" if address == "::" else ""
    remedy = "Set HOST to an address of this machine: 127.0.0.1, or 0.0.0.0 for all that it has."
    return refusal("host", f"HOST={address} cannot be had: {error}{hint}.", remedy)


def check_key(error: str | None) -> Finding:
    """Check that a gateway which other machines can reach asks for a key, and the LLM service too.

    Args:
        error: what `onecard.web.server.require_key_in_public` says; None if it is content.

    Returns:
        The finding.
    """
    return ok("key", "Nobody without a key can call from outside.") if error is None else refusal("key", error)


def check_monitoring(*, wanted: bool, installed: bool) -> list[Finding]:
    """Check that Prometheus is here if it is to run beside the services.

    Args:
        wanted: `MONITORING`.
        installed: whether it is where the pod's image has it.

    Returns:
        One finding; none if it is not wanted.
    """
    if not wanted:
        return []
    if installed:
        return [ok("monitoring", "Prometheus and Grafana run beside the services.")]
    return [refusal("monitoring", "MONITORING is for a pod, whose image has Prometheus.", "Unset it here.")]


def check_disk(disk: Disk, needed_mb: float = MIN_FREE_MB, purpose: str = "logs") -> Finding:
    """Check that a folder can be written to and has enough free space.

    Args:
        disk: the folder's.
        needed_mb: required space, in MB.
        purpose: what the space is for, for the message.

    Returns:
        The finding.
    """
    if disk.error is not None:
        message = f"Cannot write to {disk.folder} ({disk.error})."
        return refusal("disk", message, "Free some space there, or set another folder.")
    if disk.free_mb < needed_mb:
        free = f"{disk.free_mb:.0f} MB free, {needed_mb:.0f} MB needed for {purpose}"
        return refusal("disk", f"The disk of {disk.folder} is full: {free}.", "Free some space.")
    return ok("disk", f"{disk.free_mb / 1000:.0f} GB are free in {disk.folder}.")


def check_owners(foreign: list[Path], home: Path) -> Finding:
    """Check that this user owns the files of earlier runs.

    Args:
        foreign: files of other users in the stack's folder.
        home: that folder, `ONECARD_HOME`.

    Returns:
        The finding.
    """
    if not foreign:
        return ok("owner", f"The files in {home} are this user's.")
    message = file_owners.ownership_message(foreign, home)
    return refusal("owner", f"{message} (once that user has stopped what runs there).")


def check_shared_memory(disk: Disk, *, vllm_on_gpu: bool) -> Finding:
    """Check `/dev/shm`, where processes keep semaphores, and vLLM's the tensors that they hand each other.

    Args:
        disk: of `/dev/shm`.
        vllm_on_gpu: whether vLLM's build for CUDA serves.

    Returns:
        The finding.
    """
    remedy = "In a container: a larger shm_size, or --ipc=host. Else: sudo mount -o remount,size=2G /dev/shm"
    if disk.error is not None or disk.free_mb < 1:
        reason = disk.error or "it is full"
        return refusal("shm", f"{disk.folder} cannot be written ({reason}): no semaphore can be made there.", remedy)
    message = f"{disk.free_mb:.0f} MB are free in {disk.folder}."
    if vllm_on_gpu and disk.free_mb < MIN_SHM_MB:
        return warning("shm", f"Only {message}", remedy)
    return ok("shm", message)


def check_main_memory(available_mb: float, needed_mb: float | None) -> Finding:
    """Check that the models fit into the main memory where they run on the CPU.

    Args:
        available_mb: memory that this machine or container has left, in MB.
        needed_mb: calculated for weights and KV cache, in MB; None where they are on a GPU or run already.

    Returns:
        The finding.
    """
    message = f"{available_mb / 1000:.1f} GB of main memory are free"
    if needed_mb is None:
        return ok("memory", f"{message}.")
    message = f"{message}, and the models take about {needed_mb / 1000:.1f} on the CPU (calculated)."
    if available_mb >= needed_mb:
        return ok("memory", message)
    return warning("memory", message, "Stop something else, take a smaller LLM_MODEL, or lower LLM_CPU_KV_GB.")


def check_own_redis(binary: Path | None) -> Finding:
    """Check that the Redis that the stack starts is there.

    Args:
        binary: its path; None if there is none.

    Returns:
        The finding.
    """
    if binary is not None:
        return ok("redis", f"The stack starts its own: {binary}.")
    message = "There is no redis-server to start: nothing is cached for long, and nothing precomputed."
    return warning("redis", message, "Run 'make install', or name a Redis in REDIS_URL.")


def check_redis(error: str | None) -> Finding:
    """Check the Redis that the settings name.

    Args:
        error: why it gave no answer; None if it did.

    Returns:
        The finding. The stack works without Redis, so it is no refusal.
    """
    if error is None:
        return ok("redis", "The Redis that the settings name answers.")
    message = f"The Redis that the settings name does not answer ({error}): the stack starts without it."
    return warning("redis", message, "Start it, or correct REDIS_URL, REDIS_HOST or REDIS_PASSWORD.")


def check_clock(clock: Clock) -> Finding:
    """Check that the time is possible.

    Args:
        clock: this machine's.

    Returns:
        The finding.
    """
    time = f"{datetime.fromtimestamp(clock.now, UTC):%Y-%m-%d %H:%M} UTC"
    if clock.now < clock.installed - _DAY_SECONDS:
        message = f"The clock says {time}, which is before Onecard was installed: certificates and keys would not hold."
        return refusal("clock", message, "Set it: sudo timedatectl set-ntp true")
    kept = {True: ", and something keeps it right", False: ", and nothing is known to keep it right", None: ""}
    return ok("clock", f"The clock says {time}{kept[clock.synchronised]}.")


def check_logs(error: str | None) -> list[Finding]:
    """Check that all logs can be written.

    Args:
        error: which one cannot, and why; None if all can.

    Returns:
        A refusal, or nothing.
    """
    return [] if error is None else [refusal("logs", error)]
