"""What stands in for a part that outlived its supervisor."""

import signal
import subprocess
import sys

import psutil

from onecard_stack.processes import process_launcher

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_sigterm_that_came_early_is_passed_on() -> None:
    """Told before it had found anything, it still tells the survivor, once, and waits for its end."""
    with subprocess.Popen(SLEEP) as survivor:
        process_launcher.stand_in_for(psutil.Process(survivor.pid), [signal.SIGTERM])
        assert survivor.poll() is not None


def test_a_survivor_that_is_gone_holds_nobody_up() -> None:
    """It may end between being found and being looked at; nobody has to take note of its end."""
    with subprocess.Popen(SLEEP) as survivor:
        process = psutil.Process(survivor.pid)
        survivor.kill()
        process_launcher.stand_in_for(process, [])
        survivor.wait(5)
    process_launcher.stand_in_for(process, [signal.SIGTERM])
