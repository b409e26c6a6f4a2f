"""From settings to vLLM's command line: a pure function, so every case is cheap."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llm_service.launch import PLANNED_BYTES, HostInfo, LaunchCommand, ModelConfig, vllm_command, window
from llm_service.settings import LlmSettings
from onecard.gpu.engine_memory import EngineLimits
from onecard.gpu.plan import usable_bytes
from onecard.gpu.plan_settings import GpuShare
from onecard.hardware import cpu_multiplies_bfloat16, has_nvidia_gpu
from onecard.models.folders import ModelFolder
from onecard.settings import CPU_MODEL, GPU_MODEL

FOLDER = ModelFolder(Path("/models/stand-in"), "onecard/standin-qwen2", "r1", stand_in_for="Qwen/Qwen2.5-0.5B-Instruct")
GPU = HostInfo(gpu=True, bfloat16=True, cpus=16)
SHARE = GpuShare(0.79999999996, 20_000_000_000)
LONG_WINDOW = ModelConfig(32768)
CPU = HostInfo(gpu=False, bfloat16=True, cpus=2)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the test alone."""
    for name in LlmSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def command(machine: HostInfo = CPU, facts: ModelConfig = LONG_WINDOW, **changed: object) -> LaunchCommand:
    """The command with some settings changed."""
    inherited = {"PATH": "/bin", "VLLM_PORT": "8001", "VLLM_ENABLED": "true", "VLLM_API_KEY": "other"}
    share = SHARE if machine.gpu else None
    return vllm_command(LlmSettings(**changed), FOLDER, facts, machine, inherited, share)  # type: ignore[arg-type]


def option(made: LaunchCommand, name: str) -> str:
    """The value of one option, which is there once."""
    assert made.argv.count(name) == 1, name
    return made.argv[made.argv.index(name) + 1]


def test_the_stock_server_is_run_by_this_python() -> None:
    """No script of another environment, no shell."""
    made = command()
    assert made.argv[0] == sys.executable
    assert made.argv[1:3] == ["-m", "vllm.entrypoints.launchers.api_server.entry"]
    assert option(made, "--model") == "/models/stand-in"
    assert all(isinstance(part, str) for part in made.argv)


def test_both_names_are_served_and_its_own_is_first() -> None:
    """vLLM answers under the first name."""
    argv = command().argv
    at = argv.index("--served-model-name")
    assert argv[at + 1 : at + 3] == FOLDER.accepted_names


def test_the_models_window_bounds_the_setting() -> None:
    """The smaller of the two."""
    assert window(LlmSettings(max_model_len=4096), ModelConfig(2048)) == 2048
    assert window(LlmSettings(max_model_len=4096), ModelConfig(32768)) == 4096
    assert option(command(facts=ModelConfig(512)), "--max-model-len") == "512"


def test_unset_sampling_is_the_strategys() -> None:
    """Temperature 0.3 and top_p 0.95, whatever the model's own file says."""
    assert json.loads(option(command(), "--override-generation-config")) == {"temperature": 0.3, "top_p": 0.95}


def test_the_queue_is_bounded_on_top_of_what_runs() -> None:
    """vLLM counts both together, and one more: the canary."""
    made = command(llm_max_seqs=10, llm_queue_requests=5)
    assert option(made, "--max-num-seqs") == "10"
    assert option(made, "--max-num-queued-reqs") == "16"
    assert option(made, "--scheduling-policy") == "priority"


@pytest.mark.parametrize(("gpu_gb", "seqs"), [(12, 64), (16, 64), (24, 128), (40, 256), (48, 256), (80, 256)])
def test_the_gpu_decides_how_many_run_at_once(gpu_gb: float, seqs: int) -> None:
    """Unless LLM_MAX_SEQS does; our middleware in the server is told, because its limits follow from it."""
    share = GpuShare(0.8, int(0.8 * usable_bytes(gpu_gb)))
    made = vllm_command(LlmSettings(), FOLDER, LONG_WINDOW, GPU, {}, share)
    assert option(made, "--max-num-seqs") == made.environment["LLM_MAX_SEQS"] == str(seqs)
    assert option(command(), "--max-num-seqs") == "128"


