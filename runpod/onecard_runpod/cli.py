"""The command `onecard-pod`."""

import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from onecard import command_environment
from onecard.settings import load
from onecard_runpod import pod_request, pod_variables
from onecard_runpod.client import Action, RunPodClient
from onecard_runpod.creation import Creation, create_volume, living
from onecard_runpod.errors import PodError
from onecard_runpod.gpu_offers import GpuOffer, candidates, gpu_offers
from onecard_runpod.settings import PodSettings
from onecard_stack.settings import StackSettings

SHOWN_GPU_GB = (24, 80)
"""Smallest and largest GPU memory that 'cost' shows, in GB."""


def load_settings() -> PodSettings:
    """Load the settings from the environment and, with lower precedence, from `.env` in the current directory."""
    command_environment.export(command_environment.read_dotenv(Path.cwd()))
    return load(PodSettings)


def resolve_pod(api: RunPodClient, settings: PodSettings, given: str | None) -> str:
    """Find the pod that a command is for.

    Args:
        api: RunPod's API.
        settings: its `pod_name` is used if no id is given.
        given: a pod's id, or None.

    Returns:
        The given id, else the id of the only pod with that name.

    Raises:
        PodError: there is no such pod, or several.
    """
    if given:
        return given
    found = [str(pod["id"]) for pod in living(api.pods(), settings.pod_name)]
    if len(found) != 1:
        name = settings.pod_name
        several = f"Several pods are named '{name}': {', '.join(found)}. Name the one that is meant."
        none = f"There is no pod named '{name}'. 'onecard-pod create' makes one, 'onecard-pod status' lists all."
        raise PodError(several if found else none)
    return found[0]


def print_table(table: Table) -> None:
    """Print a table, 160 characters wide if standard output is not a terminal."""
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def new_table(*headings: str) -> Table:
    """Make an empty table with these headings."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    return table


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="onecard-runpod", prog_name="onecard-pod")
def main() -> None:
    """Rents and runs one Onecard pod at RunPod.

    Settings are environment variables; `.env` in the current directory is read too, and the pod gets the variables
    that it sets for Onecard. The account's key is read from RUNPOD_API_KEY or from the file RUNPOD_API_KEY_FILE.
    POD is a pod's id; the default is the pod named POD_NAME.
    """
    command_environment.ensure_utf8()


@main.command()
@click.option("--dry-run", is_flag=True, help="Print the request without secrets; rent nothing.")
@click.option("--ssh", is_flag=True, help="Also open port 22 for the account's SSH keys.")
def create(dry_run: bool, ssh: bool) -> None:
    """Rent the cheapest available GPU of POD_GPUS, and start a pod on it."""
    settings = load_settings()
    dotenv = command_environment.read_dotenv(Path.cwd())
    own_key, marker = pod_variables.own_api_key(dotenv, os.environ), secrets.token_hex(8)
    api_key = own_key or secrets.token_urlsafe(32)
    chosen = pod_variables.choose(dotenv, os.environ, api_key=api_key, creation=marker)
    stack = pod_variables.check(chosen.values)
    if chosen.unknown:
        click.echo(f"These variables of .env are not Onecard's, and stay here: {', '.join(chosen.unknown)}", err=True)
    with RunPodClient(settings) as api:
        bodies = request_bodies(api, settings, chosen.values, stack, ssh=ssh)
        if dry_run:
            click.echo(json.dumps(pod_request.without_secrets(bodies[0][1]), indent=2, ensure_ascii=False))
            return
        if own_key is None:  # before anything is rented: whatever happens then, the key is known
            click.echo(f"API_KEY={api_key}\nThis is the pod's key, and is shown once. Keep it.\n")
        pod_id, offer = Creation(api, settings.pod_name, marker, lambda line: click.echo(line, err=True)).run(bodies)
    click.echo(created_message(pod_id, offer, chosen.values))


def request_bodies(
    api: RunPodClient, settings: PodSettings, variables: Mapping[str, str], stack: StackSettings, *, ssh: bool
) -> list[tuple[GpuOffer, Any]]:
    """Make a request body for each GPU that is in stock and that the models fit.

    Args:
        api: RunPod's API.
        settings: the pod's name, image, GPUs and storage.
        variables: those of the pod.
        stack: the stack's settings in the pod.
        ssh: whether to open port 22.

    Returns:
        GPUs, cheapest first, each with its body. There is at least one.

    Raises:
        PodError: there is none.
    """
    volume = api.volume(settings.pod_volume_id) if settings.pod_volume_id else None
    data_center = volume["dataCenter"] if volume else None
    offers = candidates(gpu_offers(api.gpu_catalog()), settings.pod_gpus, data_center)
    if not offers:
        place = f" in {data_center}, where the network volume is" if data_center else ""
        raise PodError(f"None of the cards in POD_GPUS is in stock{place}. Try later, or allow more cards.")
    reasons = {offer.gpu: pod_variables.does_not_fit(stack, offer.memory_gb) for offer in offers}
    for gpu, reason in reasons.items():
        if reason:
            click.echo(f"{gpu}: {reason}", err=True)
    fitting = [offer for offer in offers if not reasons[offer.gpu]]
    if not fitting:
        raise PodError("The models fit none of the cards that are in stock. Change what is named above.")
    size_gb = volume["size"] if volume else settings.pod_volume_gb
    if size_gb and (warning := pod_request.storage_warning(fitting[0], size_gb)):
        click.echo(warning, err=True)
    ports = {"ssh": ssh, "monitoring": stack.monitoring}
    return [
        (offer, pod_request.request_body(settings, offer, variables, data_center=data_center, **ports))
        for offer in fitting
    ]


def created_message(pod_id: str, offer: GpuOffer, environment: Mapping[str, str]) -> str:
    """Render the message about a new pod.

    Args:
        pod_id: its id.
        offer: its GPU.
        environment: variables of the pod.

    Returns:
        Text with its price and URLs.
    """
    idle_minutes = environment.get("IDLE_STOP_MINUTES")
    until = (
        f"until it has been idle for {idle_minutes} minutes"
        if idle_minutes
        else "until you stop it (IDLE_STOP_MINUTES is not set)"
    )
    return f"""Pod {pod_id}: {offer.gpu}, ${offer.usd_an_hour:.2f} an hour {until}.

  gateway      {pod_request.public_url(pod_id, pod_request.GATEWAY_PORT)}
  LLM service  {pod_request.public_url(pod_id, pod_request.LLM_PORT)}

  onecard-pod logs   # the first start downloads the models
  onecard-pod status · onecard-pod stop · onecard-pod cost
