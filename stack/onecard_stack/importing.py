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

from onecard_stack.errors import StackError
from onecard_stack.refusal import reason
from onecard_stack.settings import StackSettings

MOST_LINES = 256
MOST_BYTES = 1_000_000
"""Of one request, but for a line that is longer by itself."""
READ_SECONDS = 600.0
PATIENCE_SECONDS = 120.0
"""How long services that are away or busy are waited for."""
PAUSE_SECONDS = 2.0
"""Between attempts, where no answer says how long."""
SHOWN_ERRORS = 20
_LATER = (429, 502, 503, 504)


@dataclass(frozen=True)
class Batch:
    """Lines of the file that go out together."""

    first: int
    """The number of its first line, from 1."""
    body: bytes

    @property
    def filled(self) -> list[int]:
        """The numbers of its lines that are not empty."""
        return [number for number, line in enumerate(self.body.split(b"\n"), self.first) if line.strip()]

    @property
    def span(self) -> str:
        """Its lines, for a person."""
        first, last = self.filled[0], self.filled[-1]
        return f"line {first}" if first == last else f"lines {first} to {last}"

    def halves(self) -> list["Batch"]:
        """The same lines in two batches."""
        lines = self.body.splitlines(keepends=True)
        middle = len(lines) // 2
        return [Batch(self.first, b"".join(lines[:middle])), Batch(self.first + middle, b"".join(lines[middle:]))]


@dataclass(frozen=True)
class Imported:
    """What became of the lines so far."""

    written: int = 0
    unchanged: int = 0
    superseded: int = 0
    wrong: int = 0
    """Lines of the file that are no review."""
    told: tuple[str, ...] = field(default=())
    """What the service says of wrong lines; not of each, where they are many."""

    def plus(self, batch: Batch, answer: dict[str, Any]) -> "Imported":
        """With what the service says of one more batch."""
        told = (f"line {batch.first + one['line'] - 1}: {one['message']}" for one in answer["errors"])
        written, unchanged, superseded = answer["written"], answer["unchanged"], answer["superseded_count"]
        return Imported(
            self.written + written,
            self.unchanged + unchanged,
            self.superseded + superseded,
            self.wrong + answer["received"] - written - unchanged - superseded,
            (*self.told, *told),
        )

    def refused(self, batch: Batch, message: str) -> "Imported":
        """With one more batch, of which no line is a review."""
        told = f"{batch.span}: {message}"
        return replace(self, wrong=self.wrong + len(batch.filled), told=(*self.told, told))


class _Later(Exception):
    """The gateway, or a service behind it, wants the request again."""

    def __init__(self, why: str, seconds: float) -> None:
        super().__init__(why)
        self.seconds = seconds


def batches(lines: Iterable[bytes]) -> Iterator[Batch]:
    """The lines in order, every one once; without the mark that some editors put before the first."""
    first, batch, size = 1, list[bytes](), 0
    for number, line in enumerate(lines):
        line = line.removeprefix(BOM_UTF8) if number == 0 else line
        if batch and (len(batch) == MOST_LINES or size + len(line) > MOST_BYTES):
            yield Batch(first, b"".join(batch))
            first, batch, size = first + len(batch), [], 0
        batch.append(line)
        size += len(line)
    if batch:
        yield Batch(first, b"".join(batch))


def run(path: Path, settings: StackSettings, console: Console) -> Imported:
    """Send the file, with a progress bar, and say what became of it.

    Raises:
        StackError: the file cannot be read, or the gateway refuses or stays away; what was sent before is stored.
    """
    headers = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
    timeout = httpx.Timeout(READ_SECONDS, connect=5)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"), TimeRemainingColumn())
    done = Imported()
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
    _tell(done, console)
    return done


def _send(client: httpx.Client, batch: Batch, done: Imported) -> Imported:
    if not batch.filled:
        return done
    again = Retrying(
        retry=retry_if_exception_type(_Later), wait=_pause, stop=stop_after_delay(PATIENCE_SECONDS), reraise=True
    )
    try:
        answer = again(_post, client, batch)
    except _Later as later:
        raise StackError(f"{later} Run the same command again: what is stored is passed over.") from None
    if answer.is_success:
        return done.plus(batch, answer.json())
    message = reason(answer)
    if answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE and len(batch.filled) > 1:
        for half in batch.halves():
            done = _send(client, half, done)
        return done
    if answer.status_code in (400, 413):  # Nothing in this batch is a review; the next one may be.
        return done.refused(batch, _numbered(message, batch.first))
    raise StackError(f"The gateway answers {answer.status_code}: {message}")


def _post(client: httpx.Client, batch: Batch) -> httpx.Response:
    try:
        answer = client.post("/v1/reviews", content=batch.body, headers={"content-type": "application/x-ndjson"})
    except httpx.TransportError:
        raise _Later("The gateway does not answer. 'make up' starts it.", PAUSE_SECONDS) from None
    if answer.status_code in _LATER:
        raise _Later(reason(answer), float(answer.headers.get("retry-after", PAUSE_SECONDS)))
    return answer


def _numbered(message: str, first: int) -> str:
    """The message, with the number that its line has in the file."""
    return re.sub(r"^Review (\d+) is", lambda found: f"Line {int(found[1]) + first - 1} is", message)


def _pause(state: RetryCallState) -> float:
    failed = state.outcome.exception() if state.outcome else None
    return failed.seconds if isinstance(failed, _Later) else PAUSE_SECONDS


def _tell(done: Imported, console: Console) -> None:
    for line in done.told[:SHOWN_ERRORS]:
        console.print(line, style="red", markup=False, highlight=False)
    if len(done.told) > SHOWN_ERRORS:
        console.print(f"… and more: {done.wrong} lines are wrong", style="red", highlight=False)
    told = f"{done.written} stored, {done.unchanged} were stored already, {done.wrong} wrong"
    if done.superseded:
        told += f", {done.superseded} replaced by a later line of the same id"
    console.print(told, highlight=False)
