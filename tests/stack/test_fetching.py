"""Where models come from: the hub, or training."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from onecard.models.folders import STAND_INS, find, folder_name, read_manifest
from onecard_stack.models import checksums, fetching, hub
from onecard_stack.models.hub_retries import HubUnreachable
from onecard_stack.stack import Stack
from tests.shared.test_model_files import safetensors
from tests.stack.conftest import Workspace

NAME = "someone/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """A small model hub: one repository, in the hub's own protocol, byte ranges included."""

    files: dict[str, bytes]
    large: dict[str, dict[str, dict[str, str]]]
    """What the hub says of its large files."""
    fetched: list[str]

    def do_HEAD(self) -> None:
        """The same without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """What a repository holds, or one file of it."""
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{NAME}/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": name}
                for name, content in self.files.items()
            ]
            self.answer(200, json.dumps(entries).encode())
        elif path.startswith(f"/api/models/{NAME}"):
            siblings = [
                {"rfilename": name, "size": len(content), **self.large.get(name, {})}
                for name, content in self.files.items()
            ]
            self.answer(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/{NAME}/resolve/{COMMIT}/"):
            name = path.split(COMMIT + "/")[1]
            self.fetched.append(f"{self.command} {name}")
            self.answer(200, self.files[name], {"x-repo-commit": COMMIT, "etag": f'"{name.replace("/", "-")}"'})
        else:
            self.answer(404, b"{}", {"x-error-code": "RepoNotFound"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send it, from the byte that was asked for."""
        start = int((self.headers.get("range") or "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if start else status)
        for name, value in {**(headers or {}), "content-length": str(len(body) - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[start:])

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def small_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a hub that has one model, with more files than anybody needs."""
    Hub.fetched = []
    Hub.large = {"model.safetensors": {"lfs": {"sha256": hashlib.sha256(safetensors()).hexdigest()}}}
    Hub.files = {
        "config.json": b'{"model_type": "bert", "max_position_embeddings": 64}',
        "tokenizer.json": b"{}",
        "model.safetensors": safetensors(),
        "pytorch_model.bin": b"pickle",
        "onnx/model.onnx": b"onnx",
        "README.md": b"hello",
        "1_Pooling/config.json": b"{}",
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_only_what_is_needed() -> None:
    """Safetensors, configuration and tokenizer; pickled weights only where there is nothing better."""
    common = {"config.json": 1, "vocab.txt": 1, "1_Pooling/config.json": 1}
    extra = {"README.md": 1, "onnx/model.onnx": 9, "onnx/config.json": 1, "tf_model.h5": 9, ".gitattributes": 1}
    assert set(hub.required_files({**common, **extra, "model.safetensors": 5, "pytorch_model.bin": 5})) == {
        *common,
        "model.safetensors",
    }
    assert set(hub.required_files({**common, **extra, "pytorch_model.bin": 5})) == {*common, "pytorch_model.bin"}


def test_a_model_is_fetched_whole_and_once(small_hub: str, place: Workspace, tmp_path: Path) -> None:
    """From the hub into its folder, the manifest last; a second run fetches nothing."""
    models = tmp_path / "models"
    env = {
        "HF_ENDPOINT": small_hub,
        "HF_HUB_OFFLINE": "0",
        "MODEL_CACHE_PATH": str(models),
        "LLM_MODEL": NAME,
        "SENTIMENT_MODEL": NAME,
        "EMBEDDING_MODEL": NAME,
    }
    result = place.run("models", **env)
    assert result.returncode == 0, result.stderr
    folder = models / folder_name(NAME)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest.name, manifest.revision, manifest.stand_in) == (NAME, COMMIT, False)
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert present == {"config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json", "onecard.json"}
    before = len(Hub.fetched)
    assert place.run("models", **env).returncode == 0
    assert len(Hub.fetched) == before


def hub_env(endpoint: str, models: Path) -> dict[str, str]:
    """All three models are the hub's one."""
    names = {"LLM_MODEL": NAME, "SENTIMENT_MODEL": NAME, "EMBEDDING_MODEL": NAME}
    return {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "MODEL_CACHE_PATH": str(models), **names}


def flip(path: Path) -> None:
    """One bit of the last byte, as a disk or a cable does."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_flipped_byte_is_found_and_mended(small_hub: str, place: Workspace, tmp_path: Path) -> None:
    """What was fetched has its digests in the manifest; a file with another one is fetched anew."""
    env = hub_env(small_hub, tmp_path / "models")
    assert place.run("models", **env).returncode == 0
    folder = tmp_path / "models" / folder_name(NAME)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert set(manifest.files) == {"config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"}
    flip(folder / "model.safetensors")
    place.assert_refused(place.run("up", **env), str(folder), "model.safetensors", "damaged", "make models")
    Hub.fetched.clear()
    mended = place.run("models", **env)
    assert f"{NAME}: model.safetensors is damaged, and comes anew" in mended.stdout
    assert (folder / "model.safetensors").read_bytes() == safetensors()
    assert "GET model.safetensors" in Hub.fetched
    assert checksums.corrupted_files(folder, tmp_path / "models") == []


def test_a_file_that_comes_damaged_is_no_model(small_hub: str, place: Workspace, tmp_path: Path) -> None:
    """The hub says what the SHA-256 of its large files is."""
    Hub.large["model.safetensors"]["lfs"]["sha256"] = "0" * 64
    result = place.run("models", **hub_env(small_hub, tmp_path / "models"))
    assert result.returncode == 1
    assert re.search(r"^onecard: model\.safetensors .* came damaged .* 'make models' again\.$", result.stderr, re.M)
    assert read_manifest(tmp_path / "models" / folder_name(NAME)) is None


def test_a_name_that_the_hub_does_not_know_is_said(small_hub: str, place: Workspace, tmp_path: Path) -> None:
    """A wrong name is an error, not a reason for a stand-in."""
    env = {"HF_ENDPOINT": small_hub, "HF_HUB_OFFLINE": "0", "MODEL_CACHE_PATH": str(tmp_path / "m")}
    place.assert_refused(place.run("models", **env, SENTIMENT_MODEL="someone/typo"), "someone/typo", "HF_TOKEN")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://192.0.2.1", "http://no-such-host.invalid"])
def test_an_unreachable_hub_is_found_out(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, silent or unknown: it is given up after `CONNECT_TIMEOUT_SECONDS`."""
    monkeypatch.setattr(hub, "CONNECT_TIMEOUT_SECONDS", 0.5)
    with pytest.raises(HubUnreachable):
        hub.find_repository(NAME, endpoint, patient=False)


@pytest.fixture
def socks() -> Iterator[str]:
    """Address of a SOCKS 5 proxy; `Relay.asked` counts what it was asked to connect to."""
    Relay.asked = 0
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"socks5://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Relay(socketserver.BaseRequestHandler):
    """One connection through the proxy."""

    asked = 0

    def handle(self) -> None:
        """No authentication; CONNECT to an IPv4 address or a name; then bytes in both directions."""
        caller: socket.socket = self.request
        caller.recv(64)
        caller.sendall(b"\5\0")
        head = caller.recv(4)
        host = socket.inet_ntoa(caller.recv(4)) if head[3] == 1 else caller.recv(caller.recv(1)[0]).decode()
        port = int.from_bytes(caller.recv(2))
        type(self).asked += 1
        with socket.create_connection((host, port)) as other:
            caller.sendall(b"\5\0\0\1\0\0\0\0\0\0")
            back = threading.Thread(target=self.pump, args=(other, caller), daemon=True)
            back.start()
            self.pump(caller, other)
            back.join(5)

    @staticmethod
    def pump(source: socket.socket, sink: socket.socket) -> None:
        """Until one of them has ended."""
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def test_a_model_comes_through_a_socks_proxy(small_hub: str, socks: str, place: Workspace, tmp_path: Path) -> None:
    """It is asked and fetched through it, and no stand-in takes its place."""
    env = {"HF_ENDPOINT": small_hub, "HF_HUB_OFFLINE": "0", "MODEL_CACHE_PATH": str(tmp_path / "models")}
    names = {"LLM_MODEL": NAME, "SENTIMENT_MODEL": NAME, "EMBEDDING_MODEL": NAME}
    result = place.run("models", **env, **names, ALL_PROXY=socks)
    assert result.returncode == 0, result.stderr
    assert read_manifest(tmp_path / "models" / folder_name(NAME)) is not None
    assert Relay.asked > 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"ALL_PROXY": "socks4://127.0.0.1:1"}, ("ALL_PROXY", "socks5://")),
        ({"https_proxy": "http://127.0.0.1:port"}, ("https_proxy", "http://host:port")),
        ({"SSL_CERT_FILE": "/etc/hostname"}, ("SSL_CERT_FILE", "no certificates")),
        ({"SSL_CERT_FILE": "/no/such/file"}, ("SSL_CERT_FILE", "no certificates")),
        ({"HF_ENDPOINT": "huggingface.co"}, ("HF_ENDPOINT=huggingface.co", "https://")),
    ],
    ids=["scheme", "port", "no certificates", "no file", "endpoint"],
)
def test_what_is_set_wrongly_here_is_no_hub_that_is_away(
    place: Workspace, tmp_path: Path, wrong: dict[str, str], words: tuple[str, ...]
) -> None:
    """One line says which variable and what to do; no stand-in is trained."""
    env = {"HF_ENDPOINT": "https://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "MODEL_CACHE_PATH": str(tmp_path / "m")}
    place.assert_refused(place.run("models", **{**env, **wrong}), *words)
    assert not list((tmp_path / "m").glob("*"))


def test_a_certificate_that_nobody_here_trusts(place: Workspace, tmp_path: Path) -> None:
    """As behind a proxy that opens TLS: the line names SSL_CERT_FILE; with the certificate there, the hub is asked."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *names], check=True, capture_output=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"https://127.0.0.1:{server.server_port}"
    env = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "MODEL_CACHE_PATH": str(tmp_path / "m")}
    place.assert_refused(place.run("models", **env), "not trusted", "SSL_CERT_FILE")
    place.assert_refused(place.run("models", **env, SSL_CERT_FILE=str(certificate)), "has no model")
    server.shutdown()
    server.server_close()


def test_a_proxy_that_wants_a_password(place: Workspace, tmp_path: Path) -> None:
    """It answers, so it is no hub that is away."""

    class Refusing(BaseHTTPRequestHandler):
        """407 to everything."""

        def do_CONNECT(self) -> None:
            """For https."""
            self.send_error(407)

        do_GET = do_CONNECT

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {"HF_HUB_OFFLINE": "0", "MODEL_CACHE_PATH": str(tmp_path / "m")}
    proxy = f"http://127.0.0.1:{server.server_port}"
    for endpoint in ("https://192.0.2.1", "http://192.0.2.1"):
        result = place.run("models", **env, HF_ENDPOINT=endpoint, HTTPS_PROXY=proxy, HTTP_PROXY=proxy)
        place.assert_refused(result, "proxy wants a password")
    server.shutdown()
    server.server_close()


def test_a_broken_model_gives_way_to_its_stand_in(
    place: Workspace,
    own_stack: Callable[[Workspace], Stack],
    shallow_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the hub is away, 'make models' is a way out, and not the same complaint again."""
    stand_in, broken = tmp_path / folder_name(STAND_INS["sentiment"]), tmp_path / folder_name(NAME)
    for copy in (stand_in, broken):
        shutil.copytree(shallow_cache / folder_name(STAND_INS["sentiment"]), copy)
    (broken / "config.json").unlink()
    settings = own_stack(place).settings.model_copy(update={"model_cache_path": tmp_path, "sentiment_model": NAME})
    assert find("sentiment", NAME, tmp_path).path == broken
    monkeypatch.setattr(fetching, "_train", lambda *_: None)
    fetching.ensure_models(settings, ["sentiment"], print)
    assert find("sentiment", NAME, tmp_path).path == stand_in


def test_without_a_trainer_a_stand_in_that_was_brought_is_taken(
    place: Workspace,
    own_stack: Callable[[Workspace], Stack],
    shallow_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in the images, which have none: whichever recipe it is of. A missing one is refused, and nothing is said to be
    in training."""
    shutil.copytree(shallow_cache / folder_name(STAND_INS["sentiment"]), tmp_path / folder_name(STAND_INS["sentiment"]))
    settings = own_stack(place).settings.model_copy(update={"model_cache_path": tmp_path, "hf_hub_offline": True})
    monkeypatch.setattr(fetching, "_have_trainer", lambda: False)
    monkeypatch.setattr(fetching, "_recipe_revision", lambda kind: pytest.fail("there is no trainer to ask"))
    monkeypatch.setattr(fetching, "run_trainer", lambda command: pytest.fail("there is no trainer"))
    said: list[str] = []
    fetching.ensure_models(settings, ["sentiment"], said.append)
    assert f"{STAND_INS['sentiment']}: here (stand-in for {settings.models['sentiment']})" in said
    assert fetching.outdated_stand_ins(settings) == []
    with pytest.raises(fetching.FetchError, match="'make models' in a checkout"):
        fetching.ensure_models(settings, ["embedding"], said.append)
    assert not [line for line in said if "training" in line]


def test_a_stopped_training_stops_the_trainer(tmp_path: Path) -> None:
    """Ctrl-C for us alone reaches the trainer as SIGTERM, and it may remove its draft before we end."""
    trainer = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda number, _: sys.exit(1))\n"
        "try: pathlib.Path('draft').touch(); time.sleep(60)\n"
        "finally: time.sleep(0.3); pathlib.Path('draft').unlink()"
    )
    ours = "import sys; from onecard_stack.models.fetching import run_trainer; "
    ours += f"run_trainer([sys.executable, '-c', {trainer!r}])"
    process = subprocess.Popen([sys.executable, "-c", ours], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (tmp_path / "draft").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert list(tmp_path.iterdir()) == []


def test_without_a_hub_current_stand_ins_are_kept(place: Workspace, shallow_cache: Path) -> None:
    """One line says that the hub is away; what has been trained is not trained again."""
    before = {
        kind: os.stat(shallow_cache / folder_name(name) / "onecard.json").st_mtime for kind, name in STAND_INS.items()
    }
    result = place.run("models", HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("hub cannot be reached") == 1
    after = {
        kind: os.stat(shallow_cache / folder_name(name) / "onecard.json").st_mtime for kind, name in STAND_INS.items()
    }
    assert after == before


def test_pickled_weights_become_safetensors(tmp_path: Path) -> None:
    """The same tensors under the same names, and the pickle is gone."""
    import torch
    from safetensors.torch import load_file

    from onecard_stack.models.convert import convert

    shared = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": shared, "b": shared.T, "n": torch.tensor(3)}, tmp_path / "pytorch_model.bin")
    convert(tmp_path)
    loaded = load_file(tmp_path / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {
        "a": shared.tolist(),
        "b": shared.T.tolist(),
        "n": 3,
    }
    assert not list(tmp_path.glob("*.bin"))
