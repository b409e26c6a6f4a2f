"""Starting, watching and stopping the whole stack."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from onecard.models.folders import ModelFolder, ModelKind
from onecard_stack import checks
from onecard_stack.errors import StackError
from onecard_stack.models import fetching
from onecard_stack.models.checksums import BackgroundVerification
from onecard_stack.processes import command_file, host, orphans, redis_password
from onecard_stack.processes.process_table import Process, processes
from onecard_stack.settings import StackSettings
from onecard_stack.supervision import fingerprint, readiness, stopping, supervisor
from onecard_stack.supervision.progress import StartupProgress
from onecard_stack.supervision.startup_monitor import StartupMonitor
from onecard_stack.supervision.supervisor import Supervisor

Reporter = Callable[[str], None]
POLL_SECONDS = 0.4


class Stack:
    """The stack of one settings object, running or not."""

    def __init__(self, settings: StackSettings, console: Console) -> None:
        self.settings = settings
        self.console = console
        self.processes: list[Process] = processes(settings, host.inspect_host())
        self.supervisor = Supervisor(settings.run_folder)

    def up(self, *, keep: bool = False, free_mb: float = checks.MIN_FREE_MB) -> bool:
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
            checks.owned_by_user(self.settings.onecard_home)
            checks.disk(self.settings.onecard_home, free_mb)
            with self._lock():
                return self._start(keep)
        except (checks.CheckError, fetching.FetchError) as error:
            raise StackError(str(error)) from None

    def _start(self, keep: bool) -> bool:
        ran = self.supervisor.running()
        if ran and keep and self._gateway_answers():
            return False
        folders = self._ensure_models()
        files = self._rendered_files()
        if self.supervisor.running():
            if self.supervisor.has_files(files):
                self.supervisor.start_stopped()
                self._wait_until_ready(folders)
                return False
            if keep:
                raise StackError("A stack with other settings runs here, and does not answer. 'make up' restarts it.")
            self._print("The settings have changed: restarting.")
            stopping.stop(self.settings.run_folder)
        elif left := orphans.find(self.settings.run_folder):
            self._print(f"Ending {len(left)} processes of an earlier run that nobody watches any more.")
            orphans.terminate_all(self.settings.run_folder, stopping.GRACE_SECONDS)
        checks.ports(self.processes)
        try:
            checks.logs(self.settings.log_folder, [part.name for part in self.processes])
            self.supervisor.start(files, {**os.environ, **redis_password.password_variables(files)})
            self._wait_until_ready(folders)
        except BaseException:
            self.stop_started("What was started has been stopped again.")
            raise
        return not ran

    def stop_started(self, message: str) -> None:
        """Stop all of it, whatever comes between, and say so if anybody still listens."""
        with stopping.ignoring_signals():
            stopping.stop(self.settings.run_folder)
            # A closed terminal takes no message; Rich turns that into SystemExit.
            with suppress(Exception, SystemExit):
                self._print(message)

    def _gateway_answers(self) -> bool:
        return all(readiness.is_ready(part) for part in self.processes if part.name == "gateway")

    def _ensure_models(self) -> dict[ModelKind, ModelFolder]:
        """The models, fetched if some are missing."""
        if missing := fetching.missing_models(self.settings):
            fetching.ensure_models(self.settings, missing, self._print)
        elif old := fetching.outdated_stand_ins(self.settings):
            self._print(f"Of an older recipe: {', '.join(old)}. 'make models' trains them anew.")
        return checks.model_folders(self.settings)

    def _rendered_files(self) -> dict[str, str]:
        scratch = command_file.scratch_folder(self.settings.run_folder)
        return {
            supervisor.CONFIG_FILE: supervisor.render(self.processes, fingerprint.settings_fingerprint(os.environ)),
            command_file.COMMANDS_FILE: command_file.render(self.processes, os.environ, scratch),
            **{
                part.password_file.name: redis_password.render(part.password_file)
                for part in self.processes
                if part.password_file
            },
        }

    def _wait_until_ready(self, folders: dict[ModelKind, ModelFolder]) -> None:
        watch = StartupMonitor(self.processes, self.settings.log_folder, folders)
        deadline = time.monotonic() + self.settings.start_seconds
        models = [folder.path for folder in folders.values()]
        with StartupProgress(self.console) as progress, self._verified(models) as verification:
            while True:
                ready = readiness.all_ready(self.processes)
                progress.show(watch.update(self.supervisor.states(), ready))
                checks.uncorrupted(verification.corrupted)
                if all(ready.values()) and verification.done:
                    return
                watch.raise_for_failure()
                if time.monotonic() > deadline:
                    raise watch.timeout_error(self.settings.start_seconds)
                time.sleep(POLL_SECONDS)

    @contextmanager
    def _verified(self, folders: list[Path]) -> Iterator[BackgroundVerification]:
        """The models' files are compared with their digests while the parts load them."""
        verification = BackgroundVerification(folders, self.settings.model_cache_path)
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

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)
