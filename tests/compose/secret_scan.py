"""Looks through images and containers for secrets, and for the files that usually hold one."""

import json
import re
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from tests.compose.engine import docker

SECRET_FILE = re.compile(
    r"(^|/)(\.env|\.netrc|\.pypirc|\.git-credentials|pip\.conf|uv\.toml|id_[a-z0-9]+|ssh_host_\w+_key|authorized_keys)$"
)
"""Files that hold keys, or the address of somebody's package index."""
PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/]{32}")
ELF_MAGIC = b"\x7fELF"
"""How programs and libraries begin."""


def secrets_in_settings(image: str, secrets: Sequence[str]) -> list[str]:
    """What an image's variables and the steps of its build give away."""
    told = docker("history", "--no-trunc", image) + docker("image", "inspect", image)
    settings = json.loads(docker("image", "inspect", "--format", "{{json .Config.Env}}", image))
    indexes = [line for line in settings if "INDEX" in line.partition("=")[0]]
    return [f"{image}: a secret" for secret in secrets if secret in told] + [f"{image}: {line}" for line in indexes]


def secrets_in_layers(images: Sequence[str], secrets: Sequence[str]) -> list[str]:
    """What the layers of images give away, also those whose files a later layer hides; each layer is read once.

    Raises:
        AssertionError: a layer could not be read.
    """
    found: list[str] = []
    read: set[str] = set()
    layers: set[str] = set()
    with _output("docker", "save", *images) as saved, tarfile.open(fileobj=saved, mode="r|") as parts:
        for part in parts:
            if part.issym() or part.islnk():  # The same layer under another image.
                read.add(part.name)
            elif part.name == "manifest.json":
                layers = {name for image in json.loads(_content(parts, part)) for name in image["Layers"]}
            elif part.isfile():
                try:
                    with tarfile.open(fileobj=parts.extractfile(part), mode="r|*") as layer:
                        found += _secrets_in_files(layer, secrets)
                    read.add(part.name)
                except tarfile.ReadError:
                    continue  # Its settings.
    assert layers, "docker save names no layers"
    assert layers <= read
    return found


def secrets_in_container(name: str, secrets: Sequence[str]) -> list[str]:
    """What a container's file system gives away, volumes and memory left out."""
    with _output("docker", "export", name) as exported, tarfile.open(fileobj=exported, mode="r|") as files:
        return _secrets_in_files(files, secrets)


def _secrets_in_files(files: tarfile.TarFile, secrets: Sequence[str]) -> list[str]:
    needles = [secret.encode() for secret in secrets]
    found = []
    for file in files:
        if not file.isfile():
            continue
        content = _content(files, file)
        # GnuTLS has keys in its code to test itself with.
        has_key = not content.startswith(ELF_MAGIC) and PRIVATE_KEY.search(content)
        if has_key or SECRET_FILE.search(file.name) or any(needle in content for needle in needles):
            found.append(file.name)
    return found


def _content(files: tarfile.TarFile, file: tarfile.TarInfo) -> bytes:
    taken = files.extractfile(file)
    assert taken is not None
    return taken.read()


@contextmanager
def _output(*command: str) -> Iterator[IO[bytes]]:
    """What a command prints, while it does."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        yield running.stdout
        running.stdout.read()
    assert running.returncode == 0
