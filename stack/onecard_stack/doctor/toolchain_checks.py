"""Checks of what compiles kernels on a GPU machine, and of the versions that must agree. Pure."""

from onecard_stack.doctor import cuda_rules
from onecard_stack.doctor.cuda_rules import Rule
from onecard_stack.doctor.facts import Toolchain
from onecard_stack.doctor.findings import Finding, ok, refusal, warning

_INSTALL = "'make install' puts the versions of the lock there."


def check_toolchain(tools: Toolchain, rules: Rule) -> list[Finding]:
    """Check versions, compiler and sampler where vLLM runs on a GPU.

    Args:
        tools: what is installed.
        rules: cuda_rules.toml.

    Returns:
        The findings; none where vLLM's build for CUDA does not serve.
    """
    if not tools.vllm:
        return []
    broken = cuda_rules.broken_installed(rules, tools.versions)
    versions = [warning("versions", f"{line}.", _INSTALL) for line in broken] or [
        ok("versions", "torch, vLLM, the CUDA runtime and nvcc are of versions that agree.")
    ]
    return [*versions, _compiler(tools), *_sampler(tools)]


def _compiler(tools: Toolchain) -> Finding:
    if tools.compiler is None:
        message = "There is no C compiler, which Triton needs when the LLM starts."
        return refusal("compiler", message, "Install one (Debian, Ubuntu: apt install gcc libc6-dev), or set CC.")
    if not tools.python_headers:
        message = f"{tools.compiler} is there, but not Python.h, which Triton includes when the LLM starts."
        return refusal("compiler", message, "Install Python's headers (Debian, Ubuntu: apt install python3.11-dev).")
    return ok("compiler", f"Triton's C compiler is {tools.compiler}.")


def _sampler(tools: Toolchain) -> list[Finding]:
    if not tools.flashinfer_sampler:
        return []
    unset = "Unset VLLM_USE_FLASHINFER_SAMPLER: vLLM then samples with its own code."
    if tools.nvcc is None:
        return [refusal("nvcc", "VLLM_USE_FLASHINFER_SAMPLER=1 compiles a kernel, and there is no nvcc.", unset)]
    nvcc = f"{tools.nvcc[0]}.{tools.nvcc[1]}"
    runtime = ".".join(tools.versions.get("nvidia-cuda-runtime", nvcc).split(".")[:2])
    if nvcc != runtime:
        message = (
            f"VLLM_USE_FLASHINFER_SAMPLER=1 compiles a kernel, and nvcc is of CUDA {nvcc}, the runtime of {runtime}."
        )
        return [refusal("nvcc", message, unset)]
    return [ok("nvcc", f"FlashInfer's sampler is compiled with nvcc of CUDA {nvcc}.")]
