"""The command `onecard import`: sends a file of reviews through the gateway, batch by batch.

No state is kept between runs. The review service skips identical reviews at almost no cost, so after an interruption
or a failure the same command is simply run again.
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
"""Limit of one request body; a single longer line is sent alone."""
READ_TIMEOUT_SECONDS = 600.0
RETRY_FOR_SECONDS = 120.0
"""How long to retry while services are unavailable or busy."""
RETRY_PAUSE_SECONDS = 2.0
"""Pause between attempts without `Retry-After`."""
MAX_SHOWN_ERRORS = 20
_RETRY_STATUSES = (429, 502, 503, 504)


@dataclass(frozen=True)
class LineBatch:
    """Lines of the file that are sent in one request."""

    first_line: int
    """Number of its first line in the file, from 1."""
    body: bytes

    @property
    def non_empty_lines(self) -> list[int]:
        """Numbers of its lines that are not empty."""
        return [number for number, line in enumerate(self.body.split(b"\n"), self.first_line) if line.strip()]

    @property
    def line_range(self) -> str:
        """Its line numbers as text, for messages."""
        first, last = self.non_empty_lines[0], self.non_empty_lines[-1]
        return f"line {first}" if first == last else f"lines {first} to {last}"

    def split(self) -> list["LineBatch"]:
        """Split it into two batches of about as many lines each."""
        lines = self.body.splitlines(keepends=True)
        middle = len(lines) // 2
        return [
            LineBatch(self.first_line, b"".join(lines[:middle])),
            LineBatch(self.first_line + middle, b"".join(lines[middle:])),
        ]


@dataclass(frozen=True)
class ImportProgress:
    """Counts of the lines sent so far, by result."""

    written: int = 0
    unchanged: int = 0
    superseded: int = 0
    invalid: int = 0
    """Lines that are no valid review."""
    messages: tuple[str, ...] = field(default=())
    """Error messages. The service limits their number, so there may be fewer than invalid lines."""

    def with_response(self, batch: LineBatch, result: dict[str, Any]) -> "ImportProgress":
        """Add the result of a batch.

        Args:
            batch: the lines that were sent.
            result: body of the service's response: counts, and errors by line of the batch.

        Returns:
            The new totals.
        """
        messages = (f"line {batch.first_line + error['line'] - 1}: {error['message']}" for error in result["errors"])
        written, unchanged, superseded = result["written"], result["unchanged"], result["superseded_count"]
        return ImportProgress(
            self.written + written,
            self.unchanged + unchanged,
            self.superseded + superseded,
            self.invalid + result["received"] - written - unchanged - superseded,
            (*self.messages, *messages),
        )

    def with_rejected(self, batch: LineBatch, message: str) -> "ImportProgress":
        """Add a batch that was rejected as a whole.

        Args:
            batch: the lines that were sent.
            message: the error message.

        Returns:
            The new totals, with all of its lines as invalid.
        """
        text = f"{batch.line_range}: {message}"
        return replace(self, invalid=self.invalid + len(batch.non_empty_lines), messages=(*self.messages, text))


class _RetryLater(Exception):
    """The gateway or a service behind it is unavailable or busy; a later attempt may succeed."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds


def batches(lines: Iterable[bytes]) -> Iterator[LineBatch]:
    """Group lines into batches.

    Args:
        lines: the lines of the file in order. A UTF-8 byte order mark before the first one is removed.

    Yields:
        Batches of at most `MAX_BATCH_LINES` lines and `MAX_BATCH_BYTES` bytes, in order.
    """
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
    """Send the file, show a progress bar, and print the result.

    Args:
        path: a file with one JSON object per line, in UTF-8.
        settings: the stack's settings.
        console: where to print.

    Returns:
        The totals of all lines.

    Raises:
        StackError: the file cannot be read, or the gateway refuses it or stays unavailable. What was sent
            before is stored.
    """
    headers = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
    timeout = httpx.Timeout(READ_TIMEOUT_SECONDS, connect=5)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"), TimeRemainingColumn())
    progress = ImportProgress()
    try:
        with (
            path.open("rb") as file,
            httpx.Client(base_url=settings.gateway_url, headers=headers, timeout=timeout, trust_env=False) as client,
            Progress(*columns, console=console) as progress_bar,
        ):
            task = progress_bar.add_task(path.name, total=path.stat().st_size, done="")
            if file.peek(2)[:2] in (BOM_UTF16_LE, BOM_UTF16_BE):
                raise StackError(f"{path.name} is in UTF-16. Save it as UTF-8.")
            for batch in batches(file):
                progress = _send(client, batch, progress)
                stored = f"{progress.written + progress.unchanged:,} stored"
                progress_bar.update(task, advance=len(batch.body), done=stored)
    except OSError as error:
        raise StackError(f"{path.name} cannot be read: {error.strerror}.") from None
    _print_result(progress, console)
    return progress


def _send(client: httpx.Client, batch: LineBatch, progress: ImportProgress) -> ImportProgress:
    if not batch.non_empty_lines:
        return progress
    retrying = Retrying(
        retry=retry_if_exception_type(_RetryLater),
        wait=_retry_wait,
        stop=stop_after_delay(RETRY_FOR_SECONDS),
        reraise=True,
    )
    try:
        response = retrying(_post, client, batch)
    except _RetryLater as later:
        raise StackError(f"{later} Run the same command again: what is stored is passed over.") from None
    if response.is_success:
        return progress.with_response(batch, response.json())
    message = error_message(response)
    if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE and len(batch.non_empty_lines) > 1:
        for half in batch.split():
            progress = _send(client, half, progress)
        return progress
    if response.status_code in (400, 413):  # The batch is invalid as a whole; the next one may not be.
        return progress.with_rejected(batch, _with_file_line(message, batch.first_line))
    raise StackError(f"The gateway answers {response.status_code}: {message}")


def _post(client: httpx.Client, batch: LineBatch) -> httpx.Response:
    try:
        response = client.post("/v1/reviews", content=batch.body, headers={"content-type": "application/x-ndjson"})
    except httpx.TransportError:
        raise _RetryLater("The gateway does not answer. 'make up' starts it.", RETRY_PAUSE_SECONDS) from None
    if response.status_code in _RETRY_STATUSES:
        raise _RetryLater(error_message(response), float(response.headers.get("retry-after", RETRY_PAUSE_SECONDS)))
    return response


def _with_file_line(message: str, first: int) -> str:
    """Replace the number of the review in the batch by the line number in the file."""
    return re.sub(r"^Review (\d+) is", lambda found: f"Line {int(found[1]) + first - 1} is", message)


def _retry_wait(state: RetryCallState) -> float:
    failed = state.outcome.exception() if state.outcome else None
    return failed.seconds if isinstance(failed, _RetryLater) else RETRY_PAUSE_SECONDS


def _print_result(progress: ImportProgress, console: Console) -> None:
    for line in progress.messages[:MAX_SHOWN_ERRORS]:
        console.print(line, style="red", markup=False, highlight=False)
    if len(progress.messages) > MAX_SHOWN_ERRORS:
        console.print(f"… and more: {progress.invalid} lines are wrong", style="red", highlight=False)
    text = f"{progress.written} stored, {progress.unchanged} were stored already, {progress.invalid} wrong"
    if progress.superseded:
        text += f", {progress.superseded} replaced by a later line of the same id"
    console.print(text, highlight=False)