@pytest.mark.parametrize(
    ("gpu_gb", "capability", "changed", "tokens"),
    [
        (24, (8, 9), {}, 2048),
        (80, (9, 0), {}, 8192),
        (80, (9, 0), {"gpu_card_gb": 24}, 2048),
        (180, (10, 0), {}, 8192),
        (80, (8, 0), {}, 2048),
        (80, (9, 0), {"gpu_card_gb": 24, "llm_max_seqs": 4000}, 4000),
    ],
)
def test_a_step_has_no_more_tokens_than_planned(
    gpu_gb: float, capability: tuple[int, int], changed: dict[str, float], tokens: int
) -> None:
    """By the card that is planned for, whatever card it is; vLLM wants at least one token for each sequence."""
    share = GpuShare(0.25, int(0.25 * usable_bytes(gpu_gb)))
    machine = replace(GPU, compute_capability=capability)
    settings = LlmSettings(**changed)  # type: ignore[arg-type]
    made = vllm_command(settings, FOLDER, LONG_WINDOW, machine, {}, share)
    assert option(made, "--max-num-batched-tokens") == str(tokens)
    assert tokens <= max(
        EngineLimits.for_gpu(settings.gpu_card_gb or gpu_gb).batched_tokens, settings.llm_max_seqs or 0
    )
    assert "--max-num-batched-tokens" not in command(CPU).argv


@pytest.mark.parametrize(
    ("capability", "llm_dtype", "dtype"),
    [
        ((7, 5), "auto", "float16"),
        ((8, 0), "auto", "bfloat16"),
        ((12, 0), "auto", "bfloat16"),
        (None, "auto", "float16"),
        ((8, 6), "float16", "float16"),
    ],
)
def test_half_precision_follows_the_gpu(capability: tuple[int, int] | None, llm_dtype: str, dtype: str) -> None:
    """bfloat16 where the GPU has it, FP16 where it may not, unless LLM_DTYPE says; FP32 remains FP32."""
    machine = replace(GPU, compute_capability=capability)
    assert option(command(machine, llm_dtype=llm_dtype), "--dtype") == dtype
    assert option(command(machine, llm_dtype=llm_dtype, use_fp16=False), "--dtype") == "float32"


def test_smaller_weights_and_caches_are_asked_for_on_a_gpu() -> None:
    """Only where they are set, and not on a CPU."""
    wanted = {"llm_quantization": "fp8_per_tensor", "kv_cache_dtype": "fp8", "llm_cpu_offload_gb": 4}
    made = command(GPU, **wanted)
    assert option(made, "--quantization") == "fp8_per_tensor"
    assert option(made, "--kv-cache-dtype") == "fp8"
    assert option(made, "--cpu-offload-gb") == "4.0"
    for other in (command(GPU), command(CPU, **wanted)):
        assert not {"--quantization", "--kv-cache-dtype", "--cpu-offload-gb"} & set(other.argv)


@pytest.mark.parametrize(
    ("machine", "use_fp16", "dtype"),
    [
        (GPU, True, "float16"),
        (GPU, False, "float32"),
        (CPU, True, "bfloat16"),
        (CPU, False, "float32"),
        (HostInfo(gpu=False, bfloat16=False, cpus=2), True, "float32"),
    ],
)
def test_precision_follows_the_machine(machine: HostInfo, use_fp16: bool, dtype: str) -> None:
    """Half precision on a GPU, bfloat16 where the processor has it, else FP32."""
    assert option(command(machine, use_fp16=use_fp16), "--dtype") == dtype


def test_a_gpu_gets_its_share_and_a_cpu_its_threads() -> None:
    """Each machine has only its own options."""
    gpu, cpu = command(GPU, gpu_device=1), command(CPU, llm_cpu_kv_gb=2)
    assert option(gpu, "--gpu-memory-utilization") == "0.8"
    assert gpu.environment[PLANNED_BYTES] == "20000000000"
    assert gpu.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in gpu.environment
    assert "--gpu-memory-utilization" not in cpu.argv
    assert PLANNED_BYTES not in cpu.environment
    assert cpu.environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert "--distributed-executor-backend" not in gpu.argv
    assert option(cpu, "--distributed-executor-backend") == "uni"
    assert cpu.environment["OMP_NUM_THREADS"] == "2"
    assert command(CPU, llm_cpu_threads=1).environment["OMP_NUM_THREADS"] == "1"


