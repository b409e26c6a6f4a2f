"""Shows the state and the logs of a stack, and how to call it."""

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import click
import psutil
from rich.console import Console
from rich.table import Table

from onecard import command_environment
from onecard.models.folders import find
from onecard_stack.processes import host, orphans
from onecard_stack.settings import StackSettings
from onecard_stack.supervision import readiness
from onecard_stack.supervision.supervisor import Supervisor

FOLLOW_POLL_SECONDS = 0.3


def usage_hint(settings: StackSettings) -> str:
    """Render example commands for a running stack."""
    base = settings.gateway_url
    keyed = settings.api_key or settings.api_keys_file
    key = ' -H "Authorization: Bearer $API_KEY"' if keyed else ""
    post = f"curl -s{key} -H 'content-type: application/json' {base}"
    folders = {kind: find(kind, name, settings.model_cache_path) for kind, name in settings.models.items()}
    names = {kind: folder.accepted_names[-1] for kind, folder in folders.items()}
    stand_ins = ", ".join(kind for kind, folder in folders.items() if folder.is_stand_in)
    question = '[{"role": "user", "content": "리뷰를 요약해 주세요: 국물이 진하고 맛있어요."}]'
    sdk_key = 'os.environ["API_KEY"]' if keyed else '"none"'
    return f"""
Onecard is up: {base}{f" (degraded: {stand_ins} on small stand-ins)" if stand_ins else ""}
{_key_export_hint(settings)}
  {post}/v1/chat/completions -d '{{"model": "{names["llm"]}", "messages": {question}}}'
  {post}/v1/sentiment -d '{{"input": ["국물이 진하고 맛있어요.", "직원이 불친절했어요."]}}'
  {post}/v1/embeddings -d '{{"model": "{names["embedding"]}", "input": "주차가 편해요."}}'

  OpenAI SDK: OpenAI(base_url="{base}/v1", api_key={sdk_key})
  make status · make logs · make down
"""


def _key_export_hint(settings: StackSettings) -> str:
    """Say how a shell gets a key that is only in `.env`. The key itself is not printed."""
    key = settings.api_key and settings.api_key.get_secret_value()
    if key is None or command_environment.read_dotenv(Path.cwd()).get("API_KEY") != key:
        return ""
    return "\n  set -a; . ./.env; set +a  # gives this shell the API_KEY of your .env\n"


def show_status(settings: StackSettings, console: Console) -> bool:
    """Print one row per process.

    Args:
        settings: the stack's settings.
        console: where to print.

    Returns:
        True if all processes run and are ready.
    """
    table_entries = host.processes_here(settings)
    states = Supervisor(settings.run_folder).states()
    if not states:
        _print_not_running(settings.run_folder, console)
        return False
    health = readiness.all_ready(table_entries)
    ready = {name: healthy and name in states and states[name].pid > 0 for name, healthy in health.items()}
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "state", "pid", "up", "port"):
        table.add_column(heading)
    for process in table_entries:
        state = states.get(process.name)
        running = state is not None and state.pid > 0
        word = "[green]ready[/]" if ready[process.name] else "[yellow]not ready[/]" if running else "[red]stopped[/]"
        pid, age = (str(state.pid), f"{time.time() - state.started:.0f} s") if state and running else ("", "")
        table.add_row(process.name, word, pid, age, str(process.port or ""))
    console.print(table)
    return all(ready.values())


def _print_not_running(run_folder: Path, console: Console) -> None:
    if Supervisor(run_folder).running():
        console.print("The stack's supervisor does not answer now. Ask again.", highlight=False, markup=False)
        return
    orphaned = orphans.find(run_folder)
    if not orphaned:
        console.print(f"No stack runs in {run_folder.parent}. 'make up' starts one.", highlight=False, markup=False)
        print_other_stacks(run_folder, console)
        return
    names = sorted({f"{_process_name(process)} ({process.pid})" for process in orphaned})
    console.print(
        f"Nobody watches over the stack in {run_folder.parent}, but processes of it run: {', '.join(names)}. "
        "'make down' ends them, 'make up' starts it anew.",
        highlight=False,
        markup=False,
    )


def _process_name(process: psutil.Process) -> str:
    """The name that it has in the process table."""
    with suppress(psutil.Error, OSError):
        return process.environ().get(orphans.PROCESS_VARIABLE) or process.name()
    return "ended"


def print_other_stacks(run_folder: Path, console: Console) -> None:
    """Print where other stacks of this user run, in case one of them was meant.

    Args:
        run_folder: run folder of the stack that does not run.
        console: where to print.
    """
    for other in orphans.other_run_folders(run_folder):
        console.print(
            f"One runs in {other.parent}: type it in the folder where that was started, or with "
            f"ONECARD_HOME={other.parent}.",
            highlight=False,
            markup=False,
        )


def print_logs(
    folder: Path, names: list[str], *, lines: int, follow: bool, is_over: Callable[[], bool] = lambda: False
) -> None:
    """Print the last lines of each log, with the process's name before each line if there are several.

    Args:
        folder: the folder of all logs.
        names: names of the processes.
        lines: how many lines to print of each log.
        follow: keep printing new lines until interrupted.
        is_over: asked again and again meanwhile; True ends it.
    """
    files: dict[str, BinaryIO] = {}
    for name in names:
        path = folder / f"{name}.log"
        if path.exists():
            files[name] = path.open("rb")
            for line in deque(files[name], maxlen=lines):
                _print_line(name, line, len(names) > 1)
    if not files and not follow:
        click.echo(f"There are no logs in {folder}. 'make up' starts the stack.")
    while follow and not is_over():
        for name in names:
            _follow(folder / f"{name}.log", name, files, len(names) > 1)
        time.sleep(FOLLOW_POLL_SECONDS)


def _follow(path: Path, name: str, files: dict[str, BinaryIO], prefixed: bool) -> None:
    """Print new lines. Starts from the beginning if the log was truncated or replaced."""
    file = files.get(name)
    if file is not None:
        for line in file:
            _print_line(name, line, prefixed)
    with suppress(FileNotFoundError):
        now = path.stat()
        if file is None or os.fstat(file.fileno()).st_ino != now.st_ino:
            files[name] = path.open("rb")
        elif now.st_size < file.tell():
            file.seek(0)


def _print_line(name: str, raw: bytes, prefixed: bool) -> None:
    line = raw.decode(errors="replace").rstrip()
    click.echo(f"{name:<9} {line}" if prefixed else line)
