"""Checks of the GPU, its driver and CUDA. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onecard.gpu.costs import GIB
from onecard_stack.doctor.facts import Cuda, Driver, Gpu, GpuProcess, GpuRequest, MigSlice, Xid
from onecard_stack.doctor.findings import Finding, ok, refusal, sentence, warning

MIN_DRIVER = 580
"""First driver for CUDA 13.0, which torch is built for (docs/gpu.md)."""
USE_CPU = "or set USE_GPU=false to use the CPU"
_APPLICATION_XIDS = {
    13: "a kernel's fault",
    31: "a memory access fault",
    43: "a stopped process",
    45: "an ended process",
}
"""Xid errors that a program may cause; all others come from the card, its memory, its bus or the driver. From NVIDIA's
«XID Errors», https://docs.nvidia.com/deploy/xid-errors/."""
_LOST_XID = 79
"""«GPU has fallen off the bus»."""


@dataclass(frozen=True)
class VisibleGpu:
    """A GPU, or a slice of one, that CUDA shows to this process."""

    gpu: Gpu
    slice: MigSlice | None = None

    @property
    def total_bytes(self) -> int | None:
        """Memory that a process can have there at most."""
        return self.slice.total_bytes if self.slice else self.gpu.total_bytes


def visible_gpus(value: str | None, gpus: Sequence[Gpu]) -> list[VisibleGpu]:
    """Apply `CUDA_VISIBLE_DEVICES` as CUDA does: entries count up to the first one that names nothing.

    Args:
        value: of the variable: indices, or the beginnings of UUIDs; None shows all.
        gpus: of this machine, in the driver's order.

    Returns:
        The visible GPUs in CUDA's order. Of a GPU with MIG, the slice that is named, or the first.
    """
    if value is None:
        return [_whole(gpu) for gpu in gpus]
    found: list[VisibleGpu] = []
    for entry in (part.strip() for part in value.split(",")):
        one = _named(entry, gpus)
        if one is None or one in found:
            break
        found.append(one)
    return found


def _whole(gpu: Gpu) -> VisibleGpu:
    return VisibleGpu(gpu, gpu.mig[0] if gpu.mig else None)


