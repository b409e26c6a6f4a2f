"""Fetches models from the hub. Files that an earlier download has brought whole are kept."""

import fcntl
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx2 as httpx

from onecard.models import model_files
from onecard.models.folders import MANIFEST, Manifest, ModelKind, folder_name
from onecard_stack.doctor import examine
from onecard_stack.models import checksums
from onecard_stack.models.hub_retries import HubUnreachable, causes, retry_after, retrying
from onecard_stack.supervision import stopping

CONNECT_TIMEOUT_SECONDS = 5.0
"""How long the hub may take to answer."""
DOWNLOADER = (sys.executable, "-m", "onecard_stack.models.download")
DOWNLOADER_STOP_SECONDS = 5.0
"""How long the downloader may take to end after SIGTERM."""
_MODEL_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
_EXCLUDED_PATTERNS = ("onnx/*", "openvino/*", "original/*", "*/.*", ".*", "*.md", "*onnx*", "*openvino*")
_PICKLE_PATTERNS = ("pytorch_model*.bin", "*/pytorch_model*.bin")


class HubError(Exception):
    """The model cannot be fetched although a hub is there. The message says what to do."""


@dataclass(frozen=True)
class Repository:
    """A model on the hub."""

    name: str
    revision: str
    """Commit hash."""
    files: dict[str, int]
    """The files to fetch, with their sizes in bytes."""
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 by file, in hexadecimal. The hub has them for large files only."""

    @property
    def size_mb(self) -> float:
        """Size of all files together, in MB."""
        return sum(self.files.values()) / 1e6


def find_repository(model: str, endpoint: str, *, patient: bool = True) -> Repository:
    """Ask the hub for a model's files; again, up to `MAX_ATTEMPTS` times, while it is overloaded or fails.

    Args:
        model: name on the hub, `organisation/model`.
        endpoint: the hub's URL.
        patient: ask again also where nobody answers, as on a machine without a network.

    Returns:
        The revision and the files to fetch.

    Raises:
        HubUnreachable: at the last attempt there was no answer, or it was not the hub's.
        HubError: the hub has no such model or refuses access, or proxy or certificate settings of this machine are
            wrong.
    """
    if _parse_url(endpoint) is None:
        raise HubError(f"HF_ENDPOINT={endpoint} is no address. Write it like https://huggingface.co.")
    again = retrying(lambda error: isinstance(error, HubUnreachable) and (patient or error.answered))
    return again(_find_repository, model, endpoint)


def _find_repository(model: str, endpoint: str) -> Repository:
    """One attempt, within `CONNECT_TIMEOUT_SECONDS`."""
    from huggingface_hub import get_token  # takes a while to import, and is seldom needed

    outcome: list[httpx.Response | Exception] = []
    token = get_token()  # HF_TOKEN, or the token that 'hf auth login' has stored

    def request() -> None:
        try:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            url = f"{endpoint.rstrip('/')}/api/models/{model}?blobs=true"
            outcome.append(httpx.get(url, headers=headers, timeout=CONNECT_TIMEOUT_SECONDS, follow_redirects=True))
        except Exception as error:
            outcome.append(error)

    # In a thread, because a DNS lookup may take far longer than httpx's timeout.
    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT_SECONDS)
    if not outcome:
        raise HubUnreachable(f"no answer within {CONNECT_TIMEOUT_SECONDS:g} s")
    if isinstance(outcome[0], Exception):
        if reason := misconfiguration(outcome[0], os.environ):
            raise HubError(f"{reason} Or set HF_HUB_OFFLINE=true to do without the hub, with stand-ins if allowed.")
        raise HubUnreachable(type(outcome[0]).__name__)
    return _parse_repository(model, outcome[0])


def _parse_url(text: str) -> httpx.URL | None:
    """Parse an HTTP URL. Returns None if it is invalid."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return None
    return url if url.scheme in ("http", "https") and url.host else None


