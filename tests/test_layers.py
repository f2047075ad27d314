"""The package is built in layers: each module imports from its own layer and those before it, never in a circle."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import trio_dgram

LAYERS: Final = {
    "values": ["_values.*"],
    "codecs": ["_codecs.*"],
    "kernel": ["_kernel.*"],
    "socket": ["_socket.*"],
    "nursery": ["_nursery"],
    "shared by services": ["_services.*"],
    "services": ["_peers.*", "_dtls.*", "dtls", "_quic.*", "quic", "_workers.*", "workers"],
    "public names": ["__init__", "lowlevel"],
    "simulation: values": ["sim._values.*"],
    "simulation: trace": ["sim._trace.*"],
    "simulation: kernel": ["sim._kernel.*"],
    "simulation: namespaces": ["sim._namespaces.*"],
    "simulation: path": ["sim._path.*", "sim.presets", "sim.strategies"],
    "simulation: network": ["sim._network.*"],
    "simulation: run": ["sim._run.*"],
    "simulation: exploration": ["sim._explore.*", "sim.__init__"],
    "edges": ["pytest_plugin", "_plugin.*", "_commands.*", "__main__"],
}
# The layers before this one wait for nothing.
FIRST_THAT_KNOWS_TRIO: Final = "socket"
LONGEST_MODULE: Final = 500

ORDER: Final = list(LAYERS)
PACKAGE: Final = Path(trio_dgram.__file__).parent
MODULES: Final = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
LAYER_OF: Final = {
    module: layer
    for layer, patterns in LAYERS.items()
    for pattern in patterns
    for module in sorted(MODULES)
    if fnmatchcase(module, pattern)
}


@functools.cache
def imported_names(module: str) -> list[str]:
    """Return the full name of everything that a module imports, with a leading dot if it is of this package."""
    names: list[str] = []
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            enclosing = module.split(".")[: -node.level or None] if node.level else []
            start = ["", *enclosing] if node.level else []
            origin = ".".join([*start, *filter(None, [node.module])])
            names += [f"{origin}.{alias.name}" for alias in node.names]
    return names


def imported_modules(module: str) -> Iterator[str]:
    """Yield the modules of this package that one of them imports."""
    for name in imported_names(module):
        if name.startswith((".", "trio_dgram.")):
            inside = name.removeprefix("trio_dgram").removeprefix(".")
            origin = inside.rpartition(".")[0]
            yield inside if inside in MODULES else origin if origin in MODULES else "__init__"


def test_every_module_has_a_layer() -> None:
    assert sorted(LAYER_OF) == sorted(MODULES)


def test_no_module_imports_from_a_later_layer() -> None:
    assert [
        f"{module} ({layer}) imports {other} ({LAYER_OF[other]})"
        for module, layer in LAYER_OF.items()
        for other in imported_modules(module)
        if ORDER.index(LAYER_OF[other]) > ORDER.index(layer)
    ] == []


def test_services_do_not_import_each_other() -> None:
    services = {
        module: module.partition(".")[0].lstrip("_") for module, layer in LAYER_OF.items() if layer == "services"
    }
    assert [
        f"{module} imports {other}"
        for module, service in services.items()
        for other in imported_modules(module)
        if services.get(other, service) != service
    ] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({module: set(imported_modules(module)) for module in MODULES}).prepare()


def test_the_layers_below_the_socket_do_not_import_trio() -> None:
    below = ORDER[: ORDER.index(FIRST_THAT_KNOWS_TRIO)]
    assert [
        f"{module} imports {name}"
        for layer in below
        for module, its_layer in LAYER_OF.items()
        if its_layer == layer
        for name in imported_names(module)
        if name.partition(".")[0] == "trio"
    ] == []


def test_nothing_private_of_trio_is_imported() -> None:
    assert [
        f"{module} imports {name}"
        for module in MODULES
        for name in imported_names(module)
        if name.startswith("trio.") and "._" in name
    ] == []


def test_capabilities_are_looked_up_where_they_can_be_replaced() -> None:
    assert [module for module in MODULES if "._kernel.system_socket.capabilities" in imported_names(module)] == []


def test_no_module_exceeds_500_lines() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > LONGEST_MODULE} == {}
