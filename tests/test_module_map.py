"""The map of the modules in ``docs/contributing.md`` is the tree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import trio_dgram

PACKAGE: Final = Path(trio_dgram.__file__).parent
MAP: Final = Path(__file__).parents[1] / "docs" / "contributing.md"


def mapped() -> dict[str, list[str]]:
    """Return the modules that each section of the map names, by folder."""
    _, *sections = re.split(r"^### `trio_dgram/(.*?)/?`\n", MAP.read_text(encoding="utf-8"), flags=re.MULTILINE)
    folders, texts = sections[::2], sections[1::2]
    return {folder: sorted(re.findall(r"`(\w+\.py)`", text)) for folder, text in zip(folders, texts, strict=True)}


def tree() -> dict[str, list[str]]:
    folders: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        folder = path.parent.relative_to(PACKAGE).as_posix()
        folders.setdefault("" if folder == "." else folder, []).append(path.name)
    return folders


def test_the_map_names_every_module_once() -> None:
    assert mapped() == tree()


def test_every_module_that_the_text_mentions_exists() -> None:
    mentioned = set(re.findall(r"`(_\w+/\w+\.py)`", MAP.read_text(encoding="utf-8")))
    assert mentioned
    assert [name for name in sorted(mentioned) if not (PACKAGE / name).is_file()] == []


def test_every_test_that_the_text_mentions_exists() -> None:
    mentioned = set(re.findall(r"`(tests/\w+\.py)`", MAP.read_text(encoding="utf-8")))
    assert mentioned
    assert [name for name in sorted(mentioned) if not (MAP.parents[1] / name).is_file()] == []
