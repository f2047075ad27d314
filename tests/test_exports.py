"""What the package shows: its public names, all of them, under its own name."""

from __future__ import annotations

import inspect
from types import FunctionType, ModuleType
from typing import Any, Final

import pytest

import trio_dgram

# Aliases of other types are what Python makes of them, without a name or a docstring of their own.
ALIASES: Final = {"Event"}
DOCUMENTED: Final = [name for name in trio_dgram.__all__ if name not in ALIASES]
CLASSES: Final = [name for name in DOCUMENTED if inspect.isclass(getattr(trio_dgram, name))]


def is_own_module(name: str, value: object) -> bool:
    return isinstance(value, ModuleType) and value.__name__ == f"trio_dgram.{name}"


def test_the_public_names_are_listed_in_order_and_without_exception() -> None:
    shown = [
        name
        for name, value in vars(trio_dgram).items()
        if not name.startswith("_") and not is_own_module(name, value) and name != "annotations"
    ]
    assert trio_dgram.__all__ == sorted(shown)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_public_name_is_the_packages_own(name: str) -> None:
    public = getattr(trio_dgram, name)
    assert (public.__module__, public.__qualname__) == ("trio_dgram", name)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_public_name_is_documented(name: str) -> None:
    public: Any = getattr(trio_dgram, name)
    # What dataclass-like machinery makes up is a signature.
    assert public.__doc__ is not None
    assert not public.__doc__.startswith(f"{name}(")


@pytest.mark.parametrize("name", CLASSES)
def test_the_methods_and_properties_of_a_public_class_are_documented(name: str) -> None:
    members = vars(getattr(trio_dgram, name))
    assert [
        member
        for member, value in members.items()
        if not member.startswith("_")
        and isinstance(value, FunctionType | property | classmethod | staticmethod)
        and not inspect.getdoc(value)
    ] == []
