"""Examples of Hypothesis: the one that a test fails with, and runs of a test with a given one alone.

An example is the sequence of its draws, encoded as for ``hypothesis.reproduce_failure``.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from .._values.test_runs import Tape, current_test_run


def is_under_hypothesis(item: pytest.Item) -> bool:
    """Return whether Hypothesis runs a test."""
    return bool(getattr(getattr(item, "obj", None), "is_hypothesis_test", False))


def current_example() -> Any:
    """Return the draws of the example that runs now; None outside of Hypothesis."""
    control = sys.modules.get("hypothesis.control")
    if control is None or not control.currently_in_test_context():
        return None
    return control.current_build_context().data


def last_example(item: pytest.Item) -> str:
    """Return the example of a test that has opened a network last; empty for none, or one that cannot be run alone."""
    draws = current_test_run().example if hasattr(getattr(item, "obj", None), "hypothesis") else None
    # Hypothesis has no public name for them, so another release may not have this one.
    choices = getattr(draws, "choices", ())
    if not choices:
        return ""
    from hypothesis.core import encode_failure  # noqa: PLC0415 -- loaded where it is used

    return encode_failure(choices).decode()


def is_encoded(example: str) -> bool:
    """Return whether a text is an example that Hypothesis has encoded; True where it is not installed."""
    try:
        from hypothesis.core import decode_failure  # noqa: PLC0415 -- loaded where it is used
        from hypothesis.errors import InvalidArgument  # noqa: PLC0415
    except ImportError:  # pragma: no cover -- the tests have it
        return True
    try:
        decode_failure(example.encode())
    except InvalidArgument:
        return False
    return True


@contextmanager
def only_example(item: pytest.Item, tape: Tape | None) -> Generator[None]:
    """Run a test with the example of its tape alone in the ``with`` block, if it has one.

    The test passes if it does not fail with the example: that is an error for Hypothesis alone.
    """
    function: Any = getattr(item, "obj", None)
    if tape is None or not tape.example or not hasattr(function, "hypothesis"):
        yield
        return
    from hypothesis import __version__, reproduce_failure  # noqa: PLC0415 -- loaded where it is used
    from hypothesis.errors import DeadlineExceeded, DidNotReproduce  # noqa: PLC0415

    # The attribute of a method is one of its function.
    function = getattr(function, "__func__", function)
    reproduce_failure(__version__, tape.example.encode())(function)
    try:
        with suppress(DidNotReproduce, DeadlineExceeded):
            yield
    finally:
        # reproduce_failure has no public inverse.
        function._hypothesis_internal_use_reproduce_failure = None  # noqa: SLF001 -- see above
