"""The system's nginx, as a fast upstream and as a relay to compare with. It is left out if it is not installed."""

import shutil
import subprocess
from pathlib import Path

from bench.gateway.canned import RESPONSE_BODY
from bench.paths import WORK

_CONFIG = """daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{inside}
}}
"""
_CANNED = """    server {{
        listen 127.0.0.1:{port} backlog=4096;
        default_type application/json;
        location / {{ return 200 '{answer}'; }}
    }}"""
_RELAY = """    upstream canned {{
        server 127.0.0.1:{upstream};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://canned;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}"""


def program() -> str | None:
    """Find nginx's binary, also in Debian's folder that is not in a user's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def version() -> str:
    """Read nginx's version, such as 1.22.1."""
    made = subprocess.run([program() or "nginx", "-v"], capture_output=True, text=True)
    return made.stderr.strip().rpartition("/")[2]


def canned(port: int) -> list[str]:
    """Make the command of an nginx that answers every request with the fixed response."""
    return _command("nginx-canned", _CANNED.format(port=port, answer=RESPONSE_BODY))


def relay(port: int, upstream: int) -> list[str]:
    """Make the command of an nginx that relays to the port `upstream`."""
    return _command("nginx-relay", _RELAY.format(port=port, upstream=upstream))


def _command(name: str, inside: str) -> list[str]:
    folder: Path = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, inside=inside))
    return [program() or "nginx", "-p", str(folder), "-c", str(config), "-e", "stderr"]
