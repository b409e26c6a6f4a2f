"""The command `onecard`."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from onecard_runpod import command_environment
from onecard_stack import checks, file_owners
from onecard_stack.commands import stack_status
from onecard_stack.errors import StackError
from onecard_stack.models import fetching
from onecard_stack.settings import StackSettings, load_home, load_settings
from onecard_stack.supervision import stopping

F = TypeVar("F", bound=Callable[..., Any])

PROCESS_NAMES = ("gateway", "llm", "sentiment", "embedding", "review", "worker", "schedule", "redis", "watchdog")
EXIT_INTERRUPTED = 130


def console() -> Console:
    """Standard output; wide enough for a whole line where it is no terminal."""
    return Console(soft_wrap=not sys.stdout.isatty())


def report_errors(command: F) -> F:
    """Errors that we foresee become one line and exit code 1; Ctrl-C becomes 130."""

    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except (StackError, checks.CheckError, fetching.FetchError) as error:
            raise SystemExit(f"onecard: {error}") from None
        except OSError as error:
            raise SystemExit(f"onecard: {_os_error_message(error)}") from None
        except KeyboardInterrupt:
            with suppress(OSError):  # the terminal may be what has gone
                click.echo("Interrupted.", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run  # type: ignore[return-value]


def _os_error_message(error: OSError) -> str:
    """One line for what the system refuses: which file, whose, and what to type."""
    if error.filename is None:
        return f"{type(error).__name__}: {error}"
    path = Path(os.fsdecode(error.filename)).absolute()
    closed = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
    if isinstance(error, PermissionError) and closed.is_relative_to(Path.cwd()) and file_owners.foreign_files([closed]):
        return file_owners.ownership_message([closed], closed)
    return f"{path}: {error.strerror}."


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="onecard-stack", prog_name="onecard")
def main() -> None:
    """Runs Onecard on this machine: an LLM, a sentiment classifier and a sentence encoder behind one gateway.

    Settings are environment variables; `.env` in the current directory is read too. `.env.example` lists them all.
    """
    command_environment.ensure_utf8()
    # A closed terminal or a stopping machine deserves the same tidying up as Ctrl-C (which a background job ignores).
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


@main.command()
@report_errors
def up() -> None:
    """Start everything and leave it running.

    Models that are missing are fetched first. Does nothing to what runs already; restarts it if settings changed.
    """
    from onecard_stack.stack import Stack

    settings = load_settings()
    Stack(settings, console()).up()
    click.echo(stack_status.usage_hint(settings))


@main.command()
@report_errors
def run() -> None:
    """Start everything, print all logs, and stop it at SIGTERM or Ctrl-C: what a container runs."""
    from onecard_stack.stack import Stack

    settings = load_settings()
    stack = Stack(settings, console())
    stack.up()
    click.echo(stack_status.usage_hint(settings))
    try:
        stack_status.print_logs(settings.log_folder, [part.name for part in stack.processes], lines=40, follow=True)
    except KeyboardInterrupt:
        stack.stop_started("Everything has been stopped.")


@main.command()
@report_errors
def down() -> None:
    """Stop everything that `up` started, also what is left of a start that went wrong."""
    home = load_home(guess=True)
    checks.owned_by_user(home.onecard_home)
    if stopping.stop(home.run_folder):
        click.echo("Stopped.")
    else:
        click.echo("Nothing was running.")
        stack_status.print_other_stacks(home.run_folder, console())


@main.command()
@report_errors
def status() -> None:
    """Show the state of every part. Exit code 0 only if all of them can work."""
    settings = load_settings()
    checks.owned_by_user(settings.onecard_home)
    if not stack_status.show_status(settings, console()):
        raise SystemExit(1)


@main.command()
@click.argument("part", required=False, type=click.Choice(PROCESS_NAMES))
@click.option("-f", "--follow", is_flag=True, help="Go on printing as lines come; Ctrl-C ends it.")
@click.option("-n", "--lines", default=40, show_default=True, help="How many lines to show of each log.")
@report_errors
def logs(part: str | None, follow: bool, lines: int) -> None:
    """Print the logs of PART, or of all parts."""
    stack_status.print_logs(
        load_home(guess=True).log_folder, [part] if part else list(PROCESS_NAMES), lines=lines, follow=follow
    )


@main.command()
@click.option("--stand-ins", is_flag=True, help="Do not try the hub: train the small stand-ins.")
@click.option("--verify", is_flag=True, help="Compare all files with their digests, also those found right before.")
@report_errors
def models(stand_ins: bool, verify: bool) -> None:
    """Fetch the models that the settings name; go on where an earlier try stopped, and replace what is damaged.

    Where the hub cannot be reached, small stand-ins of the same architectures are trained here, and kept.
    """
    settings: StackSettings = load_settings()
    fetching.ensure_models(settings, list(settings.models), click.echo, stand_ins=stand_ins, verify=verify)
    folders = checks.model_folders(settings)
    for folder in folders.values():
        path = folder.path.relative_to(Path.cwd()) if folder.path.is_relative_to(Path.cwd()) else folder.path
        click.echo(f"ready: {folder.name} in {path}")


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@report_errors
def keys(arguments: tuple[str, ...]) -> None:
    """Make, list and revoke keys of the gateway: `onecard keys new --name app1`; `onecard keys -h` shows more."""
    from gateway.keys.__main__ import main as run

    load_home()  # It takes .env into the environment.
    run(arguments, "onecard keys")


@main.command()
@click.option(
    "--gpu-gb",
    type=click.FloatRange(min=1),
    help="Size on the card's box.  [default: GPU_CARD_GB, else this machine's card, else 24]",
)
@click.option("--context", type=click.IntRange(min=64), help="Longest conversation.  [default: MAX_MODEL_LEN]")
@click.option("--int4", is_flag=True, help="INT4 weights: Qwen2.5-7B-Instruct-AWQ.")
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def plan(gpu_gb: float | None, context: int | None, int4: bool, as_json: bool) -> None:
    """Show who gets which part of a card, and what fits in it. Needs no GPU."""
    from onecard.gpu.plan import PlanDoesNotFit
    from onecard.gpu.plan_settings import UnknownModelSize
    from onecard_stack.commands import plan_report

    try:
        made = plan_report.plan_for(load_settings(), card_gb=gpu_gb, context_tokens=context, int4=int4)
    except (PlanDoesNotFit, UnknownModelSize) as refusal:
        raise SystemExit(f"onecard: {refusal}") from None
    if as_json:
        click.echo(plan_report.as_json(made))
    else:
        plan_report.print_plan(made, console())


@main.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@report_errors
def import_reviews(file: Path) -> None:
    """Store the reviews of FILE, a JSON object a line, through the gateway. Exit code 0 only if every line is one.

    Run it again after an interruption: what is stored already is passed over.
    """
    from onecard_stack.commands.review_import import run

    if run(file, load_settings(), console()).invalid:
        raise SystemExit(1)


@main.command()
@report_errors
def precompute() -> None:
    """Have the answers about popular restaurants and frequent searches made ready now; show how far that is."""
    from onecard_stack.commands.precompute import run

    run(load_settings(), click.echo)


@main.command()
@report_errors
def demo() -> None:
    """Show the stack at work on the sample reviews, through the gateway.

    Uses the stack that runs, as it is; starts one if there is none, and then stops that again.
    """
    from onecard_stack.commands.demo import run
    from onecard_stack.stack import Stack

    settings, screen = load_settings(), console()
    stack = Stack(settings, screen)
    started = False
    try:
        started = stack.up(keep=True)
        run(settings, screen)
    finally:
        if started:
            stack.stop_started("What was started for this demonstration has been stopped.")
