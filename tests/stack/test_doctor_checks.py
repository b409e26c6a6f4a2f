"""The doctor's checks: facts in, findings out."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.models.folders import STAND_INS, ModelFolder
from onecard_stack.doctor import cuda_rules
from onecard_stack.doctor.facts import (
    Clock,
    Cuda,
    Disk,
    Driver,
    Gpu,
    GpuProcess,
    GpuRequest,
    MigSlice,
    Port,
    Toolchain,
    Xid,
)
from onecard_stack.doctor.findings import Finding, Refused, refusals, require, warning
from onecard_stack.doctor.gpu_checks import check_gpu, check_memory, own_processes, selected_gpu, visible_gpus
from onecard_stack.doctor.host_checks import (
    check_clock,
    check_disk,
    check_host,
    check_key,
    check_main_memory,
    check_own_redis,
    check_ports,
    check_redis,
    check_shared_memory,
)
from onecard_stack.doctor.model_checks import Model, check_files, check_models, check_plan
from onecard_stack.doctor.toolchain_checks import check_toolchain

GIB = 1024**3
WANTED = "there is an NVIDIA GPU"
WORKS = Cuda("2.13.0+cu130", "13.0", None)
A5000 = Gpu(0, "GPU-aaaa-1", "NVIDIA RTX A5000", 24 * GIB, 23 * GIB)
A100 = Gpu(1, "GPU-bbbb-2", "NVIDIA A100", 80 * GIB, 79 * GIB)
SLICED = Gpu(0, "GPU-cccc", "NVIDIA A100", 80 * GIB, 79 * GIB, mig=(MigSlice("MIG-1", 10 * GIB),))


def driver(*gpus: Gpu, version: str = "580.95.05") -> Driver:
    """A driver that works."""
    return Driver(None, version, (13, 0), gpus or (A5000,))


def of(findings: list[Finding], check: str) -> list[str]:
    """The levels of the findings of one check."""
    return [finding.level for finding in findings if finding.check == check]


def test_a_card_that_works_is_ok() -> None:
    """Every line is, and each names what was looked at."""
    findings = check_gpu(GpuRequest(WANTED), driver(), WORKS, [])
    assert {finding.level for finding in findings} == {"ok"}
    assert {finding.check for finding in findings} == {"driver", "gpu", "cuda", "xid"}


@pytest.mark.parametrize(
    ("use_gpu", "says"), [(True, "no GPU is here"), (False, "USE_GPU=false")], ids=["no card", "not used"]
)
def test_a_laptop_goes_on(use_gpu: bool, says: str) -> None:
    """Without a card, or with one that is not to be used, nothing is refused, whatever the driver says."""
    [finding] = check_gpu(GpuRequest(None, use_gpu), Driver(error="Driver Not Loaded"), None, None)
    assert (finding.level, finding.next_step) == ("ok", "")
    assert says in finding.message


@pytest.mark.parametrize("wanted", [WANTED, "USE_GPU=true is set", "NVIDIA's driver is loaded"])
@pytest.mark.parametrize(
    "cuda",
    [
        Cuda("2.13.0", "13.0", "No CUDA GPUs are available"),
        Cuda("2.13.0+cpu", None, "torch is its CPU build"),
        Cuda(error="torch cannot be imported"),
        Cuda("?", "?", "the GPU did not answer within 120 s"),
    ],
)
def test_cuda_that_does_not_work_is_a_refusal(wanted: str, cuda: Cuda) -> None:
    """Whoever wants the GPU, and whatever is wrong with it, nothing goes on on the CPU in silence."""
    findings = refusals(check_gpu(GpuRequest(wanted), driver(), cuda, []))
    assert [finding.check for finding in findings] == ["cuda"]
    assert cuda.error is not None
    assert cuda.error in findings[0].message
    assert findings[0].next_step


def test_a_driver_that_does_not_answer() -> None:
    """It is a refusal with its reason; where torch computes all the same, a warning."""
    mismatch = Driver(error="Driver/library version mismatch")
    broken = Cuda("2.13.0", "13.0", "CUDA unknown error")
    assert of(check_gpu(GpuRequest(WANTED), mismatch, broken, []), "driver") == ["refusal"]
    findings = check_gpu(GpuRequest(WANTED), mismatch, WORKS, [])
    assert of(findings, "driver") == ["warning"]
    assert refusals(findings) == []


@pytest.mark.parametrize(("version", "level"), [("580.65.06", "ok"), ("610.1", "ok"), ("579.99", "old"), ("", "old")])
def test_a_driver_below_580(version: str, level: str) -> None:
    """It is a refusal, with the version that is needed; where CUDA computes all the same, a warning."""
    old = Cuda("2.13.0", "13.0", "The NVIDIA driver on your system is too old (found version 12080)")
    for cuda, expected in ((WORKS, "warning"), (old, "refusal")):
        found = check_gpu(GpuRequest(WANTED), driver(version=version), cuda, [])[0]
        assert found.level == ("ok" if level == "ok" else expected)
        assert level == "ok" or "580" in found.next_step


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        (None, [0, 1]),
        ("1,0", [1, 0]),
        ("1", [1]),
        ("", []),
        ("-1", []),
        ("1,7,0", [1]),
        ("0,0", [0]),
        ("GPU-bbbb", [1]),
        ("GPU-none", []),
        (" 1 , 0 ", [1, 0]),
    ],
)
def test_visible_devices_as_cuda_reads_them(value: str | None, indices: list[int]) -> None:
    """Entries count up to the first that names nothing, or names one again; empty hides all."""
    assert [one.gpu.index for one in visible_gpus(value, (A5000, A100))] == indices


@given(st.text(alphabet="0123,-GPUMIab ", max_size=20))
def test_no_value_of_visible_devices_invents_a_gpu(value: str) -> None:
    """Whatever is set, each GPU is seen once at most; and one is refused or selected, never neither."""
    seen = visible_gpus(value, (A5000, A100))
    assert len({one.gpu.index for one in seen}) == len(seen) <= 2
    request = GpuRequest(WANTED, visible=value)
    refused = "refusal" in of(check_gpu(request, driver(A5000, A100), WORKS, []), "gpu")
    assert refused == (selected_gpu(request, driver(A5000, A100)) is None)


@pytest.mark.parametrize(
    ("request_", "gpus", "says"),
    [
        (GpuRequest(WANTED, visible=""), (A5000,), "hides every GPU"),
        (GpuRequest(WANTED, visible="3"), (A5000,), "CUDA_VISIBLE_DEVICES=3"),
        (GpuRequest(WANTED, device=1), (A5000,), "GPU_DEVICE=1"),
        (GpuRequest(WANTED, device=1, visible="1"), (A5000, A100), "GPU_DEVICE=1"),
        (GpuRequest(WANTED), (Gpu(0, "GPU-a", "A5000", compute_mode="exclusive"),), "exclusive"),
        (GpuRequest(WANTED), (Gpu(0, "GPU-a", "A100", mig=()),), "no slice"),
        (GpuRequest(WANTED), (SLICED,), "MIG-1"),
    ],
)
def test_a_gpu_that_cannot_be_shared_is_refused(request_: GpuRequest, gpus: tuple[Gpu, ...], says: str) -> None:
    """Hidden, not there, for one process alone, or cut into slices of which none is named."""
    findings = refusals(check_gpu(request_, driver(*gpus), WORKS, []))
    assert len(findings) == 1
    assert says in findings[0].line
    assert findings[0].next_step


def test_a_named_slice_is_taken() -> None:
    """Its memory is what is planned for."""
    request = GpuRequest(WANTED, visible="MIG-1")
    assert refusals(check_gpu(request, driver(SLICED), WORKS, [])) == []
    one = selected_gpu(request, driver(SLICED))
    assert one is not None
    assert one.total_bytes == 10 * GIB


def test_two_kinds_of_cards_are_counted_in_two_ways() -> None:
    """Which is a warning, unless the order is set or the card is named."""
    both = driver(A5000, A100)
    assert of(check_gpu(GpuRequest(WANTED), both, WORKS, []), "gpu") == ["ok", "warning"]
    for request in (GpuRequest(WANTED, order="PCI_BUS_ID"), GpuRequest(WANTED, visible="GPU-bbbb")):
        assert of(check_gpu(request, both, WORKS, []), "gpu") == ["ok"]


@pytest.mark.parametrize(
    ("xids", "level", "says"),
    [
        (None, "ok", "closed to this user"),
        ([], "ok", "no error"),
        ([Xid(31, 2.0)], "warning", "Programs have failed"),
        ([Xid(31, 2.0), Xid(48, 0.5)], "warning", "errors of the card"),
        ([Xid(79, 0.1)], "warning", "fallen off the bus"),
    ],
)
def test_recent_xid_errors_are_told(xids: list[Xid] | None, level: str, says: str) -> None:
    """With their number and age, and whether a program or the card is at fault."""
    finding = check_gpu(GpuRequest(WANTED), driver(), WORKS, xids)[-1]
    assert (finding.check, finding.level) == ("xid", level)
    assert says in finding.message
    assert all(f"Xid {xid.code}" in finding.message for xid in xids or ())


def shared(free_gib: float, *processes: GpuProcess) -> Driver:
    """A 24 GB card on which others are."""
    return driver(Gpu(0, "GPU-a", "A5000", 24 * GIB, int(free_gib * GIB), processes=processes))


def test_who_else_is_on_the_card() -> None:
    """Its memory decides: a refusal where the plan does not fit any more, else a warning; both name the process."""
    other = GpuProcess(4711, "python", 8 * GIB)
    request = GpuRequest(WANTED)
    [full] = check_memory(request, shared(15, other), 20 * GIB)
    [room] = check_memory(request, shared(21, other), 20 * GIB)
    [alone] = check_memory(request, shared(23), 20 * GIB)
    assert [full.level, room.level, alone.level] == ["refusal", "warning", "ok"]
    assert "process 4711 (python) with 8.0 GiB" in full.message
    assert "process 4711" in room.message


def test_the_stack_s_own_memory_counts_as_free() -> None:
    """The doctor is asked while the stack runs."""
    running = shared(2, GpuProcess(1, "vllm", 20 * GIB), GpuProcess(2, "python", None))
    [finding] = check_memory(GpuRequest(WANTED), own_processes(running, {1, 2}), 21 * GIB)
    assert finding.level == "ok"


def test_a_card_that_the_running_stack_fills_is_not_refused() -> None:
    """CUDA is not tried there, and in a container, where the driver's process ids are others, memory is not judged."""
    running = shared(1, GpuProcess(4711, "", 20 * GIB))
    findings = check_gpu(GpuRequest(WANTED), running, Cuda(in_use=True), [])
    assert of(findings, "cuda") == ["ok"]
    assert refusals(findings) == []
    assert check_memory(GpuRequest(WANTED), running, 21 * GIB, in_use=True) == []


