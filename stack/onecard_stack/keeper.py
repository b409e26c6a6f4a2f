"""`python -m onecard_stack.keeper CONFIG`: starts supervisord again if somebody kills it.

supervisord in turn starts this process again if somebody kills that.
"""

import os
import subprocess
import sys
import time

from onecard_stack.leftovers import PART_VARIABLE

POLL_SECONDS = 0.5


def main() -> None:
    """Wait until our parent is gone, then start another one; it brings a keeper of its own."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SUPERVISOR_")}
    inherited.pop(PART_VARIABLE, None)
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", sys.argv[1]]
    # Our own output went to the parent: whoever writes there now gets an error.
    subprocess.run(command, env=inherited, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)  # noqa: S603


if __name__ == "__main__":
    main()
