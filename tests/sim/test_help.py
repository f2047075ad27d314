"""``help()`` of the simulated network documents each argument."""

from __future__ import annotations

import inspect
import re
from types import FunctionType
from typing import Any, Final

import pytest

from trio_dgram import sim

FUNCTIONS: Final = {
    f"{name}.{member}" if inspect.isclass(owner) else name: function
    for name, owner in ((name, getattr(sim, name)) for name in sim.__all__)
    # A simulated socket has the interface of Trio's, which Trio documents.
    if owner is not sim.SimulatedSocket
    for member, function in (vars(owner).items() if inspect.isclass(owner) else [(name, owner)])
    if isinstance(function, FunctionType) and not member.startswith("_")
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_documents_each_of_its_parameters(name: str) -> None:
    function: Any = FUNCTIONS[name]
    documentation = inspect.getdoc(function) or ""
    parameters = [each for each in inspect.signature(function).parameters if each != "self" and each[0] != "_"]
    assert [
        each for each in parameters if not re.search(rf"^  \**{each}:|``{each}``", documentation, re.MULTILINE)
    ] == []