def misconfiguration(error: Exception, environment: Mapping[str, str]) -> str | None:
    """Find the setting of this machine that caused an error.

    Args:
        error: what the request to the hub raised.
        environment: variables by name.

    Returns:
        A sentence that says what to change; None if the hub is unreachable for another reason.
    """
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(error)):
        return (
            "The model hub's certificate is not trusted here. If a proxy of your organisation stands between, name its "
            "certificates in SSL_CERT_FILE."
        )
    proxies = _set_variables(environment, "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
    if isinstance(error, httpx.ProxyError) and "407" in str(error):
        return f"The proxy wants a password: write http://user:password@host:port into {proxies}."
    if isinstance(error, httpx.TransportError):
        return None
    if isinstance(error, OSError):  # before anything was sent: the certificates could not be loaded
        return f"{_set_variables(environment, 'SSL_CERT_FILE', 'SSL_CERT_DIR')} holds no certificates that can be read."
    return f"{proxies} cannot be used: a proxy is written http://host:port or socks5://host:port."


def _set_variables(environment: Mapping[str, str], *names: str) -> str:
    """Name those variables that are set, in upper or lower case. Values are left out: they may hold a password."""
    return " or ".join(name for name in environment if name.upper() in names) or names[0]


def _parse_repository(model: str, answer: httpx.Response) -> Repository:
    if answer.status_code == httpx.codes.PROXY_AUTHENTICATION_REQUIRED:
        raise HubError("The proxy wants a password: write http://user:password@host:port into its variable.")
    if answer.status_code in (401, 403, 404) and "x-error-code" in answer.headers:
        raise HubError(f"The hub has no model '{model}', or wants a key for it: check the name, or set HF_TOKEN.")
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.status_code >= 500:
        raise HubUnreachable(f"HTTP {answer.status_code}", answered=True, retry_after=retry_after(answer))
    try:
        answer.raise_for_status()
        info: dict[str, Any] = answer.json()
        sizes = {file["rfilename"]: int(file.get("size") or 0) for file in info["siblings"]}
        large = {file["rfilename"]: file["lfs"]["sha256"] for file in info["siblings"] if file.get("lfs")}
        required = required_files(sizes)
        return Repository(model, info["sha"], required, {name: large[name] for name in required if name in large})
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
        raise HubUnreachable(f"HTTP {answer.status_code} that is not the hub's") from None


def required_files(files: dict[str, int]) -> dict[str, int]:
    """Select the files that a model needs: pickled weights only if there are no safetensors.

    Args:
        files: size in bytes by path, of all files of the repository.

    Returns:
        Size in bytes by path, of the files to fetch.
    """
    required = {
        name: size
        for name, size in files.items()
        if _matches_any(name, _MODEL_PATTERNS) and not _matches_any(name, _EXCLUDED_PATTERNS)
    }
    if not any(name.endswith(".safetensors") for name in required):
        required |= {
            name: size
            for name, size in files.items()
            if _matches_any(name, _PICKLE_PATTERNS) and not _matches_any(name, _EXCLUDED_PATTERNS)
        }
    return required


def _matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def fetch(kind: ModelKind, repository: Repository, cache: Path) -> Path:
    """Fetch a model. Files that are there whole are kept, and the manifest is written last.

    Args:
        kind: kind of the model, for its manifest.
        repository: the files to fetch.
        cache: the folder of all models.

    Returns:
        The model's folder, `<cache>/<name>`.

    Raises:
        HubError: the download failed, a file is damaged, or the files are no usable model.
        Refused: there is not enough free disk space.
    """
    folder = cache / folder_name(repository.name)
    with _locked(folder, repository.name):
        _remove_partial_files(folder)
        missing = [size for name, size in repository.files.items() if not _is_whole(folder / name, size)]
        examine.require_space(cache, sum(missing) / 1e6 * 1.05 + 100, repository.name)
        (folder / MANIFEST).unlink(missing_ok=True)
        try:
            _download(repository, folder)
        finally:
            _remove_partial_files(folder)
        files = _usable_files(repository, folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        write_manifest(folder, Manifest(name=repository.name, kind=kind, revision=repository.revision, files=files))
    return folder


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Keep other processes from fetching into the same folder, whose partial files would be taken for remains.

    Raises:
        HubError: one does already.
    """
    with ExitStack() as stack:
        try:
            (folder / ".cache").mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / ".cache" / "onecard.lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HubError(f"Another process fetches {name} into {folder}. Wait for it, or stop it.") from None
        except OSError:
            pass  # A volume that has no locks. If nothing can be written there, the check of its space says so.
        yield


def _remove_partial_files(folder: Path) -> None:
    """Delete what a download has left that was killed: the library never goes on with a partial file."""
    for path in (folder / ".cache" / "huggingface" / "download").rglob("*.incomplete"):
        path.unlink(missing_ok=True)


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _download(repository: Repository, folder: Path) -> None:
    """Fetch the files in another process, which ends with this one.

    Raises:
        HubError: a file did not come. Those that did are kept.
    """
    asked = {"model": repository.name, "revision": repository.revision, "sizes": repository.files}
    child = subprocess.Popen(  # noqa: S603
        DOWNLOADER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1"},
        start_new_session=True,  # Ctrl-C is for this process, which ends the other one.
    )
    with stopping.ended_afterwards(child, DOWNLOADER_STOP_SECONDS):
        said, _ = child.communicate(json.dumps({**asked, "folder": str(folder), "parent": os.getpid()}))
    if child.returncode:
        reason = (said.splitlines() or [f"exit code {child.returncode}"])[-1]
        raise HubError(f"Fetching {repository.name} broke off ({reason}). Run 'make models' again to go on.")


def _usable_files(repository: Repository, folder: Path) -> dict[str, str]:
    """Compare the files with the hub's digests, and make a model of them that can be loaded.

    Returns:
        SHA-256 by file, in hexadecimal.

    Raises:
        HubError: a file is damaged, or the files are no usable model.
    """
    files = checksums.digests(folder)
    if damaged := [name for name, digest in repository.digests.items() if files.get(name) != digest]:
        for name in damaged:
            (folder / name).unlink(missing_ok=True)
        raise HubError(
            f"{', '.join(damaged)} of {repository.name} came damaged (its SHA-256 is not the hub's). "
            "Run 'make models' again."
        )
    if any(folder.glob("pytorch_model*.bin")):
        _convert(folder)
        files = checksums.digests(folder)
    if damage := model_files.integrity_error(folder):
        raise HubError(
            f"{repository.name} came from the hub, but {damage}. Delete {folder} and run 'make models' again."
        )
    return files


def _convert(folder: Path) -> None:
    """Convert pickled weights to safetensors in another process, so that this one need not import torch."""
    done = subprocess.run([sys.executable, "-m", "onecard_stack.models.convert", str(folder)])  # noqa: S603
    if done.returncode:
        raise HubError(f"The weights in {folder} cannot be converted to safetensors; the reason is above.")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically, which marks the folder as complete.

    Args:
        folder: the model's folder.
        manifest: its content.
    """
    unfinished = folder / f"{MANIFEST}.new"
    unfinished.write_text(json.dumps(manifest.model_dump(), ensure_ascii=False, indent=2) + "\n")
    unfinished.replace(folder / MANIFEST)
