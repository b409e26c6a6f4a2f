"""`.env.example` and the settings classes say the same."""

import re
from importlib import import_module
from inspect import getmembers, isclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings
from rich.console import Console

from onecard_stack.processes.process_table import HostResources, processes
from onecard_stack.settings import StackSettings
from onecard_stack.stack import Stack
from onecard_stack.supervision import fingerprint
from onecard_stack.supervision.supervisor import CONFIG_FILE, Supervisor

ROOT = Path(__file__).parents[2]

READ_BY_LIBRARIES = {
    "HF_HOME": "huggingface_hub keeps the token of 'hf auth login' there",
    "OMP_NUM_THREADS": "torch takes its number of threads from it",
}


IN_COMPOSE_FILES = re.compile(r"(?<!\$)\$\{([A-Z_]+)")


def only_in_compose() -> set[str]:
    """Variables that only the compose files read."""
    texts = [path.read_text() for path in ROOT.glob("compose*.yaml")]
    return {name for text in texts for name in IN_COMPOSE_FILES.findall(text)} - set(read())


def settings_classes() -> list[type[BaseSettings]]:
    """The settings classes in every folder's `settings.py`."""
    modules = sorted(f"{path.parent.name}.settings" for path in ROOT.glob("*/*/settings.py"))
    members = [member for name in modules for _, member in getmembers(import_module(name), isclass)]
    return [kind for kind in members if issubclass(kind, BaseSettings) and kind is not BaseSettings]


def listed() -> dict[str, tuple[str, str]]:
    """Name → (comment, default) in `.env.example`."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    found: dict[str, tuple[str, str]] = {}
    for before, line in zip(["", *lines], lines, strict=False):
        if match := re.fullmatch(r"#([A-Z][A-Z0-9_]*)=(.*)", line):
            assert match[1] not in found, f"{match[1]} is listed twice"
            found[match[1]] = (before, match[2])
    return found


def read() -> dict[str, Any]:
    """Name → default of every variable that some settings class reads."""
    return {name.upper(): field.default for kind in settings_classes() for name, field in kind.model_fields.items()}


def test_every_variable_read_is_listed_and_every_listed_one_is_read() -> None:
    """No setting is hidden, and none is advertised that nobody reads."""
    assert len(settings_classes()) >= 6
    assert only_in_compose() == {"LLM_MEMORY"}
    assert set(listed()) == set(read()) | set(READ_BY_LIBRARIES) | only_in_compose()


def test_each_variable_has_a_comment_of_its_own() -> None:
    """The line before a variable says what it is for."""
    without = [name for name, (comment, _) in listed().items() if not re.match(r"# \w", comment)]
    assert without == []


@pytest.mark.parametrize("name", sorted(read()))
def test_the_default_shown_is_the_default_taken(name: str) -> None:
    """What `.env.example` shows is what one gets without it."""
    default = read()[name]
    shown = listed()[name][1]
    if default is PydanticUndefined:
        assert shown, "a computed default is shown by example"
    elif default is None:
        assert shown == ""
    elif isinstance(default, tuple):
        assert shown.strip('"') == ",".join(default)
    elif isinstance(default, bool):
        assert shown == str(default).lower()
    elif isinstance(default, float | int):
        assert float(shown) == default
    else:
        assert shown == str(default)


def test_what_restarts_a_running_stack() -> None:
    """A variable of a part does; one that only the command reads does not."""
    assert fingerprint.settings_fingerprint({"BATCH_TEXTS": "3"}) != fingerprint.settings_fingerprint({})
    assert fingerprint.settings_fingerprint({"api_key": "3"}) == fingerprint.settings_fingerprint({"API_KEY": "3"})
    assert fingerprint.settings_fingerprint({"api_key": "3"}) != fingerprint.settings_fingerprint({})
    for name in ("START_SECONDS", "HF_ENDPOINT", "HF_TOKEN"):
        assert fingerprint.settings_fingerprint({name: "3"}) == fingerprint.settings_fingerprint({})


def test_other_code_restarts_a_running_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a service imports counts, wherever it lies; what Python compiles from it does not."""
    monkeypatch.setenv("ONECARD_HOME", str(tmp_path / "home"))
    package = tmp_path / "gateway"
    (package / "__pycache__").mkdir(parents=True)
    (package / "words.txt").write_text("one")
    monkeypatch.setattr(fingerprint, "package_folders", lambda: [package])
    supervisor = Supervisor(tmp_path / "home" / "run")

    def is_up_to_date() -> bool:
        stack = Stack(StackSettings(), Console(file=StringIO()))
        config = {CONFIG_FILE: stack._rendered_files()[CONFIG_FILE]}
        found = supervisor.has_files(config)
        supervisor.run_folder.mkdir(parents=True, exist_ok=True)
        supervisor.config.write_text(config[CONFIG_FILE])
        return found

    assert not is_up_to_date()
    assert is_up_to_date()
    (package / "__pycache__" / "words.pyc").touch()
    assert is_up_to_date()
    (package / "words.txt").write_text("two")
    assert not is_up_to_date()
    (package / "new.py").touch()
    assert not is_up_to_date()


def test_the_code_is_that_of_all_services() -> None:
    """Each package that a process of the stack runs, and what they share."""
    commands = [process.argv[2].partition(".")[0] for process in processes(StackSettings(), HostResources(1))]
    assert {"onecard", "onecard_stack", *commands} == set(fingerprint.PACKAGES)
    assert [folder.name for folder in fingerprint.package_folders()] == list(fingerprint.PACKAGES)


CUDA = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME", "CUDA_PATH", "CC", "VLLM_USE_FLASHINFER_SAMPLER")


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", *CUDA])
def test_what_the_doctor_advises_restarts_a_running_stack(name: str) -> None:
    """Libraries inside the processes read it; CUDA tells an empty list of GPUs from none."""
    found = {fingerprint.settings_fingerprint(one) for one in ({}, {name: ""}, {name: "1"}, {name: "2"})}
    assert len(found) == 4


def test_a_shell_can_read_it() -> None:
    """What has blanks is in quotes: Docker, dotenv and a shell then take it alike."""
    assert [name for name, (_, shown) in listed().items() if " " in shown and not shown.startswith('"')] == []


def test_example_sets_nothing_by_itself() -> None:
    """A copy of the file changes no default: a port set elsewhere still moves the address that follows it."""
    active = [line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
    assert active == []
