"""Loads the model: the fastest attention that works here, quantised or partly in the host's memory if asked for."""

from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from llm_service.settings import LlmSettings
from onecard import logs
from onecard.gpu.costs import GIB
from onecard.gpu.device import Device
from onecard.models.folders import ModelFolder

log = logs.logger()


def load_model(folder: ModelFolder, device: Device, settings: LlmSettings, memory_bytes: int | None) -> Any:
    """Load a causal language model.

    Args:
        folder: The model.
        device: Where it runs.
        settings: Quantisation, and how much of it may lie in the host's memory.
        memory_bytes: This process's share of the GPU; None on a CPU.

    Returns:
        The model in evaluation mode.

    Raises:
        SystemExit: A package for the requested quantisation or offload is missing.
    """
    options = _placement(device, settings, memory_bytes)
    *others, last = _attentions(device)
    missing: dict[str, str] = {}
    for attention in others:
        try:
            return _loaded(folder, device, attention, options, missing)
        except (ImportError, ValueError) as error:
            missing[attention] = type(error).__name__
    return _loaded(folder, device, last, options, missing)


def _attentions(device: Device) -> tuple[str, ...]:
    """Best first. FlashAttention-2 needs a GPU and half precision."""
    flash = ("flash_attention_2",) if device.name.startswith("cuda") and device.precision != "float32" else ()
    return (*flash, "sdpa", "eager")


def _loaded(
    folder: ModelFolder, device: Device, attention: str, options: dict[str, Any], missing: dict[str, str]
) -> Any:
    model = AutoModelForCausalLM.from_pretrained(
        folder.path,
        attn_implementation=attention,
        dtype=device.dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        **options,
    )
    log.info("attention", uses=attention, not_available=missing)
    return model.eval() if options else model.to(device.name).eval()


def _placement(device: Device, settings: LlmSettings, memory_bytes: int | None) -> dict[str, Any]:
    """Options of `from_pretrained` for quantised or offloaded weights; empty for neither."""
    options: dict[str, Any] = {}
    if settings.llm_quantization == "int8":
        _require("bitsandbytes", "LLM_QUANTIZATION=int8")
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        options["device_map"] = {"": device.name}
    if settings.llm_cpu_offload_gb and memory_bytes is not None:
        _require("accelerate", "LLM_CPU_OFFLOAD_GB")
        index = torch.device(device.name).index or 0
        options["device_map"] = "auto"
        options["max_memory"] = {index: memory_bytes, "cpu": int(settings.llm_cpu_offload_gb * GIB)}
    return options


def _require(package: str, setting: str) -> None:
    if find_spec(package) is None:
        raise SystemExit(f"{setting} needs the package {package} in the Transformers engine. Install it, or unset it.")
