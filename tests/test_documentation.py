"""The documentation site has a place for everything: names, pages, figures, and links between its files."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

import trio_dgram
from trio_dgram import dtls, lowlevel, quic, sim, workers

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs"
PAGES: Final = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
DIRECTIVE: Final = re.compile(r"^\.\. (?P<kind>currentmodule|auto\w+):: (?P<name>\S+)$", re.MULTILINE)
LINK: Final = re.compile(r"\]\((?!https?:)(?P<file>[^)#]+)(?:#(?P<heading>[^)]+))?\)")
TOCTREE: Final = re.compile(r"^```{toctree}\n(?P<entries>.*?)^```", re.DOTALL | re.MULTILINE)


def documented_names() -> Counter[str]:
    """Return how often the pages of the reference document each name."""
    names: Counter[str] = Counter()
    for page in (DOCS / "reference").glob("*.md"):
        module = ""
        for directive in DIRECTIVE.finditer(page.read_text(encoding="utf-8")):
            if directive["kind"] == "currentmodule":
                module = directive["name"]
            elif directive["kind"] == "automodule":
                names[directive["name"]] += 1
            else:
                names[f"{module}.{directive['name']}"] += 1
    return names


def headings(page: Path) -> set[str]:
    """Return the anchors of a page."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def toctree_entries(page: Path) -> list[Path]:
    trees = TOCTREE.finditer(page.read_text(encoding="utf-8"))
    lines = [line for tree in trees for line in tree["entries"].splitlines()]
    return [page.parent / f"{line}.md" for line in lines if line and not line.startswith(":")]


def test_the_reference_documents_every_public_name_once() -> None:
    modules: list[ModuleType] = [trio_dgram, dtls, lowlevel, quic, sim, workers]
    public = Counter(f"{module.__name__}.{name}" for module in modules for name in module.__all__)
    assert documented_names() == public


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = [entry for page in PAGES for entry in toctree_entries(page)]
    assert sorted([*listed, DOCS / "index.md"]) == PAGES


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_files_lead_somewhere(page: Path) -> None:
    for link in LINK.finditer(page.read_text(encoding="utf-8")):
        target = page.parent / link["file"]
        assert target.exists(), link[0]
        assert link["heading"] is None or link["heading"] in headings(target), link[0]


def test_the_readme_is_short_and_begins_with_what_the_package_is() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 250
    assert "UDP" in lines[2]


def test_the_picture_of_the_performance_shows_the_committed_figures() -> None:
    script = runpy.run_path(str(DOCS / "pictures" / "performance.py"))
    picture = script["draw"](script["FIGURES"].read_text(encoding="utf-8"))
    assert picture == (DOCS / "pictures" / "performance.svg").read_text(encoding="utf-8")
    shown = re.findall(r">([\d,]+)</text>", picture)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [figure for figure in shown if figure not in readme] == []


def test_inventories_are_written_in_the_format_of_sphinx(tmp_path: Path) -> None:
    script = runpy.run_path(str(DOCS / "inventories" / "__init__.py"))
    for name in script["INVENTORIES"]:
        entries = script["read_names"](name)
        assert entries == sorted(set(entries))
        written = script["write_inventory"](name, tmp_path).read_bytes()
        assert written.startswith(b"# Sphinx inventory version 2\n")