@given(
    st.integers(0, 80),
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=4),
    st.integers(0, 80),
)
def test_memory_is_refused_exactly_where_it_is_short(free: int, held: list[tuple[int, bool]], planned: int) -> None:
    """Whoever holds the rest; and everybody else who is there is at least warned of."""
    processes = tuple(GpuProcess(number, "", size * GIB, ours) for number, (size, ours) in enumerate(held))
    [finding] = check_memory(GpuRequest(WANTED), shared(free, *processes), planned * GIB)
    ours = sum(size for size, is_ours in held if is_ours)
    assert (finding.level == "refusal") == (free + ours < planned)
    assert (finding.level == "ok") == (free + ours >= planned and all(is_ours for _, is_ours in held))


AGREEING = {"torch": "2.13.0", "nvidia-cuda-runtime": "13.0.96", "nvidia-cuda-nvcc": "13.0.88"}


@pytest.mark.parametrize(
    ("changed", "levels"),
    [
        ({}, {"versions": "ok", "compiler": "ok"}),
        ({"versions": AGREEING | {"nvidia-cuda-nvcc": "13.5.37"}}, {"versions": "warning"}),
        ({"versions": AGREEING | {"triton": "3.0.0"}}, {"versions": "warning"}),
        ({"compiler": None}, {"compiler": "refusal"}),
        ({"python_headers": False}, {"compiler": "refusal"}),
        ({"flashinfer_sampler": True}, {"nvcc": "refusal"}),
        ({"flashinfer_sampler": True, "nvcc": (13, 5)}, {"nvcc": "refusal"}),
        ({"flashinfer_sampler": True, "nvcc": (13, 0)}, {"nvcc": "ok"}),
        ({"vllm": False, "compiler": None}, {}),
    ],
)
def test_what_compiles_kernels(changed: dict[str, Any], levels: dict[str, str]) -> None:
    """A compiler with Python's headers, versions that agree, and nvcc only where FlashInfer's sampler is asked for."""
    tools = {"vllm": True, "compiler": "/usr/bin/gcc", "python_headers": True, "versions": AGREEING} | changed
    findings = check_toolchain(Toolchain(**tools), cuda_rules.table())
    found = {finding.check: finding.level for finding in findings}
    assert levels.items() <= found.items()
    assert bool(findings) == bool(levels)
    assert all(finding.next_step for finding in findings if finding.level != "ok")


