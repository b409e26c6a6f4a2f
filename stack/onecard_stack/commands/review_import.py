"""The command `onecard import`: a file of reviews, through the gateway, batch by batch.

Nothing is remembered between runs: what is stored already, word for word, the service passes over at a cost of next to
nothing. Whoever is interrupted, or finds the services away, runs the same command again.
"""

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay

from onecard_stack.commands.gateway_errors import error_message
from onecard_stack.errors import StackError
from onecard_stack.settings import StackSettings

MAX_BATCH_LINES = 256
MAX_BATCH_BYTES = 1_000_000
"""Of one request, but for a line that is longer by itself."""
READ_TIMEOUT_SECONDS = 600.0
RETRY_FOR_SECONDS = 120.0
"""How long services that are away or busy are waited for."""
RETRY_PAUSE_SECONDS = 2.0
"""Between attempts, where no answer says how long."""
MAX_SHOWN_ERRORS = 20
_RETRY_STATUSES = (429, 502, 503, 504)


@dataclass(frozen=True)
class LineBatch:
    """Lines of the file that go out together."""

    first_line: int
    """The number of its first line, from 1."""
    body: bytes

    @property
    def non_empty_lines(self) -> list[int]:
        """The numbers of its lines that are not empty."""
        return [number for number, line in enumerate(self.body.split(b"\n"), self.first_line) if line.strip()]

    @property
    def line_range(self) -> str:
        """Its lines, for a person."""
        first, last = self.non_empty_lines[0], self.non_empty_lines[-1]
        return f"line {first}" if first == last else f"lines {first} to {last}"

    def split(self) -> list["LineBatch"]:
        """The same lines in two batches."""
        lines = self.body.splitlines(keepends=True)
        middle = len(lines) // 2
        return [
            LineBatch(self.first_line, b"".join(lines[:middle])),
            LineBatch(self.first_line + middle, b"".join(lines[middle:])),
        ]


@dataclass(frozen=True)
class ImportProgress:
    """What became of the lines so far."""

    written: int = 0
    unchanged: int = 0
    superseded: int = 0
    invalid: int = 0
    """Lines of the file that are no review."""
    messages: tuple[str, ...] = field(default=())
    """What the service says of wrong lines; not of each, where they are many."""

    def with_response(self, batch: LineBatch, answer: dict[str, Any]) -> "ImportProgress":
        """With what the service says of one more batch."""
        told = (f"line {batch.first_line + one['line'] - 1}: {one['message']}" for one in answer["errors"])
        written, unchanged, superseded = answer["written"], answer["unchanged"], answer["superseded_count"]
        return ImportProgress(
            self.written + written,
            self.unchanged + unchanged,
            self.superseded + superseded,
            self.invalid + answer["received"] - written - unchanged - superseded,
            (*self.messages, *told),
        )

    def with_rejected(self, batch: LineBatch, message: str) -> "ImportProgress":
        """With one more batch, of which no line is a review."""
        told = f"{batch.line_range}: {message}"
        return replace(self, invalid=self.invalid + len(batch.non_empty_lines), messages=(*self.messages, told))


class _RetryLater(Exception):
    """The gateway, or a service behind it, wants the request again."""

    def __init__(self, why: str, seconds: float) -> None:
        super().__init__(why)
        self.seconds = seconds


def batches(lines: Iterable[bytes]) -> Iterator[LineBatch]:
    """The lines in order, every one once; without the mark that some editors put before the first."""
    first, batch, size = 1, list[bytes](), 0
    for number, line in enumerate(lines):
        line = line.removeprefix(BOM_UTF8) if number == 0 else line
        if batch and (len(batch) == MAX_BATCH_LINES or size + len(line) > MAX_BATCH_BYTES):
            yield LineBatch(first, b"".join(batch))
            first, batch, size = first + len(batch), [], 0
        batch.append(line)
        size += len(line)
    if batch:
        yield LineBatch(first, b"".join(batch))


def run(path: Path, settings: StackSettings, console: Console) -> ImportProgress:
    """Send the file, with a progress bar, and say what became of it.

    Raises:
        StackError: the file cannot be read, or the gateway refuses or stays away; what was sent before is stored.
    """
    headers = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
    timeout = httpx.Timeout(READ_TIMEOUT_SECONDS, connect=5)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"), TimeRemainingColumn())
    done = ImportProgress()
    try:
        with (
            path.open("rb") as file,
            httpx.Client(base_url=settings.gateway_url, headers=headers, timeout=timeout, trust_env=False) as client,
            Progress(*columns, console=console) as progress,
        ):
            bar = progress.add_task(path.name, total=path.stat().st_size, done="")
            if file.peek(2)[:2] in (BOM_UTF16_LE, BOM_UTF16_BE):
                raise StackError(f"{path.name} is in UTF-16. Save it as UTF-8.")
            for batch in batches(file):
                done = _send(client, batch, done)
                stored = f"{done.written + done.unchanged:,} stored"
                progress.update(bar, advance=len(batch.body), done=stored)
    except OSError as error:
        raise StackError(f"{path.name} cannot be read: {error.strerror}.") from None
    _print_result(done, console)
    return done


def _send(client: httpx.Client, batch: LineBatch, done: ImportProgress) -> ImportProgress:
    if not batch.non_empty_lines:
        return done
    again = Retrying(
        retry=retry_if_exception_type(_RetryLater),
        wait=_retry_wait,
        stop=stop_after_delay(RETRY_FOR_SECONDS),
        reraise=True,
    )
    try:
        answer = again(_post, client, batch)
    except _RetryLater as later:
        raise StackError(f"{later} Run the same command again: what is stored is passed over.") from None
    if answer.is_success:
        return done.with_response(batch, answer.json())
    message = error_message(answer)
    if answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE and len(batch.non_empty_lines) > 1:
        for half in batch.split():
            done = _send(client, half, done)
        return done
    if answer.status_code in (400, 413):  # Nothing in this batch is a review; the next one may be.
        return done.with_rejected(batch, _with_file_line(message, batch.first_line))
    raise StackError(f"The gateway answers {answer.status_code}: {message}")


def _post(client: httpx.Client, batch: LineBatch) -> httpx.Response:
    try:
        answer = client.post("/v1/reviews", content=batch.body, headers={"content-type": "application/x-ndjson"})
    except httpx.TransportError:
        raise _RetryLater("The gateway does not answer. 'make up' starts it.", RETRY_PAUSE_SECONDS) from None
    if answer.status_code in _RETRY_STATUSES:
        raise _RetryLater(error_message(answer), float(answer.headers.get("retry-after", RETRY_PAUSE_SECONDS)))
    return answer


def _with_file_line(message: str, first: int) -> str:
    """The message, with the number that its line has in the file."""
    return re.sub(r"^Review (\d+) is", lambda found: f"Line {int(found[1]) + first - 1} is", message)


def _retry_wait(state: RetryCallState) -> float:
    failed = state.outcome.exception() if state.outcome else None
    return failed.seconds if isinstance(failed, _RetryLater) else RETRY_PAUSE_SECONDS


def _print_result(done: ImportProgress, console: Console) -> None:
    for line in done.messages[:MAX_SHOWN_ERRORS]:
        console.print(line, style="red", markup=False, highlight=False)
    if len(done.messages) > MAX_SHOWN_ERRORS:
        console.print(f"… and more: {done.invalid} lines are wrong", style="red", highlight=False)
    told = f"{done.written} stored, {done.unchanged} were stored already, {done.invalid} wrong"
    if done.superseded:
        told += f", {done.superseded} replaced by a later line of the same id"
    console.print(told, highlight=False)