def test_the_gpu_index_counts_within_the_visible_cards() -> None:
    """A container that sees cards 4 and 6 has 6 as its second."""
    made = vllm_command(LlmSettings(gpu_device=1), FOLDER, ModelConfig(2048), GPU, {"CUDA_VISIBLE_DEVICES": "4,6"})
    assert made.environment["CUDA_VISIBLE_DEVICES"] == "6"


SAMPLER = "VLLM_USE_FLASHINFER_SAMPLER"


@pytest.mark.parametrize(
    ("kernels", "inherited", "passed"),
    [
        (False, {}, "0"),
        (False, {SAMPLER: ""}, "0"),
        (False, {SAMPLER: "1"}, "1"),
        (True, {}, None),
        (True, {SAMPLER: "0"}, "0"),
    ],
)
def test_flashinfer_samples_only_with_compiled_kernels(
    kernels: bool, inherited: dict[str, str], passed: str | None
) -> None:
    """Without them it would look for nvcc while vLLM profiles. Whoever has one sets the variable."""
    machine = HostInfo(gpu=True, bfloat16=True, cpus=16, flashinfer_kernels=kernels)
    made = vllm_command(LlmSettings(), FOLDER, LONG_WINDOW, machine, inherited, SHARE)
    assert made.environment.get(SAMPLER) == passed


def test_a_cpu_has_no_flashinfer() -> None:
    """Nothing is said about its sampler there."""
    assert SAMPLER not in command(CPU).environment


def test_graphs_are_compiled_on_a_gpu_only_unless_told() -> None:
    """The CPU starts sooner without."""
    assert "--enforce-eager" in command(CPU).argv
    assert "--enforce-eager" not in command(GPU).argv
    assert "--enforce-eager" not in command(CPU, llm_eager=False).argv
    assert "--enforce-eager" in command(GPU, llm_eager=True).argv


def test_the_environment_says_nothing_that_vllm_would_misread() -> None:
    """Our VLLM_PORT is not vLLM's; a second key would lock our callers out; nothing calls home or logs prompts."""
    made = command(log_level="debug")
    assert not {"VLLM_PORT", "VLLM_ENABLED", "VLLM_API_KEY"} & set(made.environment)
    assert made.environment["PATH"] == "/bin"
    assert made.environment["VLLM_PLUGINS"] == "onecard"
    assert made.environment["VLLM_NO_USAGE_STATS"] == "1"
    assert made.environment["HF_HUB_OFFLINE"] == "1"
    assert made.environment["VLLM_LOGGING_LEVEL"] == "INFO"
    assert "--enable-log-requests" not in made.argv
    assert Path(made.environment["VLLM_LOGGING_CONFIG_PATH"]).is_file()


def test_the_default_model_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """7B where a GPU is used, 0.5B elsewhere, and what is set wins."""
    expected = GPU_MODEL if has_nvidia_gpu() else CPU_MODEL
    assert LlmSettings().llm_model == expected
    assert LlmSettings(use_gpu=False).llm_model == CPU_MODEL
    monkeypatch.setenv("LLM_MODEL", "a/b")
    assert LlmSettings().llm_model == "a/b"


def test_neighbours_are_a_list_of_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separated by commas, blanks and closing slashes forgiven."""
    monkeypatch.setenv("LLM_WAIT_FOR", "http://a:1/, http://b:2 ,")
    assert LlmSettings().llm_wait_for == ("http://a:1", "http://b:2")


def test_devices_and_flags_are_read_from_files(tmp_path: Path) -> None:
    """A card's device file, and the processor's own flags."""
    (tmp_path / "dev").mkdir()
    assert not has_nvidia_gpu(tmp_path)
    (tmp_path / "dev" / "nvidiactl").touch()
    assert not has_nvidia_gpu(tmp_path)
    (tmp_path / "dev" / "nvidia0").touch()
    assert has_nvidia_gpu(tmp_path)
    info = tmp_path / "cpuinfo"
    assert not cpu_multiplies_bfloat16(info)
    info.write_text("model name : x\nflags\t\t: fpu avx512_bf16 sse\n")
    assert cpu_multiplies_bfloat16(info)
    info.write_text("flags\t\t: fpu avx2 sse\n")
    assert not cpu_multiplies_bfloat16(info)
