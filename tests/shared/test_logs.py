"""Logs that nobody reads, or that are read late; real processes and pipes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = 50_000
"""More than wait: some megabytes."""

WRITES = f"""
import logging, os, sys
from onecard import logs
from onecard.metrics import new_registry
logs.configure("test")
log = logs.logger()

def write(many=1000):
    for number in range(many):
        log.warning("a line", number=number)

def done():
    dropped = new_registry().get_sample_value("onecard_log_lines_dropped_total")
    print("done", int(dropped), file=sys.stderr, flush=True)

LINES = {LINES}
"""


class Writer:
    """A process that runs `script`; nobody reads its standard output unless a test does."""

    def __init__(self, script: str) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", WRITES + script]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.stdin, self.stdout, self.stderr):
            pipe.close()


def test_a_log_whose_reader_has_ended_costs_its_lines_and_nothing_else() -> None:
    """A part goes on when the supervisor that read its output was killed."""
    with Writer("sys.stdin.read(); write(); logs.current_writer().drain(); done(); os._exit(0)") as writer:
        writer.stdout.close()
        writer.stdin.close()
        assert writer.stderr.readline() == "done 1000\n"
        assert writer.process.wait(30) == 0


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit(3)",
        "raise ValueError",
        "import signal; signal.raise_signal(2)",
        "import signal; signal.raise_signal(15)",
    ],
)
def test_what_is_read_late_is_whole(end: str) -> None:
    """A process that ends, well or badly, waits for a reader that comes late."""
    with Writer(f"write(5000); done()\n{end}") as writer:
        assert writer.stderr.readline() == "done 0\n"
        numbers = [json.loads(line)["number"] for line in writer.stdout]
        assert numbers == list(range(5000))
        assert (writer.process.wait(30) == 0) == (end == "")


def test_a_pipe_that_nobody_reads_costs_lines_which_are_counted() -> None:
    """Writing goes on; once somebody reads again, the log says how many lines are missing, and holds all others."""
    with Writer("write(LINES); done(); sys.stdin.read(); logs.current_writer().drain(); write(1)") as writer:
        dropped = int(writer.stderr.readline().split()[1])
        assert 0 < dropped < LINES
        writer.stdin.close()
        lines = [json.loads(line) for line in writer.stdout]
        told = [line["event"] for line in lines if "number" not in line]
        lost = [int(event.removesuffix(" log lines were lost, since nobody took them")) for event in told]
        assert sum(lost) >= dropped
        assert len(lines) - len(told) + sum(lost) == LINES + 1
        assert writer.process.wait(30) == 0


def test_a_process_whose_log_nobody_reads_ends() -> None:
    """It gives up on what is left."""
    with Writer("write(LINES); done()") as writer:
        assert writer.process.wait(30) == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_a_process_have_their_own_queue(method: str, tmp_path: Path) -> None:
    """Nothing of one is lost or said twice by another, however they are started."""
    (tmp_path / "child.py").write_text(WRITES + "def child(): write(3000)")
    script = f"""
sys.path.insert(0, {str(tmp_path)!r})
import multiprocessing
from child import child
write(2000)
process = multiprocessing.get_context({method!r}).Process(target=child)
process.start()
process.join()
write(500)
"""
    with Writer(script) as writer:
        lines = [json.loads(line)["number"] for line in writer.stdout]
        assert writer.process.wait(30) == 0
    assert sorted(lines) == sorted([*range(2000), *range(3000), *range(500)])


def test_vllms_processes_are_not_held_up_either() -> None:
    """Through the configuration that vLLM reads its loggers from."""
    script = """
import json, logging.config
from pathlib import Path
logging.config.dictConfig(json.loads(Path("llm-service/llm_service/on_vllm/logging.json").read_text()))
for number in range(LINES):
    logging.getLogger("vllm.engine").info("step %d of many, which vLLM writes about at length", number)
done()
"""
    with Writer(script) as writer:
        assert int(writer.stderr.readline().split()[1]) > 0
        assert set(json.loads(writer.stdout.readline())) == {"event", "level", "service", "timestamp"}
