"""What the package shows: its public names, all of them, under its own name."""

from __future__ import annotations

import inspect
from types import FunctionType, ModuleType
from typing import Any, Final

import pytest

import trio_dgram
from trio_dgram import sim

# Aliases of other types are what Python makes of them, without a name or a docstring of their own; the modules are
# looked at for themselves.
OTHERS: Final = {"Event", "SocketType", "presets", "strategies"}
DOCUMENTED: Final = [(package, name) for package in (trio_dgram, sim) for name in package.__all__ if name not in OTHERS]
CLASSES: Final = [(package, name) for package, name in DOCUMENTED if inspect.isclass(getattr(package, name))]


def is_own_module(package: ModuleType, name: str, value: object) -> bool:
    return isinstance(value, ModuleType) and value.__name__ == f"{package.__name__}.{name}"


@pytest.mark.parametrize("package", [trio_dgram, sim], ids=lambda package: package.__name__)
def test_the_public_names_are_listed_in_order_and_without_exception(package: ModuleType) -> None:
    listed = set(package.__all__)
    shown = {
        name
        for name, value in vars(package).items()
        # pytest adds something to the packages of plugins.
        if not name.startswith(("_", "@")) and not is_own_module(package, name, value)
    } - {"annotations", "TYPE_CHECKING", "Any"}
    assert package.__all__ == sorted(listed)
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
