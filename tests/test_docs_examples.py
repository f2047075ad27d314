"""The examples in the README, the documentation and the docstrings run as they stand.

In Markdown those are the blocks fenced as ``python``. What a reader need not see stands in a comment, with
``<!-- invisible-code-block: python`` on the line above the code and ``-->`` on the one below. In docstrings they
are the literal blocks: those after ``::`` and an empty line. ``await``, ``async with`` and ``async for`` may stand
outside a function there; Trio runs them then, for ten seconds at most. The literal blocks of a docstring may be
sessions with ``>>>`` too. The examples of one document see each other's names, those of docstrings ``trio`` and
``trio_dgram`` besides.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Final

import pytest
import trio
from sybil import Document, Example, Region
from sybil.document import PythonDocStringDocument
from sybil.evaluators.python import pad
from sybil.parsers.abstract.lexers import BlockLexer
from sybil.parsers.markdown import CodeBlockParser
from sybil.parsers.rest import DocTestParser

import trio_dgram

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = Path(trio_dgram.__file__).parent

find_literal_blocks: Final = BlockLexer(
    re.compile(r"::\n\n(?=(?P<prefix> +)(?! |>>>))"), r"\n(?!{prefix}|[ ]*\n)|\s*\Z"
)


def run_example(example: Example) -> None:
    source = pad(example.parsed, example.line + example.parsed.line_offset)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(source, example.path, "exec", flags, dont_inherit=True)
    awaitable = eval(code, example.namespace)  # noqa: S307 -- the examples are our own
    if awaitable is not None:
        trio.run(run_in_time, awaitable)


async def run_in_time(awaitable: Awaitable[None]) -> None:
    with trio.fail_after(10):
        await awaitable


def literal_block_parser(document: Document) -> Iterable[Region]:
    for region in find_literal_blocks(document):
        region.parsed = region.lexemes["source"]
        region.evaluator = run_example
        yield region


def parse_markdown(path: Path) -> Document:
    return Document.parse(str(path), CodeBlockParser("python", run_example))


def parse_docstrings(path: Path) -> Document:
    document = PythonDocStringDocument.parse(str(path), literal_block_parser, DocTestParser())
    # They would define the module's names, which a copied example does not have.
    document.evaluators.clear()
    document.namespace.update(trio=trio, trio_dgram=trio_dgram)
    return document


COMPLETE: Final = [ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "tutorial.md"]
"""Each of their programs runs by itself, pasted into an empty file; those of other pages see each other's names."""

DOCUMENTS: Final = [
    *map(parse_markdown, sorted({*ROOT.glob("docs/**/*.md")} - {*COMPLETE})),
    *map(parse_docstrings, sorted(PACKAGE.rglob("*.py"))),
]


PROGRAM: Final = re.compile(
    r"^```python\n(?P<source>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE
)
"""A program, and its output if that is shown below it."""


@pytest.mark.parametrize(
    ("source", "output"),
    [
        pytest.param(program["source"], program["output"], id=f"{path.stem}-{number}")
        for path in COMPLETE
        for number, program in enumerate(PROGRAM.finditer(path.read_text(encoding="utf-8")))
    ],
)
def test_a_program_for_newcomers_runs_by_itself(
    source: str, output: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some write files.
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "program.py", "exec", dont_inherit=True), {"__name__": "__main__"})  # noqa: S102 -- our own
    assert output in {None, capsys.readouterr().out}


@pytest.mark.parametrize(
    "document",
    [pytest.param(document, id=Path(document.path).name) for document in DOCUMENTS if document.regions],
)
def test_examples_run(document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Some write files.
    monkeypatch.chdir(tmp_path)
    for example in document.examples():
        example.evaluate()


def test_an_example_may_await_outside_a_function(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nimport trio\n\nawait trio.sleep(0)\nslept = True\n```\n")
    document = parse_markdown(page)
    [example] = document.examples()
    example.evaluate()
    assert document.namespace["slept"]


def test_an_example_may_do_without_trio(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\ntwo = 1 + 1\n```\n")
    document = parse_markdown(page)
    [example] = document.examples()
    example.evaluate()
    assert document.namespace["two"] == 2


def test_a_failing_example_is_reported_with_its_line(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('def f():\n    """Do it::\n\n        x = 1\n        x / 0\n\n    That fails.\n    """\n')
    [example] = parse_docstrings(module).examples()
    with pytest.raises(ZeroDivisionError) as caught:
        example.evaluate()
    assert caught.traceback[-1].lineno == 5 - 1
