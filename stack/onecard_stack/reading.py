"""Looking at a stack: its state, its logs, how to call it."""

import time
from collections import deque
from pathlib import Path
from typing import TextIO

import click
from dotenv import dotenv_values
from rich.console import Console
from rich.table import Table

from onecard.models import find
from onecard_stack import machine, probe
from onecard_stack.settings import StackSettings
from onecard_stack.supervisor import Supervisor
from onecard_stack.table import processes

FOLLOW_SECONDS = 0.3


def how_to_call(settings: StackSettings) -> str:
    """What to type to use a running stack."""
    base = settings.gateway_url
    keyed = settings.api_key or settings.api_keys_file
    key = ' -H "Authorization: Bearer $API_KEY"' if keyed else ""
    post = f"curl -s{key} -H 'content-type: application/json' {base}"
    names = {
        kind: find(kind, name, settings.model_cache_path).accepted_names[-1] for kind, name in settings.models.items()
    }
    question = '[{"role": "user", "content": "리뷰를 요약해 주세요: 국물이 진하고 맛있어요."}]'
    sdk_key = 'os.environ["API_KEY"]' if keyed else '"none"'
    return f"""
Onecard is up: {base}
{_take_key(settings)}
  {post}/v1/chat/completions -d '{{"model": "{names["llm"]}", "messages": {question}}}'
  {post}/v1/sentiment -d '{{"input": ["국물이 진하고 맛있어요.", "직원이 불친절했어요."]}}'
  {post}/v1/embeddings -d '{{"model": "{names["embedding"]}", "input": "주차가 편해요."}}'

  OpenAI SDK: OpenAI(base_url="{base}/v1", api_key={sdk_key})
  make status · make logs · make down
"""


def _take_key(settings: StackSettings) -> str:
    """How a shell gets a key that stands in `.env` alone; the key itself is not shown."""
    if settings.api_key is None or dotenv_values(".env").get("API_KEY") != settings.api_key.get_secret_value():
        return ""
    return "\n  set -a; . ./.env; set +a  # gives this shell the API_KEY of your .env\n"


def show_status(settings: StackSettings, console: Console) -> bool:
    """Print one row for each part. Returns True if all can work."""
    parts = processes(settings, machine.look())
    states = Supervisor(settings.run_folder).states()
    if not states:
        console.print("The stack does not run. 'make up' starts it.")
        return False
    answers = probe.all_ready(parts)
    ready = {name: answer and name in states and states[name].pid > 0 for name, answer in answers.items()}
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "state", "pid", "up", "port"):
        table.add_column(heading)
    for part in parts:
        state = states.get(part.name)
        running = state is not None and state.pid > 0
        word = "[green]ready[/]" if ready[part.name] else "[yellow]not ready[/]" if running else "[red]stopped[/]"
        pid, age = (str(state.pid), f"{time.time() - state.started:.0f} s") if state and running else ("", "")
        table.add_row(part.name, word, pid, age, str(part.port or ""))
    console.print(table)
    return all(ready.values())


def print_logs(folder: Path, names: list[str], *, lines: int, follow: bool) -> None:
    """Print the last lines of each log, with the part's name before each line if there are several."""
    files: dict[str, tuple[TextIO, int]] = {}
    for name in names:
        path = folder / f"{name}.log"
        if path.exists():
            file = path.open(errors="replace")
            for line in deque(file, maxlen=lines):
                _print(name, line, len(names) > 1)
            files[name] = (file, path.stat().st_ino)
    if not files and not follow:
        click.echo("There are no logs yet. 'make up' starts the stack.")
    while follow:
        for name in names:
            _follow(folder / f"{name}.log", name, files, len(names) > 1)
        time.sleep(FOLLOW_SECONDS)


def _follow(path: Path, name: str, files: dict[str, tuple[TextIO, int]], prefixed: bool) -> None:
    """Print what is new; open the new file when the log was rotated."""
    if name in files:
        for line in files[name][0]:
            _print(name, line, prefixed)
    try:
        inode = path.stat().st_ino
    except FileNotFoundError:
        return
    if name not in files or files[name][1] != inode:
        files[name] = (path.open(errors="replace"), inode)


def _print(name: str, line: str, prefixed: bool) -> None:
    click.echo(f"{name:<9} {line.rstrip()}" if prefixed else line.rstrip())
