"""The pages of the repository point at what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """All Markdown of the repository, but for what tools leave in hidden folders."""
    tops = [top for top in ROOT.iterdir() if not top.name.startswith(".")]
    found = [page for top in tops if top.is_dir() for page in top.rglob("*.md") if "node_modules" not in page.parts]
    return sorted([*found, *ROOT.glob("*.md")])


def anchors(page: Path) -> set[str]:
    """What can stand behind `#` in a link to the page, as code hosts make it from headings."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    plain = (re.sub(r"\[(.+?)\]\(.+?\)", r"\1", heading).lower() for heading in _HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each link to a file or a heading of this repository finds it."""
    missing = []
    for link in _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            missing.append(link)
    assert not missing
