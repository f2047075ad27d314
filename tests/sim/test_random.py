from __future__ import annotations

import enum
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import trio_dgram
from trio_dgram.sim._values.random import stream

PROGRAM: Final = """
import hashlib
from trio_dgram import Address
from trio_dgram.sim._path.conditions import Conditions
from trio_dgram.sim._path.losses import GilbertElliott
from trio_dgram.sim._path.pipe import Pipe
from trio_dgram.sim._values.choices import Choices
from trio_dgram.sim._values.random import stream
from trio_dgram.sim._values.records import Packet

digest = hashlib.blake2b(digest_size=8)
digest.update(repr([stream(7, "a>b", None, b"x", (1.5, "y")).random() for _ in range(5)]).encode())
for distribution in ("uniform", "normal", "pareto", "exponential", [1, -1]):
    conditions = Conditions(
        delay=0.05, jitter=0.01, distribution=distribution, loss=GilbertElliott(0.1, 0.5), duplicate=0.2, reorder=0.1,
        corrupt=0.1, corrupt_undetected=0.1, rate=1e6, queue=3000, mtu=600, keep_order=False,
    )
    pipe = Pipe("a>b", conditions, Choices(7))
    for number in range(300):
        packet = Packet(number, Address("10.0.0.1", 1), Address("10.0.0.2", 2), bytes(10 * number), "a", 0.0)
        digest.update(repr(pipe.enter(number / 100, packet)).encode())
print(digest.hexdigest())
"""
# On every machine and with every Python.
DIGEST: Final = "66fee69c71450a06"


class Number(enum.Enum):
    ONE = 1


@pytest.mark.programs
@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_same_in_every_process(hash_seed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(trio_dgram.__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == DIGEST


def test_equal_keys_have_equal_sources() -> None:
    assert stream(7, "a", "loss").random() == stream(7, "a", "loss").random()


def test_different_keys_have_different_sources() -> None:
    keys: list[tuple[object, ...]] = [
        (),
        (1, 2),
        (12,),
        ("1", "2"),
        ("12",),
        (b"12",),
        ("1", 2),
        (1.0, 2),
        (True, 2),
        (None, 2),
        ("None", 2),
        ((1, 2),),
        ((1,), 2),
        ("",),
        ("", ""),
        ("\udc80",),
    ]
    drawn = [stream(*key).random() for key in keys]
    assert all(one != other for one, other in itertools.combinations(drawn, 2))


def test_a_value_that_differs_between_processes_is_no_key() -> None:
    for wrong in (object(), [1], Number.ONE):
        with pytest.raises(TypeError, match="key must be of integers, floats, strings, bytes, None and tuples, not"):
            stream(7, wrong)
