"""The public names: listed, documented, shown under the package's name, and imported when they are first used."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

import pytest

import trio_dgram
from trio_dgram import sim

# Aliases have neither a name nor a docstring of their own, and modules have their own tests.
OTHERS: Final = {"Event", "SocketType", "presets", "strategies"}
DOCUMENTED: Final = [(package, name) for package in (trio_dgram, sim) for name in package.__all__ if name not in OTHERS]
NAMES: Final[set[str]] = set(vars(trio_dgram)["__all__"])
SUBMODULES: Final = {
    module.name for module in pkgutil.iter_modules(trio_dgram.__path__) if not module.name.startswith("_")
} - {"pytest_plugin"}  # pytest loads it.
CLASSES: Final = [(package, name) for package, name in DOCUMENTED if inspect.isclass(getattr(package, name))]


def is_own_module(package: ModuleType, name: str, value: object) -> bool:
    return isinstance(value, ModuleType) and value.__name__ == f"{package.__name__}.{name}"


def modules_after(statement: str) -> set[str]:
    """Return the modules that a new interpreter has loaded after a statement."""
    program = f"import sys; {statement}; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", program]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def own_parts(modules: set[str]) -> set[str]:
    """Return the first part of each of these modules that is below ``trio_dgram``."""
    return {name.split(".")[1] for name in modules if name.startswith("trio_dgram.")}


@pytest.mark.parametrize("package", [trio_dgram, sim], ids=lambda package: package.__name__)
def test_the_public_names_are_listed_in_order_and_without_exception(package: ModuleType) -> None:
    listed = set(package.__all__)
    shown = {
        name
        for name, value in vars(package).items()
        # pytest adds something to the packages of plugins.
        if not name.startswith(("_", "@")) and not is_own_module(package, name, value)
    } - {"annotations", "TYPE_CHECKING", "Any"}
    assert list(package.__all__) == sorted(listed)
    assert listed - OTHERS == shown - OTHERS


@pytest.mark.parametrize(("package", "name"), DOCUMENTED, ids=lambda value: getattr(value, "__name__", value))
def test_a_public_name_is_the_packages_own(package: ModuleType, name: str) -> None:
    public = getattr(package, name)
    assert (public.__module__, public.__qualname__) == (package.__name__, name)


@pytest.mark.parametrize(("package", "name"), DOCUMENTED, ids=lambda value: getattr(value, "__name__", value))
def test_a_public_name_is_documented(package: ModuleType, name: str) -> None:
    public: Any = getattr(package, name)
    # What dataclass-like machinery makes up is a signature.
    assert public.__doc__ is not None
    assert not public.__doc__.startswith(f"{name}(")


@pytest.mark.parametrize(("package", "name"), CLASSES, ids=lambda value: getattr(value, "__name__", value))
def test_the_methods_and_properties_of_a_public_class_are_documented(package: ModuleType, name: str) -> None:
    members = vars(getattr(package, name))
    assert [
        member
        for member, value in members.items()
        if not member.startswith("_")
        and isinstance(value, FunctionType | property | classmethod | staticmethod)
        and not inspect.getdoc(value)
    ] == []


@pytest.mark.programs
def test_importing_the_package_imports_nothing_else() -> None:
    assert own_parts(modules_after("import trio_dgram")) == set()
    assert modules_after("import trio_dgram") - modules_after("import trio") == {"trio_dgram"}


@pytest.mark.programs
def test_a_socket_does_not_import_the_services() -> None:
    loaded = modules_after("from trio_dgram import open_nursery, open_socket")
    assert own_parts(loaded) - {"_values", "_codecs", "_kernel", "_socket", "_nursery"} == set()
    assert loaded & {"OpenSSL", "argparse", "hypothesis", "psutil", "pytest"} == set()


@pytest.mark.programs
def test_listeners_do_not_import_dtls_worker_processes_or_the_simulation() -> None:
    loaded = modules_after("from trio_dgram import open_listeners, serve")
    assert own_parts(loaded) & {"_commands", "_dtls", "_quic", "_workers", "dtls", "quic", "sim", "workers"} == set()


@pytest.mark.programs
@pytest.mark.parametrize("name", sorted(SUBMODULES))
def test_a_public_submodule_is_an_attribute_of_the_package(name: str) -> None:
    assert f"trio_dgram.{name}" in modules_after(f"import trio_dgram; trio_dgram.{name}")


def test_a_star_import_gets_every_public_name() -> None:
    namespace: dict[str, object] = {}
    exec("from trio_dgram import *", namespace)  # noqa: S102 -- only a module can contain the statement
    assert namespace.keys() - {"__builtins__"} == NAMES


def test_an_unused_name_is_listed_by_dir_too() -> None:
    assert set(dir(trio_dgram)) > NAMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'trio_dgram' has no attribute 'no_such_name'"):
        trio_dgram.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    stub = ast.parse(Path(trio_dgram.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    names = {alias.asname for node in ast.walk(stub) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == {*NAMES, *SUBMODULES}
