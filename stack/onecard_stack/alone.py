"""`python -m onecard_stack.alone PART COMMAND…`: become COMMAND, once nothing of an earlier life of PART is left.

A part that was killed may leave children behind, with its port or its share of the card. The next life needs both.
"""

import os
import sys
from pathlib import Path

from onecard_stack import leftovers

GRACE_SECONDS = 3.0


def main() -> None:
    """End leftovers, then exec."""
    part, *command = sys.argv[1:]
    if run_folder := os.environ.get(leftovers.RUN_VARIABLE):
        leftovers.end(leftovers.find(Path(run_folder), part), GRACE_SECONDS)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
