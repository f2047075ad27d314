"""Classes without a public constructor: only the library creates their instances."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class NoPublicConstructor(ABCMeta):
    """The metaclass of classes that the program must not call, as Trio has it for its own.

    Such a class has an attribute ``_created_by`` that names what to call instead. The library uses :func:`create`.
    """

    def __call__(cls, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Raise ``TypeError``, naming what to call instead."""
        raise TypeError(f"{cls.__name__} has no public constructor: use {getattr(cls, '_created_by', 'its factory')}")


def create(cls: type[T], *args: Any) -> T:
    """Return a new instance of ``cls``, a class without a public constructor."""
    instance: T = type.__call__(cls, *args)
    return instance