def test_rules_apply_to_what_is_installed_alone() -> None:
    """A package that is not there breaks nothing, nor does a rule that was read in another version."""
    rules = cuda_rules.table()
    assert cuda_rules.broken_installed(rules, {}) == []
    assert cuda_rules.broken_installed(rules, {"vllm": "0.31.0", "torch": "2.12.0"}) == []
    [line] = cuda_rules.broken_installed(rules, {"vllm": "0.32.0", "torch": "2.12.0"})
    assert "vllm wants ==2.13.0" in line


def port(number: int, name: str = "gateway", variable: str = "GATEWAY_PORT", **fault: Any) -> Port:
    """A port of the stack."""
    return Port(name, number, variable, **fault)


def test_ports() -> None:
    """Taken, wanted twice, not to be had: the line names the variable to set, and who has it."""
    assert [finding.level for finding in check_ports([port(1), port(2)])] == ["ok"]
    [taken] = check_ports([port(1, error="Address already in use", listener=" by process 5 (nc)", in_use=True)])
    assert taken.message == "Port 1 for gateway is taken by process 5 (nc)."
    [closed] = check_ports([port(80, error="Permission denied")])
    assert "cannot be had (Permission denied)" in closed.message
    [twice] = check_ports([port(1, "llm", "VLLM_PORT"), port(1)])
    assert twice.message == "GATEWAY_PORT and VLLM_PORT are both 1."


