"""Starting, watching and stopping the whole stack."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from onecard.models import Kind, ModelFolder
from onecard_stack import (
    checks,
    fetching,
    fingerprint,
    leftovers,
    machine,
    probe,
    redis_login,
    runfile,
    stopping,
    supervisor,
)
from onecard_stack.errors import StackError
from onecard_stack.progress import Progress
from onecard_stack.settings import StackSettings
from onecard_stack.supervisor import Supervisor
from onecard_stack.table import Process, processes
from onecard_stack.verifying import Verification
from onecard_stack.watch import Watch

Say = Callable[[str], None]
POLL_SECONDS = 0.4


class Stack:
    """The stack of one settings object, running or not."""

    def __init__(self, settings: StackSettings, console: Console) -> None:
        self.settings = settings
        self.console = console
        self.parts: list[Process] = processes(settings, machine.look())
        self.supervisor = Supervisor(settings.run_folder)

    def up(self, *, keep: bool = False, free_mb: float = checks.FREE_MB) -> bool:
        """Start what does not run, and wait until all of it can work. Returns True if all of it was started here.

        Args:
            keep: leave a stack that runs and answers as it is, also if the settings have changed since.
            free_mb: least free space that it is started with, in MB.

        Raises:
            StackError: it cannot be done; what was started is stopped again.
            KeyboardInterrupt: the same, at a person's wish.
        """
        try:
            checks.key_in_public(self.settings)
            checks.host(self.settings.host)
            checks.own(self.settings.onecard_home)
            checks.disk(self.settings.onecard_home, free_mb)
            with self._lock():
                return self._up(keep)
        except (checks.CheckError, fetching.FetchError) as error:
            raise StackError(str(error)) from None

    def _up(self, keep: bool) -> bool:
        ran = self.supervisor.running()
        if ran and keep and self._gateway_answers():
            return False
        folders = self._models()
        files = self._files()
        if self.supervisor.running():
            if self.supervisor.holds(files):
                self.supervisor.revive()
                self._wait(folders)
                return False
            if keep:
                raise StackError("A stack with other settings runs here, and does not answer. 'make up' restarts it.")
            self._say("The settings have changed: restarting.")
            stopping.stop(self.settings.run_folder)
        elif left := leftovers.find(self.settings.run_folder):
            self._say(f"Ending {len(left)} processes of an earlier run that nobody watches any more.")
            leftovers.end_all(self.settings.run_folder, stopping.GRACE_SECONDS)
        checks.ports(self.parts)
        try:
            checks.logs(self.settings.log_folder, [part.name for part in self.parts])
            self.supervisor.start(files, {**os.environ, **redis_login.variables(files)})
            self._wait(folders)
        except BaseException:
            self.stop_again("What was started has been stopped again.")
            raise
        return not ran

    def stop_again(self, message: str) -> None:
        """Stop all of it, whatever comes between, and say so if anybody still listens."""
        with stopping.undisturbed():
            stopping.stop(self.settings.run_folder)
            # A closed terminal takes no message; Rich turns that into SystemExit.
            with suppress(Exception, SystemExit):
                self._say(message)

    def _gateway_answers(self) -> bool:
        return all(probe.ready(part) for part in self.parts if part.name == "gateway")

    def _models(self) -> dict[Kind, ModelFolder]:
        """The models, fetched if some are missing."""
        if missing := fetching.missing(self.settings):
            fetching.ensure(self.settings, missing, self._say)
        elif old := fetching.outdated(self.settings):
            self._say(f"Of an older recipe: {', '.join(old)}. 'make models' trains them anew.")
        return checks.model_folders(self.settings)

    def _files(self) -> dict[str, str]:
        scratch = runfile.scratch_folder(self.settings.run_folder)
        return {
            supervisor.CONFIG: supervisor.render(self.parts, fingerprint.of(os.environ)),
            runfile.FILE: runfile.render(self.parts, os.environ, scratch),
            **{part.login.name: redis_login.render(part.login) for part in self.parts if part.login},
        }

    def _wait(self, folders: dict[Kind, ModelFolder]) -> None:
        watch = Watch(self.parts, self.settings.log_folder, folders)
        deadline = time.monotonic() + self.settings.start_seconds
        models = [folder.path for folder in folders.values()]
        with Progress(self.console) as progress, self._verified(models) as verification:
            while True:
                ready = probe.all_ready(self.parts)
                progress.show(watch.rows(self.supervisor.states(), ready))
                checks.undamaged(verification.wrong)
                if all(ready.values()) and verification.done:
                    return
                watch.complain()
                if time.monotonic() > deadline:
                    raise watch.late(self.settings.start_seconds)
                time.sleep(POLL_SECONDS)

    @contextmanager
    def _verified(self, folders: list[Path]) -> Iterator[Verification]:
        """The models' files are compared with their digests while the parts load them."""
        verification = Verification(folders, self.settings.model_cache_path)
        try:
            yield verification
        finally:
            verification.stop()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One `up` at a time."""
        self.settings.run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.settings.run_folder.chmod(0o700)
        with (self.settings.run_folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError("Another 'onecard up' is at work here. Wait for it, or stop it with Ctrl-C.") from None
            yield

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)
