"""Starts, watches and stops the whole stack."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from onecard.models.folders import ModelFolder, ModelKind
from onecard_stack.doctor import examine, gather_host, host_checks, model_checks
from onecard_stack.doctor.findings import Finding, Refused, require
from onecard_stack.errors import StackError
from onecard_stack.models import fetching
from onecard_stack.models.checksums import BackgroundVerification
from onecard_stack.processes import command_file, host, monitoring, orphans, redis_password
from onecard_stack.settings import StackSettings
from onecard_stack.supervision import fingerprint, presence, readiness, stopping, supervisor
from onecard_stack.supervision.progress import StartupProgress
from onecard_stack.supervision.start_lock import start_lock
from onecard_stack.supervision.startup_monitor import StartupMonitor
from onecard_stack.supervision.supervisor import Supervisor

Reporter = Callable[[str], None]
POLL_SECONDS = 0.4


class Stack:
    """The stack of one set of settings, running or not."""

    def __init__(self, settings: StackSettings, console: Console) -> None:
        self.settings = settings
        self.console = console
        self.processes = host.processes_here(settings)
        self.supervisor = Supervisor(settings.run_folder)

    def up(self, *, keep: bool = False, free_mb: float = host_checks.MIN_FREE_MB) -> bool:
        """Start everything that does not run yet, and wait until all processes are ready.

        Args:
            keep: leave a stack whose gateway is ready as it is, even if settings or code have changed.
            free_mb: free disk space that a start requires, in MB.

        Returns:
            True if no stack ran before.

        Raises:
            StackError: it cannot be started. What this call has started is stopped again.
            KeyboardInterrupt: Ctrl-C. What this call has started is stopped again.
        """
        try:
            own_pids = {process.pid for process in orphans.find(self.settings.run_folder)}
            self._require(examine.machine(self.settings, own_pids, free_mb=free_mb))
            with start_lock(self.settings.run_folder):
                if keep:
                    return self._start(keep)
                with presence.released(self.settings.run_folder):
                    return self._start(keep)
        except (Refused, fetching.FetchError) as error:
            raise StackError(str(error)) from None

    def _start(self, keep: bool) -> bool:
        was_running = self.supervisor.running()
        if was_running and keep and self._gateway_answers():
            return False
        folders = self._ensure_models()
        files = self._rendered_files()
        if self.supervisor.running():
            if self.supervisor.has_files(files):
                self.supervisor.start_stopped()
                self._wait_until_ready(folders)
                return False
            if keep:
                raise StackError(
                    "A stack with other settings or code runs here, and does not answer. 'make up' restarts it."
                )
            self._print("Settings or code have changed: restarting.")
            stopping.stop(self.settings.run_folder)
        elif orphaned := orphans.find(self.settings.run_folder):
            self._print(f"Ending {len(orphaned)} processes of an earlier run that nobody watches any more.")
            orphans.terminate_all(self.settings.run_folder, stopping.GRACE_SECONDS)
        self._require(examine.before_start(self.settings, self.processes, folders.values()))
        try:
            names = [process.name for process in self.processes]
            self._require(host_checks.check_logs(gather_host.logs_error(self.settings.log_folder, names)))
            self.supervisor.start(files, {**os.environ, **redis_password.password_variables(files)})
            self._wait_until_ready(folders)
        except BaseException:
            self.stop_started("What was started has been stopped again.")
            raise
        return not was_running

    def stop_started(self, message: str) -> None:
        """Stop the stack, even if more signals arrive, and print a message.

        Args:
            message: the line to print afterwards.
        """
        with stopping.ignoring_signals():
            stopping.stop(self.settings.run_folder)
            # On a closed terminal, printing fails; Rich raises SystemExit then.
            with suppress(Exception, SystemExit):
                self._print(message)

    def _gateway_answers(self) -> bool:
        return all(readiness.is_ready(process) for process in self.processes if process.name == "gateway")

    def _ensure_models(self) -> dict[ModelKind, ModelFolder]:
        """Fetch missing models, and return the folders of all."""
        if missing := fetching.missing_models(self.settings):
            fetching.ensure_models(self.settings, missing, self._print)
        elif outdated := fetching.outdated_stand_ins(self.settings):
            self._print(f"Of an older recipe: {', '.join(outdated)}. 'make models' trains them anew.")
        return examine.require_models(self.settings)

    def _rendered_files(self) -> dict[str, str]:
        scratch = command_file.scratch_folder(self.settings.run_folder)
        settings = fingerprint.settings_fingerprint(os.environ)
        code = fingerprint.code_fingerprint(fingerprint.package_folders())
        return {
            supervisor.CONFIG_FILE: supervisor.render(self.processes, f"{settings}, code {code}"),
            command_file.COMMANDS_FILE: command_file.render(self.processes, os.environ, scratch),
            **monitoring.files(self.settings),
            **{
                process.password_file.name: redis_password.render(process.password_file)
                for process in self.processes
                if process.password_file
            },
        }

    def _wait_until_ready(self, folders: dict[ModelKind, ModelFolder]) -> None:
        monitor = StartupMonitor(self.processes, self.settings.log_folder, folders)
        deadline = time.monotonic() + self.settings.start_seconds
        models = [folder.path for folder in folders.values()]
        with StartupProgress(self.console) as progress, self._verified(models) as verification:
            while True:
                ready = readiness.all_ready(self.processes)
                progress.show(monitor.update(self.supervisor.states(), ready, time.monotonic()))
                require(model_checks.check_files("models", verification.corrupted))
                if all(ready.values()) and verification.done:
                    return
                monitor.raise_for_failure()
                if time.monotonic() > deadline:
                    raise monitor.timeout_error(self.settings.start_seconds)
                time.sleep(POLL_SECONDS)

    @contextmanager
    def _verified(self, folders: list[Path]) -> Iterator[BackgroundVerification]:
        """Compare the model files with their digests while the processes load them."""
        verification = BackgroundVerification(folders, self.settings.model_cache_path)
        try:
            yield verification
        finally:
            verification.stop()

    def _require(self, findings: list[Finding]) -> None:
        """Print the warnings, and go on only if nothing is refused."""
        for finding in findings:
            if finding.level == "warning":
                self._print(f"warning: {finding.line}")
        require(findings)

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)
