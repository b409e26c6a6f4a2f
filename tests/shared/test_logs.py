"""Logs that cannot be written."""

import subprocess
import sys

LOGS = """
import os, sys
from onecard import logs
logs.configure("test")
sys.stdin.read()
for number in range(1000):
    logs.logger().warning("a line that nobody reads", number=number)
print("done", file=sys.stderr, flush=True)
os._exit(0)
"""


def test_a_log_that_nobody_reads_costs_its_lines_and_nothing_else() -> None:
    """A part goes on when the supervisor that read its output was killed."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", LOGS], stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    with process.stderr:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b"done\n"
    assert process.wait(30) == 0
