"""Random walks over the states of several sockets, against the model in ``support/socket_model.py``."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

import pytest

from .support.families import Family
from .support.socket_walk import KINDS, SOCKETS, SocketWalk
from .support.walks import Step, check_walks, each_number_of_walks

# How often each step is taken, and what draws its arguments.
_STEPS: Final[dict[str, tuple[int, Callable[[Random], tuple[Any, ...]]]]] = {
    "replace": (3, lambda _: ()),
    "bind_by_name": (2, lambda _: ()),
    "bind_to_used_port": (1, lambda random: (random.randrange(SOCKETS),)),
    "connect": (8, lambda random: (random.randrange(SOCKETS),)),
    "connect_by_name": (2, lambda random: (random.randrange(SOCKETS),)),
    "answer_bind": (2, lambda _: ()),
    "answer_connect": (2, lambda _: ()),
    "cancel_bind": (1, lambda _: ()),
    "cancel_connect": (1, lambda _: ()),
    "cancel_receive": (2, lambda _: ()),
    "cancel_send": (1, lambda _: ()),
    "disconnect": (3, lambda _: ()),
    "send": (10, lambda random: (random.choice([None, 0, 1, 2]), random.random() < 0.5)),
    "send_nowait": (6, lambda random: (random.choice([None, 0, 1, 2]), random.random() < 0.5)),
    "send_many": (6, lambda random: tuple(random.randrange(SOCKETS) for _ in range(random.randrange(6)))),
    "receive": (5, lambda _: ()),
    "receive_many": (4, lambda random: (random.choice([1, 2, 3, 1024]),)),
    "receive_nowait": (5, lambda _: ()),
    "read_everything": (2, lambda _: ()),
    "open_channel": (6, lambda random: (random.randrange(len(KINDS)),)),
    "read_channels": (3, lambda _: ()),
    "close_channel": (4, lambda random: (random.randrange(4),)),
    "ref": (1, lambda _: ()),
    "unref": (1, lambda _: ()),
    "close": (1, lambda _: ()),
    "aclose": (1, lambda _: ()),
}
_AWAITED: Final = (
    "bind",
    "bind_by_name",
    "connect",
    "connect_by_name",
    "send",
    "send_many",
    "receive",
    "receive_many",
    "aclose",
)


def draw_steps(random: Random, *, loopback: str) -> list[Step]:
    """Return the steps of one walk."""
    steps = _STEPS | {"bind": (10, lambda random: random.choice([(), (loopback,), (loopback,)]))}
    names, weights = list(steps), [weight for weight, _ in steps.values()]
    drawn: list[Step] = []
    for name in random.choices(names, weights, k=random.randrange(20, 120)):
        step = (name, random.randrange(SOCKETS), *steps[name][1](random))
        cancelled = name in _AWAITED and random.random() < 0.1
        drawn.append(("in_cancelled_scope", *step) if cancelled else step)
    return drawn


@pytest.mark.parametrize("transport", ["kernel", "simulation"])
@each_number_of_walks
def test_sockets_follow_the_model_of_their_states(udp: Family, transport: str, seeds: range) -> None:
    check_walks(SocketWalk, lambda random: draw_steps(random, loopback=udp.loopback), seeds, udp, transport)