"""


@main.command()
@click.argument("data_center")
@click.option("--gb", default=100, show_default=True, type=click.IntRange(10, 4096), help="Size.")
def volume(data_center: str, gb: int) -> None:
    """Create a network volume in DATA_CENTER (see 'cost') for the models. It costs until it is deleted."""
    settings = load_settings()
    with RunPodClient(settings) as api:
        volume_id = create_volume(api, settings.pod_name, gb, data_center, lambda line: click.echo(line, err=True))
    click.echo(f"POD_VOLUME_ID={volume_id}\nWrite this line into .env; 'create' then uses the volume.")


@main.command()
def volumes() -> None:
    """Show all network volumes of the account. Each costs until 'delete-volume' deletes it."""
    with RunPodClient(load_settings()) as api:
        found = api.volumes()
    if not found:
        click.echo("There are no network volumes.")
        return
    table = new_table("volume", "name", "GB", "data center")
    for one in found:
        table.add_row(one["id"], one["name"], str(one["size"]), one["dataCenter"])
    print_table(table)


@main.command("delete-volume")
@click.argument("volume_id")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def delete_volume(volume_id: str, yes: bool) -> None:
    """Delete the network volume VOLUME_ID with the models and reviews that are on it."""
    with RunPodClient(load_settings()) as api:
        if not yes and not click.confirm(f"Delete volume {volume_id} with all models and reviews on it?"):
            raise PodError("Nothing was done.")
        api.delete_volume(volume_id)
    click.echo(f"Volume {volume_id} is no more.")


@main.command()
def status() -> None:
    """Show all pods of the account."""
    with RunPodClient(load_settings()) as api:
        pods = api.pods()
    if not pods:
        click.echo("There are no pods. 'onecard-pod create' makes one.")
        return
    table = new_table("pod", "name", "status", "card", "$/hour", "since", "gateway")
    for pod in pods:
        url = pod_request.public_url(pod["id"], pod_request.GATEWAY_PORT) if pod["status"] == "RUNNING" else ""
        gpu = (pod.get("gpu") or {}).get("id", "")
        table.add_row(pod["id"], pod["name"], pod["status"], gpu, _price(pod), pod.get("startedAt") or "", url)
    print_table(table)


def _price(pod: Mapping[str, Any]) -> str:
    """USD an hour. RunPod names none for a pod that does not run."""
    return f"{pod.get('cost') or 0:.2f}"


@main.command()
@click.argument("pod", required=False)
@click.option(
    "-n",
    "--lines",
    default=100,
    show_default=True,
    type=click.IntRange(0, 5000),
    help="How many past lines to print first.",
)
def logs(pod: str | None, lines: int) -> None:
    """Follow the log of POD; Ctrl-C ends it."""
    settings = load_settings()
    with RunPodClient(settings) as api:
        for line in api.log_lines(resolve_pod(api, settings, pod), lines):
            click.echo(line)


@main.command()
@click.argument("pod", required=False)
def stop(pod: str | None) -> None:
    """Stop POD. Its GPU is released; files on /workspace stay."""
    run_action(pod, "stop", "stops; its storage goes on costing. 'onecard-pod start' starts it again.")


@main.command()
@click.argument("pod", required=False)
def start(pod: str | None) -> None:
    """Start POD again. It needs a free GPU on the same host."""
    run_action(pod, "start", "starts. 'onecard-pod logs' shows how far it is.")


@main.command()
@click.argument("pod", required=False)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def terminate(pod: str | None, yes: bool) -> None:
    """Delete POD. A network volume stays; models and reviews on the pod's own host are lost."""
    run_action(pod, "terminate", "is no more.", ask=not yes)


