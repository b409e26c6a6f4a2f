"""The command `onecard`."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from rich.console import Console

from onecard import command_environment
from onecard_stack import file_owners
from onecard_stack.commands import stack_status
from onecard_stack.doctor import examine
from onecard_stack.doctor.findings import Refused, refusals, require
from onecard_stack.errors import StackError
from onecard_stack.models import fetching
from onecard_stack.settings import StackSettings, load_home, load_settings
from onecard_stack.supervision import presence, stopping

if TYPE_CHECKING:
    from onecard_stack.stack import Stack

F = TypeVar("F", bound=Callable[..., Any])

SERVICE_NAMES = ("gateway", "llm", "sentiment", "embedding", "review", "worker", "schedule")
PROCESS_NAMES = (*SERVICE_NAMES, "redis", "prometheus", "grafana")
EXIT_INTERRUPTED = 130


def console() -> Console:
    """Return a console on standard output that does not wrap lines when it is not a terminal."""
    return Console(soft_wrap=not sys.stdout.isatty())


def report_errors(command: F) -> F:
    """Decorate a command so that expected errors print one line instead of a traceback.

    Args:
        command: the function of a click command.

    Returns:
        The same command. Expected errors end it with exit code 1, Ctrl-C with 130.
    """

    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except (StackError, Refused, fetching.FetchError) as error:
            raise SystemExit(f"onecard: {error}") from None
        except OSError as error:
            raise SystemExit(f"onecard: {_os_error_message(error)}") from None
        except KeyboardInterrupt:
            with suppress(OSError):  # the terminal may be closed
                click.echo("Interrupted.", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run  # type: ignore[return-value]


def _os_error_message(error: OSError) -> str:
    """Describe an operating system error in one line. For a file of another user, say what to type."""
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
    # A closed terminal and a machine that shuts down need the same cleanup as Ctrl-C (which a background job ignores).
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


@main.command()
@report_errors
def up() -> None:
    """Start everything and leave it running.

    Models that are missing are fetched first. A running stack is left alone, or restarted if settings or code changed.
    """
    from onecard_stack.stack import Stack

    settings = load_settings()
    Stack(settings, console()).up()
    click.echo(stack_status.usage_hint(settings))


@main.command()
@click.option("--stay", is_flag=True, help="After 'onecard down', wait for 'onecard up' instead of ending. For a pod.")
@report_errors
def run(stay: bool) -> None:
    """Start everything, print all logs, and stop everything at SIGTERM or Ctrl-C. For containers.

    A stack that runs already is left as it is, also if it has other settings: 'up' is for changing them. When the stack
    has ended, as by 'down', this ends too, with exit code 1.
    """
    from onecard_stack.stack import Stack

    settings = load_settings()
    if stay:
        presence.wait_while_held(settings.run_folder, click.echo)
    stack = Stack(settings, console())
    started = stack.up(keep=True)
    try:
        if started:
            click.echo(stack_status.usage_hint(settings))
        else:
            click.echo("Onecard is up already, and is left as it is. These are its logs.")
        _follow_until_end(stack, stay)
    except KeyboardInterrupt:
        return
    finally:
        stack.stop_started("Everything has been stopped.")


def _follow_until_end(stack: "Stack", stay: bool) -> NoReturn:
    """Print all logs until the stack has ended, or was interrupted."""
    seen = presence.Presence(stack.supervisor)
    run_folder, log_folder = stack.settings.run_folder, stack.settings.log_folder

    def is_over() -> bool:
        # 'onecard up' takes the start lock before it removes the sign, so a start that follows is seen in this order.
        return not (stay and presence.is_held(run_folder)) and seen.is_gone(time.monotonic())

    names = [process.name for process in stack.processes]
    stack_status.print_logs(log_folder, names, lines=40, follow=True, is_over=is_over)
    raise StackError("The stack has ended.")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@report_errors
def doctor(as_json: bool) -> None:
    """Check this machine, its GPU and the models, and say what to do. Exit code 0 only if the stack would start."""
    from onecard_stack.commands import doctor

    findings = doctor.run(load_settings())
    if as_json:
        click.echo(doctor.as_json(findings))
    else:
        doctor.print_findings(findings, console())
    if refusals(findings):
        raise SystemExit(1)


@main.command()
@report_errors
def down() -> None:
    """Stop everything that `up` started, a start that is under way, and what a failed one has left running."""
    home = load_home(guess=True)
    require([examine.owners(home)])
    presence.hold(home.run_folder)
    ended_start = stopping.end_start(home.run_folder)
    if stopping.stop(home.run_folder) or ended_start:
        click.echo("Stopped.")
    else:
        click.echo("Nothing was running.")
        stack_status.print_other_stacks(home.run_folder, console())


@main.command()
@report_errors
def status() -> None:
    """Show the state of every process. Exit code 0 only if all are ready."""
    settings = load_settings()
    require([examine.owners(settings)])
    if not stack_status.show_status(settings, console()):
        raise SystemExit(1)


@main.command()
@click.argument("part", required=False, type=click.Choice(PROCESS_NAMES))
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines; Ctrl-C ends it.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=40, show_default=True, help="Lines of each log.")
@report_errors
def logs(part: str | None, follow: bool, lines: int) -> None:
    """Print the logs of one process (PART), or of all."""
    stack_status.print_logs(
        load_home(guess=True).log_folder, [part] if part else list(PROCESS_NAMES), lines=lines, follow=follow
    )


@main.command()
@click.option("--stand-ins", is_flag=True, help="Do not try the hub; train the small stand-ins.")
@click.option("--verify", is_flag=True, help="Compare all files with their digests, even those checked before.")
@report_errors
def models(stand_ins: bool, verify: bool) -> None:
    """Fetch the models that the settings name. Keeps files that are here whole and replaces damaged ones.

    If the hub cannot be reached, small stand-ins are made here and kept.
    """
    settings: StackSettings = load_settings()
    fetching.ensure_models(settings, list(settings.models), click.echo, stand_ins=stand_ins, verify=verify)
    folders = examine.require_models(settings)
    for folder in folders.values():
        path = folder.path.relative_to(Path.cwd()) if folder.path.is_relative_to(Path.cwd()) else folder.path
        click.echo(f"ready: {folder.name} in {path}")


@main.command("build-engine")
@click.argument("kinds", nargs=-1, type=click.Choice(["sentiment", "embedding"]))
@click.option("--engine", type=click.Choice(["openvino", "onnx", "tensorrt"]), default="openvino", show_default=True)
@click.option("--precision", type=click.Choice(["half", "int8", "both"]), default="both", show_default=True)
@click.option(
    "--texts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Texts to compare and calibrate with, one a line, or JSON lines.  [default: stored reviews, else generated]",
)
@report_errors
def build_engine(kinds: tuple[str, ...], engine: str, precision: str, texts: Path | None) -> None:
    """Build a faster engine for the encoders (KINDS; both by default), and keep it if it agrees with torch.

    It serves from the next start of an encoder on, as ENCODER_ENGINE and ENCODER_PRECISION allow.
    """
    from onecard_stack.commands import engine_builder

    precisions: tuple[Any, ...] = ("half", "int8") if precision == "both" else (precision,)
    encoders: tuple[Any, ...] = kinds or ("sentiment", "embedding")
    chosen: Any = engine
    engine_builder.build(load_settings(), encoders, chosen, precisions, texts, click.echo)


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@report_errors
def keys(arguments: tuple[str, ...]) -> None:
    """Create, list and revoke API keys: `onecard keys new --name app1`. `onecard keys -h` shows more."""
    from gateway.keys.__main__ import main as run

    load_home()  # This loads .env into the environment.
    run(arguments, "onecard keys")


@main.command()
@click.option(
    "--gpu-gb",
    type=click.FloatRange(min=1),
    help="Advertised size of the GPU.  [default: GPU_CARD_GB, else this machine's GPU, else 24]",
)
@click.option(
    "--context", type=click.IntRange(min=64), help="Longest conversation in tokens.  [default: MAX_MODEL_LEN]"
)
@click.option("--int4", is_flag=True, help="INT4 weights: Qwen2.5-7B-Instruct-AWQ.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(gpu_gb: float | None, context: int | None, int4: bool, as_json: bool) -> None:
    """Show how GPU memory is divided between the models, and what fits. Needs no GPU."""
    from onecard.gpu.plan import PlanDoesNotFit
    from onecard.gpu.plan_settings import UnknownModelSize
    from onecard_stack.commands import plan_report

    try:
        report = plan_report.plan_for(load_settings(), gpu_gb=gpu_gb, context_tokens=context, int4=int4)
    except (PlanDoesNotFit, UnknownModelSize) as error:
        raise SystemExit(f"onecard: {error}") from None
    if as_json:
        click.echo(plan_report.as_json(report))
    else:
        plan_report.print_plan(report, console())


@main.command("import", epilog="Run it again after an interruption: stored reviews are skipped.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@report_errors
def import_reviews(file: Path) -> None:
    """Store the reviews of FILE, one JSON object per line, through the gateway. Exit code 0 only if all are reviews."""
    from onecard_stack.commands.review_import import run

    if run(file, load_settings(), console()).invalid:
        raise SystemExit(1)


@main.command()
@report_errors
def precompute() -> None:
    """Compute responses for popular restaurants and frequent searches now, and show the progress."""
    from onecard_stack.commands.precompute import run

    run(load_settings(), click.echo)


@main.command()
@report_errors
def demo() -> None:
    """Show the stack at work on the sample reviews, through the gateway.

    Uses the running stack as it is. If there is none, starts one and stops it afterwards.
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
