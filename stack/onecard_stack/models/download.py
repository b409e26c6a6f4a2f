"""`python -m onecard_stack.models.download`: fetches files of a model from the hub, as standard input says.

A process of its own, because a thread that receives a large file cannot be stopped: whoever has started it ends it at
any time. It ends by itself when that process is gone. A failure's reason is one line on standard output.
"""

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from huggingface_hub import hf_hub_download

from onecard_stack.models.hub_retries import HubUnreachable, is_temporary, retrying

FILE_ATTEMPTS = 2
"""How often a file is begun. The library tries most requests again by itself, from the byte where one broke off."""
FILES_AT_ONCE = 4
PARENT_POLL_SECONDS = 1.0
MAX_REASON_CHARACTERS = 160


def failures(model: str, revision: str, sizes: Mapping[str, int], folder: Path) -> Iterator[BaseException]:
    """Fetch files, several at a time. Those that are there whole are not fetched again.

    Args:
        model: name on the hub.
        revision: commit hash.
        sizes: size in bytes by file; 0 where the hub names none.
        folder: the model's folder.

    Yields:
        Why a file did not come, as soon as that is certain; the others are still fetched meanwhile.
    """

    def one(name: str) -> None:
        hf_hub_download(model, name, revision=revision, local_dir=folder)
        # Where the hub fails and the file exists, that function returns it, whole or not.
        if sizes[name] and (folder / name).stat().st_size != sizes[name]:
            raise HubUnreachable(f"{name} did not come")

    # Not `snapshot_download`, which lists the repository again: without a time limit, and it takes an unfinished folder
    # for a finished one if that fails.
    pool = ThreadPoolExecutor(FILES_AT_ONCE)
    futures = [pool.submit(retrying(is_temporary, FILE_ATTEMPTS), one, name) for name in sizes]
    for future in as_completed(futures):
        if error := future.exception():
            yield error


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        threading.Event().wait(PARENT_POLL_SECONDS)
    os._exit(1)


def main() -> None:
    """Fetch what is asked for. Where nothing can mend a failure, files that are under way are given up at once."""
    asked = json.load(sys.stdin)
    threading.Thread(target=_end_with, args=(asked["parent"],), daemon=True).start()
    error: BaseException | None = None
    for error in failures(asked["model"], asked["revision"], asked["sizes"], Path(asked["folder"])):
        if not is_temporary(error):
            break
    if error is not None:
        kind = "" if isinstance(error, HubUnreachable) else f"{type(error).__name__}: "
        print(f"{kind}{error}".splitlines()[0][:MAX_REASON_CHARACTERS], flush=True)
        os._exit(1)  # At the end of `main`, threads that still receive would be waited for.


if __name__ == "__main__":
    main()
