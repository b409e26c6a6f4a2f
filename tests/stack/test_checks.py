"""What is refused before anything starts."""

import socket
from pathlib import Path

import pytest

from onecard_stack import checks
from onecard_stack.processes.process_table import Process
from tests.support import free_port


def test_a_port_that_is_taken_is_named_with_its_variable() -> None:
    """The message says which port, which part, who has it and what to set."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(checks.CheckError, match=rf"Port {port} for gateway .*GATEWAY_PORT"):
            checks.ports([Process("gateway", (), port)])


def test_free_ports_pass_and_one_port_for_two_does_not() -> None:
    """Two parts that want the same port are found out although nobody listens there yet."""
    port = free_port()
    checks.ports([Process("llm", (), port)])
    with pytest.raises(checks.CheckError, match="GATEWAY_PORT and VLLM_PORT"):
        checks.ports([Process("llm", (), port), Process("gateway", (), port)])


def test_a_full_disk_is_refused(tmp_path: Path) -> None:
    """Too little space is said with both figures."""
    with pytest.raises(checks.CheckError, match=r"\d+ MB free, 1000000000000 MB needed for logs"):
        checks.disk(tmp_path, needed_mb=1e12)
    checks.disk(tmp_path, needed_mb=0)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A file where a folder should be, for one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(checks.CheckError, match="Cannot write"):
        checks.disk(tmp_path / "file" / "below")
