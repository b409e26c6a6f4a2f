"""`python -m onecard_runpod.entrypoint [VOLUME]`: keeps a pod's watchdog and its stack running.

The watchdog starts first, and nothing of it touches the volume, which may hang. A stack that ends, because a setting is
wrong or the hub cannot be reached, is started again until the watchdog stops the pod: a container that ends would be
started again by RunPod, with every clock at zero. Outside RunPod there is nothing to stop, and this becomes the stack.
"""

import asyncio
import os
import pwd
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard import logs
from onecard_runpod import folders
from onecard_runpod.settings import WatchdogSettings

RESTART_SECONDS = 10.0
"""Pause before a process that has ended is started again."""
STOP_SECONDS = 15.0
"""Longest wait for a process after SIGTERM. RunPod waits 5 s for all of them."""
API_KEY_VARIABLES = ("RUNPOD_API_KEY", "RUNPOD_API_KEY_FILE")
"""The pod's key at RunPod, in any case: for the watchdog alone."""
_PROCESS_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "LANG", "LC_ALL")
_KEYS_FILE = Path("keys", "keys.json")
"""Named keys of the gateway, on the volume, once somebody has made some."""
STACK_USER = "onecard"
WATCHDOG_USER = "watchdog"

log = logs.logger()


@dataclass(frozen=True)
class Program:
    """A program that is kept running."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    user: pwd.struct_passwd | None = None
    """Whom it runs as; None: as this process."""
    folder: Path | None = None
    """Where it runs; None: where this process does."""
    prepare: Callable[[], object] | None = None
    """What comes before its first start. It may never return, and never makes another program wait."""

    async def start(self) -> asyncio.subprocess.Process:
        """Start it.

        Returns:
            The process.

        Raises:
            OSError: it cannot be started.
        """
        identity: dict[str, Any] = {}
        if self.user is not None:
            groups = os.getgrouplist(self.user.pw_name, self.user.pw_gid)
            identity = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": groups}
        argv = self.argv
        if self.folder is not None:
            # Not by `cwd`: until the child has changed to a volume that hangs, this process would stand still.
            argv = ("/bin/sh", "-c", 'cd "$0" && exec "$@"', str(self.folder), *argv)
        return await asyncio.create_subprocess_exec(*argv, env=self._environment(), **identity)

    def become(self) -> None:
        """Prepare it, and replace this process with it (execve)."""
        if self.prepare is not None:
            self.prepare()
        if self.folder is not None:
            os.chdir(self.folder)
        if self.user is not None:
            os.initgroups(self.user.pw_name, self.user.pw_gid)
            os.setgid(self.user.pw_gid)
            os.setuid(self.user.pw_uid)
        os.execve(self.argv[0], self.argv, self._environment())  # noqa: S606 - no shell is meant

    def _environment(self) -> dict[str, str]:
        return {**self.environment, **({"HOME": self.user.pw_dir} if self.user else {})}


async def keep_running(
    program: Program,
    stopping: asyncio.Event,
    restart_seconds: float = RESTART_SECONDS,
    stop_seconds: float = STOP_SECONDS,
) -> None:
    """Prepare and run a program, and start it again when it ends, until it is to stop.

    Args:
        program: what to run.
        stopping: set when everything has to stop; the program then gets SIGTERM, and is waited for.
        restart_seconds: pause before it is started again.
        stop_seconds: how long it is waited for after SIGTERM, before it is killed.
    """
    stop = asyncio.create_task(stopping.wait())
    if program.prepare is not None:
        either: set[asyncio.Future[Any]] = {_in_thread(program.prepare), stop}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    while not stopping.is_set():
        try:
            process = await program.start()
        except OSError as error:
            log.error("a program of the pod does not start", program=program.name, reason=str(error))
        else:
            ended = asyncio.create_task(process.wait())
            await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                with suppress(ProcessLookupError):
                    process.terminate()
                await asyncio.wait({ended}, timeout=stop_seconds)
                if not ended.done():
                    log.error("a program of the pod does not end at SIGTERM", program=program.name)
                    process.kill()
                await ended
                return
            log.error("a program of the pod has ended", program=program.name, status=process.returncode)
        await asyncio.wait({stop}, timeout=restart_seconds)


def _in_thread(action: Callable[[], object]) -> "asyncio.Future[None]":
    """Run it in a daemon thread: those of `asyncio.to_thread` would be waited for at the end, for ever if they hang."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def act() -> None:
        try:
            action()
        finally:  # The program then fails with its own message.
            with suppress(RuntimeError):  # The loop has ended meanwhile.
                loop.call_soon_threadsafe(done.set_result, None)

    threading.Thread(target=act, daemon=True).start()
    return done


async def run(programs: list[Program], restart_seconds: float = RESTART_SECONDS) -> None:
    """Keep programs running until SIGTERM or SIGINT.

    Args:
        programs: what to run; the first one starts first.
        restart_seconds: pause before a program that has ended is started again.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await asyncio.gather(*(keep_running(program, stopping, restart_seconds) for program in programs))


def without_api_key(environment: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment without the key of RunPod's API."""
    return {name: value for name, value in environment.items() if name.upper() not in API_KEY_VARIABLES}


def for_watchdog(environment: Mapping[str, str]) -> dict[str, str]:
    """Copy what the watchdog reads of an environment, which holds keys that do not concern it."""
    read = {name.upper() for name in WatchdogSettings.model_fields} | set(_PROCESS_VARIABLES)
    return {name: value for name, value in environment.items() if name.upper() in read}


def user(name: str) -> pwd.struct_passwd | None:
    """Look up a user to run a program as.

    Args:
        name: the user's name.

    Returns:
        The user; None if this process may not change its user, or there is no such user.
    """
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def stack_program(environment: Mapping[str, str], volume: Path | None) -> Program:
    """Describe the stack.

    Args:
        environment: variables of the pod.
        volume: folder that the stack runs in, and that may hold named keys of the gateway; None if there is none.

    Returns:
        The program. Preparing it makes the folders that the environment names.
    """
    own, owner = without_api_key(environment), user(STACK_USER)

    def prepare() -> None:
        keys = [volume / _KEYS_FILE] if volume else []
        folders.prepare(own, owner, [str(file.parent) for file in keys])
        for file in filter(Path.exists, keys):
            own.setdefault("API_KEYS_FILE", str(file))

    return Program("stack", (sys.executable, "-m", "onecard_stack", "run", "--stay"), own, owner, volume, prepare)


def main() -> None:
    """Run the watchdog, and the stack once its folders have been made, until SIGTERM."""
    logs.configure("pod", "info")
    stack = stack_program(os.environ, Path(sys.argv[1]) if sys.argv[1:] else None)
    if not os.environ.get("RUNPOD_POD_ID"):
        stack.become()
    argv = (sys.executable, "-m", "onecard_runpod.watchdog")
    watchdog = Program("watchdog", argv, for_watchdog(os.environ), user(WATCHDOG_USER), Path("/"))
    asyncio.run(run([watchdog, stack]))


if __name__ == "__main__":
    main()