def _named(entry: str, gpus: Sequence[Gpu]) -> VisibleGpu | None:
    if entry.isdigit():
        return next((_whole(gpu) for gpu in gpus if gpu.index == int(entry)), None)
    if entry.startswith("MIG-"):
        slices = [VisibleGpu(gpu, one) for gpu in gpus for one in gpu.mig or () if one.uuid.startswith(entry)]
        return slices[0] if slices else None
    named = [_whole(gpu) for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
    return named[0] if named else None


def selected_gpu(request: GpuRequest, driver: Driver) -> VisibleGpu | None:
    """The GPU that the services use; None if there is no such one."""
    seen = visible_gpus(request.visible, driver.gpus)
    return seen[request.device] if request.device < len(seen) else None


def check_gpu(request: GpuRequest, driver: Driver, cuda: Cuda | None, xids: Sequence[Xid] | None) -> list[Finding]:
    """Check the GPU that the services would use.

    Args:
        request: which one, and why there must be one.
        driver: what the driver says.
        cuda: what happened when torch computed there; None if that was not tried.
        xids: the latest errors in the kernel's log; None if it cannot be read.

    Returns:
        The findings; one alone if no GPU is used.
    """
    if request.wanted is None:
        reason = "no GPU is here" if request.use_gpu else "USE_GPU=false"
        return [ok("gpu", f"The models run on the CPU: {reason}.")]
    findings = [_driver(request, driver, cuda), *_visible(request, driver), *_cuda(request, cuda)]
    one = selected_gpu(request, driver)
    if one is not None:
        findings += [*_compute_mode(one.gpu), *_mig(request, one.gpu)]
    return [*findings, _xid(xids)]


def _driver(request: GpuRequest, driver: Driver, cuda: Cuda | None) -> Finding:
    works = cuda is not None and cuda.error is None
    if driver.error is not None:
        message = f"{sentence(request.wanted or 'A GPU is wanted')}, and the driver does not answer: {driver.error}."
        remedy = f"Install NVIDIA's driver {MIN_DRIVER} or newer, or restart the machine after its update"
        # Without NVML's package torch may find the GPU all the same.
        return (warning if works else refusal)("driver", message, f"{remedy}, {USE_CPU}.")
    runs = f"{driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda else "unknown"
    message = f"Driver {driver.version}, for CUDA up to {runs}."
    if _major(driver.version) >= MIN_DRIVER:
        return ok("driver", message)
    message = f"Driver {driver.version} is older than {MIN_DRIVER}: CUDA 13.0 needs that one."
    return (warning if works else refusal)("driver", message, f"Install driver {MIN_DRIVER} or newer, {USE_CPU}.")


def _visible(request: GpuRequest, driver: Driver) -> list[Finding]:
    if driver.error is not None:
        return []
    seen = visible_gpus(request.visible, driver.gpus)
    shown = "" if request.visible is None else f" CUDA_VISIBLE_DEVICES={request.visible} shows {len(seen)} of them."
    if request.device < len(seen):
        one = seen[request.device]
        findings = [ok("gpu", f"{one.gpu.name}, GPU_DEVICE={request.device} of {len(driver.gpus)} here.{shown}")]
        if len({gpu.name for gpu in driver.gpus}) > 1 and request.order != "PCI_BUS_ID" and _by_index(request):
            findings.append(
                warning(
                    "gpu",
                    "There are GPUs of several kinds: CUDA counts the fastest first, the driver by their place.",
                    "Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name one by its UUID in CUDA_VISIBLE_DEVICES.",
                )
            )
        return findings
    if not seen and request.visible is not None:
        message = (
            f"CUDA_VISIBLE_DEVICES={request.visible} hides every GPU: it names none of the {len(driver.gpus)} here."
        )
        return [refusal("gpu", message, f"Unset it, or name one ('nvidia-smi -L' lists them), {USE_CPU}.")]
    message = f"GPU_DEVICE={request.device}, but {len(seen)} GPUs are to be seen.{shown}"
    return [refusal("gpu", message, f"Set GPU_DEVICE below that number, {USE_CPU}.")]


def _by_index(request: GpuRequest) -> bool:
    return request.visible is None or request.visible.strip()[:1].isdigit()


def _cuda(request: GpuRequest, cuda: Cuda | None) -> list[Finding]:
    if cuda is None:
        return []
    if cuda.in_use:
        return [ok("cuda", "Not tried: the stack that runs here computes on it.")]
    if cuda.error is None:
        return [ok("cuda", f"torch {cuda.torch} for CUDA {cuda.built_for} computes on it.")]
    message = f"{sentence(request.wanted or 'A GPU is wanted')}, and CUDA does not work: {cuda.error.rstrip('.')}."
    if not cuda.torch:
        return [refusal("cuda", message, "Run 'make install'.")]
    if cuda.built_for is None:
        return [refusal("cuda", message, f"Install the builds for CUDA ('make install FLAVOUR=cuda'), {USE_CPU}.")]
    remedy = "Look at 'nvidia-smi' and at the lines above; restart the machine if the driver was updated"
    return [refusal("cuda", message, f"{remedy}, {USE_CPU}.")]


def _compute_mode(gpu: Gpu) -> list[Finding]:
    if gpu.compute_mode == "default":
        return []
    message = f"The compute mode of {gpu.name} is {gpu.compute_mode}, and three processes share it."
    return [refusal("gpu", message, f"Type: sudo nvidia-smi -i {gpu.index} -c DEFAULT")]


def _mig(request: GpuRequest, gpu: Gpu) -> list[Finding]:
    if gpu.mig is None:
        return []
    if not gpu.mig:
        message = f"MIG is on, and {gpu.name} has no slice, so that nothing can run there."
        remedy = f"Make one ('sudo nvidia-smi mig -cgi ... -C'), or turn MIG off: sudo nvidia-smi -i {gpu.index} -mig 0"
        return [refusal("mig", message, remedy)]
    if request.visible is not None and "MIG-" in request.visible:
        return [ok("mig", f"MIG is on, and CUDA_VISIBLE_DEVICES names a slice of {gpu.name}.")]
    message = f"MIG is on: of {gpu.name} only its first slice is used, and the memory plan is that of the whole card."
    return [refusal("mig", message, f"Set CUDA_VISIBLE_DEVICES to a slice: {', '.join(one.uuid for one in gpu.mig)}.")]


def _xid(xids: Sequence[Xid] | None) -> Finding:
    if xids is None:
        return ok("xid", "The driver's errors were not looked at: the kernel's log is closed to this user.")
    if not xids:
        return ok("xid", "The driver has logged no error in the last day.")
    codes = ", ".join(f"Xid {one.code} {one.hours_ago:.1f} h ago" for one in xids)
    if any(one.code == _LOST_XID for one in xids):
        message = f"The GPU has fallen off the bus: {codes}."
        return warning("xid", message, "Restart the machine; if it recurs, power, cooling or the card is at fault.")
    if all(one.code in _APPLICATION_XIDS for one in xids):
        kinds = ", ".join(sorted({_APPLICATION_XIDS[one.code] for one in xids}))
        return warning("xid", f"Programs have failed on the GPU ({kinds}): {codes}.", "If it recurs, read their logs.")
    message = f"The driver has logged errors of the card: {codes}."
    return warning("xid", message, "Look them up in NVIDIA's list of Xid errors, and restart the machine.")


def check_memory(request: GpuRequest, driver: Driver, planned_bytes: int, *, in_use: bool = False) -> list[Finding]:
    """Check that the planned shares are free on the GPU, and name who else is there.

    Args:
        request: which GPU.
        driver: what the driver says; its processes say which are the stack's own.
        planned_bytes: of all three shares together.
        in_use: whether the stack that runs here computes there.

    Returns:
        The findings; none if the driver does not know how much is free, or how much of the rest is the stack's own.
    """
    one = selected_gpu(request, driver)
    if request.wanted is None or one is None or one.gpu.free_bytes is None or one.slice is not None:
        return []
    ours = sum(process.used_bytes or 0 for process in one.gpu.processes if process.ours)
    if in_use and not ours:
        return []
    free = one.gpu.free_bytes + ours
    others = [process for process in one.gpu.processes if not process.ours]
    shown = f" Also there: {_listed(others)}." if others else ""
    message = (
        f"{free / GIB:.1f} GiB are free on {one.gpu.name}, and the memory plan takes {planned_bytes / GIB:.1f}.{shown}"
    )
    if free < planned_bytes:
        remedy = "Stop what else uses the GPU ('nvidia-smi' shows it), or plan for a smaller one with GPU_CARD_GB."
        return [refusal("gpu memory", message, remedy)]
    if others:
        return [warning("gpu memory", message, "They share its time, and may take memory that is planned: stop them.")]
    return [ok("gpu memory", message)]


def own_processes(driver: Driver, pids: set[int]) -> Driver:
    """Mark the stack's own processes.

    Args:
        driver: what the driver says.
        pids: ids of the stack's processes.

    Returns:
        The same with `ours` set.
    """
    return replace(
        driver,
        gpus=tuple(
            replace(gpu, processes=tuple(replace(one, ours=one.pid in pids) for one in gpu.processes))
            for gpu in driver.gpus
        ),
    )


def _listed(processes: Sequence[GpuProcess]) -> str:
    return ", ".join(
        f"process {one.pid}{f' ({one.name})' if one.name else ''}"
        + (f" with {one.used_bytes / GIB:.1f} GiB" if one.used_bytes is not None else "")
        for one in processes
    )


def _major(version: str) -> int:
    digits = version.partition(".")[0]
    return int(digits) if digits.isdigit() else 0


def _wanted(request: GpuRequest) -> str:
    return sentence(request.wanted or "a GPU is wanted")
