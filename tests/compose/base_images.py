"""Images to build on: the pinned ones, else a Debian that is put together here."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.compose.engine import EngineUnavailable, docker, run

ROOT = Path(__file__).parents[2]
LOCAL_BASE = "onecard-test-base"
"""The base that compose.local.yaml names."""
PULL_SECONDS = 300
PACKAGES = "python3,python3-venv,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def can_pull() -> bool:
    """The base that the Dockerfiles name is here, or comes."""
    found = re.search(r"^ARG BASE=(\S+)", (ROOT / "gateway" / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    if _is_here(found[1]):
        return True
    try:
        return subprocess.run(["docker", "pull", found[1]], capture_output=True, timeout=PULL_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def make_local() -> None:
    """Make `LOCAL_BASE`: the smallest Debian, Python, and the certificates that this machine trusts.

    Raises:
        Impossible: that takes debootstrap and root.
    """
    if _is_here(LOCAL_BASE):
        return
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        raise EngineUnavailable("no image can be pulled, and making one needs debootstrap and root")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "root"
        run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(folder)])
        shutil.copy(CERTIFICATES, folder / CERTIFICATES.relative_to("/"))
        shutil.rmtree(folder / "var/cache/apt/archives")
        trust = [f"PIP_CERT={CERTIFICATES}", f"SSL_CERT_FILE={CERTIFICATES}"]
        settings = [argument for line in trust for argument in ("--change", f"ENV {line}")]
        packed = Path(name) / "root.tar"
        run(["tar", "--create", "--file", str(packed), "--directory", str(folder), "."])
        docker("import", *settings, str(packed), LOCAL_BASE)


def _is_here(image: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0