@pytest.mark.parametrize(
    ("finding", "level"),
    [
        (check_host("::", "Cannot assign requested address"), "refusal"),
        (check_host("127.0.0.1", None), "ok"),
        (check_key("HOST=0.0.0.0 is reachable from outside"), "refusal"),
        (check_key(None), "ok"),
        (check_disk(Disk(Path("/a"), 299)), "refusal"),
        (check_disk(Disk(Path("/a"), 301)), "ok"),
        (check_disk(Disk(Path("/a"), error="Read-only file system")), "refusal"),
        (check_shared_memory(Disk(Path("/dev/shm"), error="Permission denied"), vllm_on_gpu=False), "refusal"),
        (check_shared_memory(Disk(Path("/dev/shm"), 0), vllm_on_gpu=False), "refusal"),
        (check_shared_memory(Disk(Path("/dev/shm"), 64), vllm_on_gpu=True), "warning"),
        (check_shared_memory(Disk(Path("/dev/shm"), 64), vllm_on_gpu=False), "ok"),
        (check_main_memory(1000, 2000), "warning"),
        (check_main_memory(2000, 2000), "ok"),
        (check_main_memory(1, None), "ok"),
        (check_own_redis(None), "warning"),
        (check_own_redis(Path("/usr/bin/redis-server")), "ok"),
        (check_redis("ConnectionError"), "warning"),
        (check_redis(None), "ok"),
        (check_clock(Clock(1_000_000_000, 1_700_000_000, True)), "refusal"),
        (check_clock(Clock(1_700_000_000, 1_700_000_000, False)), "ok"),
        (check_plan("Memory plan: 4 GB do not hold this plan.", {}), "refusal"),
        (check_plan(None, {"llm": 18.8}), "ok"),
    ],
)
def test_each_fault_of_the_machine_has_its_level(finding: Finding, level: str) -> None:
    """A refusal where the stack cannot run, a warning where it runs worse."""
    assert finding.level == level
    assert finding.message.endswith((".", ")")) or finding.level == "refusal"


REAL = ModelFolder(Path("/m/a--b"), "a/b", "r1", stand_in_for=None)
STAND_IN = ModelFolder(Path("/m/s"), STAND_INS["llm"], "r1", stand_in_for="a/b")


@pytest.mark.parametrize(
    ("model", "fetches", "level", "says"),
    [
        (Model("llm", "a/b", REAL), False, "ok", "here and whole"),
        (Model("llm", "a/b", STAND_IN), False, "warning", "takes the place of a/b"),
        (Model("llm", "a/b", missing="model a/b is not there"), False, "refusal", "not there"),
        (Model("llm", "a/b", missing="model a/b is not there"), True, "warning", "make models"),
        (Model("llm", "a/b", REAL, fault="config.json is missing"), True, "refusal", "make models"),
        (Model("llm", "a/b", REAL, changed=[Path("/m/a--b/w.safetensors")]), True, "refusal", "w.safetensors"),
    ],
)
def test_models(model: Model, fetches: bool, level: str, says: str) -> None:
    """Missing, broken, changed since they were fetched, or stand-ins."""
    [finding] = check_models([model], fetches=fetches)
    assert finding.level == level
    assert says in finding.line
    assert (check_files("llm", model.changed) != []) == bool(model.changed)


def test_one_line_stands_for_all_refusals() -> None:
    """The launcher says the first, and how many others there are."""
    require([warning("a", "w.", "n.")])
    with pytest.raises(Refused, match=r"^First\. \(1 more: 'onecard doctor' lists them\)$"):
        require([Finding("a", "refusal", "First."), Finding("b", "refusal", "Second.")])