def run_action(given: str | None, action: Action, done: str, *, ask: bool = False) -> None:
    """Find the pod, ask for confirmation if wanted, and perform an action on it.

    Args:
        given: a pod's id; None: the pod named `POD_NAME`.
        action: the action.
        done: end of the sentence that is printed afterwards.
        ask: whether to ask for confirmation.

    Raises:
        PodError: there is no such pod, the user does not confirm, or RunPod refuses.
    """
    settings = load_settings()
    with RunPodClient(settings) as api:
        pod_id = resolve_pod(api, settings, given)
        if ask and not click.confirm(f"End pod {pod_id} for good? {_what_is_lost(api.pod(pod_id))}"):
            raise PodError("Nothing was done.")
        api.pod_action(pod_id, action)
    click.echo(f"Pod {pod_id} {done}")


def _what_is_lost(pod: Mapping[str, Any]) -> str:
    network = (pod.get("mounts") or {}).get("network")
    if network:
        return "Its network volume stays."
    return "It has no network volume: its reviews are lost with it, unless you have a copy (docs/operations.md)."


@main.command()
def cost() -> None:
    """Show prices and stock of GPUs, and what the pods have cost in the last 30 days."""
    with RunPodClient(load_settings()) as api:
        catalog, pods = gpu_offers(api.gpu_catalog()), api.pods()
        spent = {pod["id"]: api.cost_usd(pod["id"]) for pod in pods}
    gpu_table = new_table("card", "GB", "$/hour", "stock", "data centers")
    for offer in catalog:
        if SHOWN_GPU_GB[0] <= offer.memory_gb <= SHOWN_GPU_GB[1]:
            figures = str(offer.memory_gb), f"{offer.usd_an_hour:.2f}"
            gpu_table.add_row(offer.gpu, *figures, offer.stock, ", ".join(offer.data_centers))
    print_table(gpu_table)
    if not pods:
        return
    pod_table = new_table("pod", "name", "status", "$/hour now", "$ in 30 days")
    for pod in pods:
        pod_table.add_row(pod["id"], pod["name"], pod["status"], _price(pod), f"{spent[pod['id']]:.2f}")
    click.echo()
    print_table(pod_table)
