"""Installs other servers in virtual environments of their own, because they need other versions than ours."""

import subprocess
import sys
from dataclasses import dataclass
from hashlib import blake2b

from bench.paths import LOGS, ROOT, WORK
from tools.install import TORCH_CPU_INDEX


class InstallFailed(Exception):
    """pip failed. The message names its log."""


@dataclass
class PeerEnvironment:
    """Another server: the file of its pins, its virtual environment, and the log of pip."""

    name: str
    """Name of its requirements file and its folder."""
    title: str
    distribution: str
    """The distribution whose version is the peer's."""
    cost: str
    """Time and space that an installation takes, for the screen."""

    def __post_init__(self) -> None:
        self.requirements = ROOT / "bench" / f"requirements-{self.name}.txt"
        self.folder = WORK / self.name
        self.log = LOGS / f"install-{self.name}.log"

    def program(self, name: str) -> str:
        """Path of a command in its environment."""
        return str(self.folder / "bin" / name)

    def pins(self) -> dict[str, str]:
        """Read the pinned version of each distribution."""
        lines = self.requirements.read_text().splitlines()
        return dict(line.split("==") for line in lines if line and not line.startswith("#"))

    def version(self) -> str:
        """The peer's own version."""
        return self.pins()[self.distribution]


INFINITY = PeerEnvironment("infinity", "Infinity", "infinity-emb", "2 minutes and 1.5 GB")
LITELLM = PeerEnvironment("litellm", "LiteLLM", "litellm", "a minute and 800 MB")


def install(peer: PeerEnvironment) -> None:
    """Create the peer's environment, unless it exists with the same pins."""
    done = peer.folder / "installed"
    recipe = blake2b(peer.requirements.read_bytes(), digest_size=8).hexdigest()
    if done.is_file() and done.read_text() == recipe:
        return
    where = peer.folder.relative_to(ROOT)
    print(f"Installing {peer.title} {peer.version()} into {where} (about {peer.cost}, once)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(peer.folder)], check=True)
    pins = peer.pins()
    if "torch" in pins:
        torch = f"torch=={pins['torch']}+cpu"
        if not _pip(peer, [torch]) and not _pip(peer, [torch, "--index-url", TORCH_CPU_INDEX]):
            raise InstallFailed(f"torch's CPU build cannot be installed; see {peer.log.relative_to(ROOT)}")
    others = peer.folder / "packages.txt"
    others.write_text("".join(f"{name}=={pin}\n" for name, pin in pins.items() if name != "torch"))
    if not _pip(peer, ["-r", str(others)]):
        raise InstallFailed(f"{peer.title} cannot be installed; see {peer.log.relative_to(ROOT)}")
    done.write_text(recipe)


def _pip(peer: PeerEnvironment, arguments: list[str]) -> bool:
    command = [peer.program("python"), "-m", "pip", "install", "--no-deps", "--progress-bar", "off", *arguments]
    peer.log.parent.mkdir(parents=True, exist_ok=True)
    with peer.log.open("a") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode == 0
