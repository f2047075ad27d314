"""``llms.txt``: the pages of the site as one Markdown file, in the order of the table of contents."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

INCLUDED = re.compile(r"```{literalinclude} (\S+)\n(?::.*\n)*```")
INVISIBLE = re.compile(r"<!--.*?-->\n*", re.DOTALL)


def include(path: Path) -> str:
    """Return a program as a block of Markdown."""
    return f"```python\n{path.read_text(encoding='utf-8')}```"


def write_llms(app: Sphinx, failure: Exception | None) -> None:
    """Write ``llms.txt`` beside the HTML pages. The reference is left out: its text is in the docstrings."""
    if failure is not None or app.builder.name != "html":
        return
    pages: list[str] = []
    pending = [app.config.root_doc]
    while pending:
        page = pending.pop(0)
        source = Path(app.env.doc2path(page))
        if not page.startswith("reference/"):
            text = INVISIBLE.sub("", source.read_text(encoding="utf-8")).strip()
            pages.append(INCLUDED.sub(lambda found: include(source.parent / found[1]), text))  # noqa: B023
        pending = [*app.env.toctree_includes.get(page, []), *pending]
    Path(app.outdir, "llms.txt").write_text("\n\n---\n\n".join(pages) + "\n", encoding="utf-8")
