"""The arguments of a supervisor, checked before anything is opened or started."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias, cast

import attrs

from .._values.addresses import Address
from .._values.arguments import check_bool, check_choice, check_integer, check_number, describe_value

Steer: TypeAlias = Literal["hash", "quic"] | tuple[int, int]
"""How the kernel selects the worker of a datagram."""

MOST_PROCESSES: Final = 1024
_LARGEST_OFFSET: Final = 65506
_LONGEST_NAME: Final = 255
_STEERABLE: Final = 256
"""The number of workers that one byte distinguishes."""


@attrs.frozen
class Backoff:
    """The pauses before a worker that ended is started again.

    Attributes:
      initial (float): the first pause, in seconds. Default: 0.1.
      factor (float): what each further pause is multiplied by. Default: 2.
      maximum (float): the longest pause, in seconds. Default: 30.
      healthy_after (float): after how many seconds without an end the pauses begin anew. Default: 10.
    """

    initial: float = attrs.field(default=0.1)
    factor: float = attrs.field(default=2, kw_only=True)
    maximum: float = attrs.field(default=30, kw_only=True)
    healthy_after: float = attrs.field(default=10, kw_only=True)

    def __attrs_post_init__(self) -> None:
        check_number("initial", self.initial, 0)
        check_number("factor", self.factor, 1)
        check_number("maximum", self.maximum, 0)
        check_number("healthy_after", self.healthy_after, 0)


def next_pause(restart: Backoff, pause: float | None) -> float:
    """Return the pause that follows ``pause``, None for the first one."""
    return min(restart.initial if pause is None else pause * restart.factor, restart.maximum)


@attrs.frozen(kw_only=True)
class Settings:
    """The checked arguments of ``supervise``."""

    command: tuple[str, ...]
    program: str
    """The path of the program."""
    listen: tuple[Address, ...]
    processes: int
    name: str
    receive_buffer_size: int | None
    steer: Steer
    ready: Literal["bound", "start"]
    gro: bool
    restart: Backoff
    start_timeout: float
    drain_timeout: float


def check_settings(command: object, listen: object, options: dict[str, Any]) -> Settings:
    """Return the settings, or raise what is wrong with an argument.

    Raises:
      TypeError, ValueError: if an argument is wrong.
      FileNotFoundError: if there is no such program.
    """
    words = _check_strings("command", command)
    if not words or not words[0]:
        raise ValueError("command must name a program, not be empty")
    processes = options["processes"]
    settings = {
        **options,
        "command": words,
        "listen": tuple(map(_parse, _check_strings("listen", listen))),
        "processes": _available() if processes is None else check_integer("processes", processes, 1, MOST_PROCESSES),
        "name": _check_name(options["name"]),
        "steer": _check_steer(options["steer"]),
        "ready": check_choice("ready", options["ready"], ("bound", "start")),
        "gro": check_bool("gro", options["gro"]),
        "start_timeout": check_number("start_timeout", options["start_timeout"], 0, infinite=True),
        "drain_timeout": check_number("drain_timeout", options["drain_timeout"], 0, infinite=True),
    }
    if options["receive_buffer_size"] is not None:
        check_integer("receive_buffer_size", options["receive_buffer_size"], 1, 2**31 - 1)
    if not isinstance(options["restart"], Backoff):
        raise TypeError(f"restart must be a Backoff, not {describe_value(options['restart'])}")
    if settings["steer"] != "hash" and settings["processes"] > _STEERABLE:
        raise ValueError(f"processes must be from 1 to {_STEERABLE} to be steered by a byte, not {processes}")
    program = shutil.which(words[0])
    if program is None:
        raise FileNotFoundError(errno.ENOENT, "the program is not found", words[0])
    return Settings(program=program, **settings)


def _check_strings(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence of strings, not {describe_value(value)}")
    items = tuple(cast("Sequence[str]", value))
    for item in items:
        if not isinstance(cast("object", item), str):
            raise TypeError(f"{name} must contain only strings, not {describe_value(item)}")
    return items


def _parse(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError:
        raise ValueError(f"listen must contain 'host:port' or '[host]:port', not {text!r}") from None


def _available() -> int:
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def _check_name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"name must be a string, not {describe_value(value)}")
    if not (value.isascii() and value.isprintable() and ":" not in value and 1 <= len(value) <= _LONGEST_NAME):
        raise ValueError(f"name must be 1 to {_LONGEST_NAME} printable ASCII characters without a colon, not {value!r}")
    return value


def _check_steer(value: object) -> Steer:
    if isinstance(value, tuple):
        if len(value) != 2:
            raise ValueError(f"steer must be 'hash', 'quic' or (offset, mask), not {value!r}")
        offset, mask = value
        return check_integer("the offset of steer", offset, 0, _LARGEST_OFFSET), check_integer(
            "the mask of steer", mask, 1, 255
        )
    return cast("Steer", check_choice("steer", value, ("hash", "quic")))
