"""The limits of listeners: how their options are documented, separated from those of sockets, and checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import attrs

from .._socket.config import SocketOptions
from .._values.arguments import check_function, check_integer, check_names, check_number, describe_value

Validator: TypeAlias = Callable[[object, "attrs.Attribute[Any]", object], None]
"""Raises what is wrong with the value of a field."""


def document(options: type, *parts: type) -> None:
    """Add the documented options of ``parts``, which ``options`` inherits, to its docstring."""
    attributes = [inspect.cleandoc(str(part.__doc__)).partition("Attributes:\n")[2].rstrip() for part in parts]
    options.__doc__ = "\n".join([str(options.__doc__), "", "Attributes:", *attributes])


def split(kind: str, options: Mapping[str, object], all_options: type, limits: type) -> tuple[Any, SocketOptions]:
    """Return the options of ``options`` that ``limits`` names, and those of the sockets.

    Args:
      kind: what the options are called in messages.
      options: the keyword arguments of the program.
      all_options: the TypedDict that names every option.
      limits: the TypedDict that names the limits.

    Raises:
      TypeError: if an option is unknown.
    """
    check_names(kind, options, all_options.__annotations__)
    given = dict(options)
    named = {name: given.pop(name) for name in limits.__annotations__ if name in given}
    return named, cast("SocketOptions", given)


def count(highest: int) -> Validator:
    """Return a validator of integers from 1 to ``highest``."""

    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        check_integer(attribute.name, value, 1, highest)

    return check


def number(lowest: float) -> Validator:
    """Return a validator of numbers from ``lowest``."""

    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        check_number(attribute.name, value, lowest, infinite=True)

    return check


def timeout(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Check a time in seconds, None for no limit."""
    if value is not None:
        check_number(attribute.name, value, 0, infinite=True)


def networks(highest: int) -> Validator:
    """Return a validator of a number for an IPv4 network and one for an IPv6 network, each from 1 to ``highest``."""

    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, tuple) or len(cast("tuple[object, ...]", value)) != 2:
            raise TypeError(f"{attribute.name} must be a number for IPv4 and one for IPv6, not {describe_value(value)}")
        for each in cast("tuple[object, ...]", value):
            check_integer(attribute.name, each, 1, highest)

    return check


def check_filter(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Check a filter of new peers, None for none."""
    if value is not None:
        check_function(attribute.name, value, "a Datagram")
