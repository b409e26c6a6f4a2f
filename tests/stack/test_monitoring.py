"""Prometheus and Grafana inside a pod, as they are configured: neither is started here."""

import re
from pathlib import Path

import pytest
import yaml

from onecard.settings import load_from
from onecard_stack.processes import monitoring
from onecard_stack.processes.process_table import HostResources, processes
from onecard_stack.settings import StackSettings

ROOT = Path(__file__).parents[2]
POD = {"HOST": "0.0.0.0", "API_KEY": "a-key-of-a-test-0123", "ONECARD_HOME": "/var/lib/onecard"}
ON = {**POD, "MONITORING": "true", "GRAFANA_PASSWORD": "hush#hush;hush"}


def test_nothing_of_it_is_there_unless_it_is_asked_for() -> None:
    """No process, no port, no file."""
    settings = load_from(StackSettings, POD)
    assert monitoring.processes(settings) == []
    assert monitoring.files(settings) == {}


@pytest.mark.parametrize("password", ["", "short", 'twelve "quotes"'])
def test_grafana_is_not_open_without_a_password(password: str) -> None:
    """Its port is public in a pod; `create` refuses such settings, too."""
    with pytest.raises(ValueError, match="GRAFANA_PASSWORD"):
        load_from(StackSettings, {**ON, "GRAFANA_PASSWORD": password})


def test_no_secret_is_on_a_command_line() -> None:
    """They are in files of the run folder, as the password of Redis is."""
    settings = load_from(StackSettings, ON)
    files = monitoring.files(settings)
    assert files[monitoring.KEY_FILE] == POD["API_KEY"]
    assert 'admin_password = """hush#hush;hush"""' in files[monitoring.GRAFANA_CONFIG]
    shown = str(monitoring.processes(settings))
    assert "hush" not in shown
    assert POD["API_KEY"] not in shown


def test_every_part_is_scraped_where_it_listens() -> None:
    """Prometheus' targets in a pod are the ports of the process table, and the worker's metrics."""
    settings = load_from(StackSettings, ON)
    table = {part.name: part for part in processes(settings, HostResources(1))}
    config = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "pod.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    ports = {name: part.port for name, part in table.items() if part.port}
    ports |= {"worker": int(table["worker"].environment["PRECOMPUTE_METRICS_PORT"]), "prometheus": 9090}
    assert targets == {name: [f"127.0.0.1:{port}"] for name, port in ports.items()}
    key_files = {job["authorization"]["credentials_file"] for job in config["scrape_configs"] if "authorization" in job}
    assert key_files == {str(settings.run_folder / monitoring.KEY_FILE)}


def test_the_image_has_what_is_started() -> None:
    """The binaries and the folder are copied to where the processes look for them."""
    text = (ROOT / "runpod" / "Dockerfile").read_text()
    copied = set(re.findall(r"^COPY .*?(\S+)$", text, re.MULTILINE))
    assert {str(monitoring.PROMETHEUS), str(monitoring.GRAFANA_HOME), str(monitoring.FOLDER)} <= copied
    provider = yaml.safe_load((ROOT / "monitoring" / "grafana" / "pod" / "dashboards" / "onecard.yml").read_text())
    folder = Path(provider["providers"][0]["options"]["path"])
    assert (ROOT / "monitoring" / folder.relative_to(monitoring.FOLDER) / "onecard.json").exists()
