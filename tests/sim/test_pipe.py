from __future__ import annotations

import random
from typing import Any, Unpack

import pytest

from trio_dgram.sim._path.conditions import Conditions, Knobs, change
from trio_dgram.sim._path.delays import SHAPES, Distribution
from trio_dgram.sim._path.fragments import cut_sizes, sent_sizes
from trio_dgram.sim._path.losses import DropList, GilbertElliott
from trio_dgram.sim._path.pipe import (
    ARRIVES,
    FRAGMENT_LOST,
    LOST,
    PARTITION,
    QUEUE_FULL,
    TOO_BIG,
    TOO_BIG_SILENT,
    Outcome,
    Pipe,
)
from trio_dgram.sim._values.choices import Choices
from trio_dgram.sim._values.random import Seed, stream
from trio_dgram.sim._values.records import Packet

from .packets import HEADERS_4, HEADERS_6, make_packet

FULL = 1500 - HEADERS_4


def make_pipe(**knobs: Unpack[Knobs]) -> Pipe:
    knobs.setdefault("delay", 1.0)
    return Pipe("a>b", change(knobs), Choices(7))


def send(pipe: Pipe, count: int, spacing: float = 0.0, size: int = 100) -> list[Outcome]:
    packets = (make_packet(number, size) for number in range(count))
    return [outcome for packet in packets for outcome in pipe.enter(packet.number * spacing, packet)]


def reasons(outcomes: list[Outcome]) -> list[str]:
    return [reason for _, _, reason in outcomes]


def arrivals(outcomes: list[Outcome]) -> dict[int, float]:
    return {packet.number: at for at, packet, reason in outcomes if not reason}


# Delay and loss.


def test_a_packet_arrives_after_the_delay() -> None:
    packet = make_packet()
    assert Pipe("a>b", Conditions(), Choices(7)).enter(5.0, packet) == [(5.001, packet, ARRIVES)]
    assert make_pipe().enter(5.0, packet) == [(6.0, packet, ARRIVES)]


def test_a_share_of_packets_is_lost() -> None:
    assert send(make_pipe(loss=DropList({2})), 2, 0.5) == [(1.0, make_any(), ARRIVES), (0.5, make_any(), LOST)]


def make_any() -> Any:
    return _Any()


class _Any:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Packet)

    __hash__ = None  # type: ignore[assignment]


def test_a_shorter_delay_overtakes_only_out_of_order() -> None:
    for keep_order, second in ((True, 1.0), (False, 0.1)):
        pipe = make_pipe(keep_order=keep_order)
        first = pipe.enter(0.0, make_packet(1))
        pipe.set(delay=0.1)
        assert arrivals(first + pipe.enter(0.0, make_packet(2))) == {1: 1.0, 2: second}


def test_jitter_keeps_the_order_by_default() -> None:
    kept = list(arrivals(send(make_pipe(jitter=0.5), 100, 0.01)).values())
    free = list(arrivals(send(make_pipe(jitter=0.5, keep_order=False), 100, 0.01)).values())
    assert kept == sorted(kept)
    assert free != sorted(free)
    assert max(free) == max(kept)


@pytest.mark.parametrize("distribution", [*SHAPES, [-3, 3], lambda source: source.random() - 0.5])
def test_no_delay_is_negative(distribution: Distribution) -> None:
    pipe = make_pipe(delay=0.0, jitter=0.1, distribution=distribution, keep_order=False)
    times = arrivals(send(pipe, 200)).values()
    assert min(times) >= 0.0
    assert max(times) > 0.0


# The rate and its queue.


def test_packets_are_sent_one_after_the_other() -> None:
    outcomes = send(make_pipe(rate=8 * 1000, delay=0.5), 3, size=1000 - HEADERS_4)
    assert arrivals(outcomes) == {0: 1.5, 1: 2.5, 2: 3.5}


def test_an_idle_link_sends_at_once() -> None:
    outcomes = send(make_pipe(rate=8 * 1000, delay=0), 3, spacing=5.0, size=1000 - HEADERS_4)
    assert arrivals(outcomes) == {0: 1.0, 1: 6.0, 2: 11.0}


def test_headers_of_ipv6_are_longer() -> None:
    packet = make_packet(size=1000 - HEADERS_6, ipv6=True)
    assert arrivals(make_pipe(rate=8 * 1000, delay=0).enter(0.0, packet)) == {1: 1.0}


def test_the_queue_holds_its_size_in_bytes() -> None:
    # One is being sent, two are queued.
    outcomes = send(make_pipe(rate=8 * 1000, queue=2000), 5, size=1000 - HEADERS_4)
    assert reasons(outcomes) == [ARRIVES] * 3 + [QUEUE_FULL] * 2
    assert outcomes[-1][0] == 0.0


def test_the_queue_has_space_again_once_a_packet_is_sent() -> None:
    pipe = make_pipe(rate=8 * 1000, queue=1000)
    at = [0.0, 0.0, 0.5, 1.0, 1.5, 2.0]
    outcomes = [pipe.enter(now, make_packet(size=1000 - HEADERS_4))[0] for now in at]
    assert reasons(outcomes) == [ARRIVES, ARRIVES, QUEUE_FULL, ARRIVES, QUEUE_FULL, ARRIVES]


def test_without_a_queue_only_an_idle_link_sends() -> None:
    outcomes = send(make_pipe(rate=8 * 1000, queue=0), 4, 0.5, size=1000 - HEADERS_4)
    assert reasons(outcomes) == [ARRIVES, QUEUE_FULL, ARRIVES, QUEUE_FULL]


def test_a_queue_in_seconds() -> None:
    outcomes = send(make_pipe(rate=8 * 1000, queue=0, queue_delay=2.0), 5, size=1000 - HEADERS_4)
    assert reasons(outcomes) == [ARRIVES] * 3 + [QUEUE_FULL] * 2


def test_a_lost_packet_has_used_the_bandwidth() -> None:
    outcomes = send(make_pipe(rate=8 * 1000, loss=DropList({1}), delay=0.5), 2, size=1000 - HEADERS_4)
    assert outcomes == [(1.0, make_any(), LOST), (2.5, make_any(), ARRIVES)]


def test_a_new_rate_applies_to_later_packets() -> None:
    pipe = make_pipe(rate=8 * 1000, delay=0)
    first = pipe.enter(0.0, make_packet(1, 1000 - HEADERS_4))
    pipe.set(rate=8 * 10_000)
    second = pipe.enter(0.0, make_packet(2, 1000 - HEADERS_4))
    pipe.set(rate=None, keep_order=False)
    third = pipe.enter(0.0, make_packet(3, 1000 - HEADERS_4))
    assert arrivals(first + second + third) == {1: 1.0, 2: 1.1, 3: 0.0}


# Duplicates, reordering, corruption.


def test_duplicates_have_the_same_number_and_are_sent_themselves() -> None:
    outcomes = make_pipe(duplicate=1, rate=8 * 1000, delay=0).enter(0.0, make_packet(5, 1000 - HEADERS_4))
    assert [(at, packet.number, reason) for at, packet, reason in outcomes] == [(1.0, 5, ARRIVES), (2.0, 5, ARRIVES)]


def test_a_share_is_duplicated() -> None:
    assert 20 < len(send(make_pipe(duplicate=0.3), 100)) - 100 < 40


def test_copies_meet_conditions_of_their_own() -> None:
    pipe = make_pipe(duplicate=1, loss=DropList({2}))
    assert reasons(send(pipe, 2)) == [ARRIVES, ARRIVES, LOST, LOST]
    pipe.set(loss=0)
    assert reasons(send(pipe, 2)) == [ARRIVES] * 4
    pipe.set(duplicate=0)
    assert reasons(send(pipe, 2)) == [ARRIVES] * 2


def test_every_gap_th_overtakes() -> None:
    outcomes = send(make_pipe(reorder=1, gap=3), 7)
    assert list(arrivals(outcomes).values()) == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]


def test_a_share_overtakes_even_if_order_is_kept() -> None:
    delays = list(arrivals(send(make_pipe(reorder=0.3), 100)).values())
    assert set(delays) == {0.0, 1.0}
    assert 20 < delays.count(0.0) < 40


def test_corrupt_packets_arrive_broken() -> None:
    packet = make_packet()
    ((at, arriving, reason),) = make_pipe(corrupt=1).enter(0.0, packet)
    assert (at, arriving.broken, arriving.payload, reason) == (1.0, True, packet.payload, ARRIVES)
    assert not packet.broken


def test_undetected_corruption_flips_one_bit() -> None:
    flipped = []
    for _, arriving, _ in send(make_pipe(corrupt_undetected=1), 50, size=2):
        assert len(arriving.payload) == 2
        assert not arriving.broken
        flipped.append(int.from_bytes(arriving.payload))
    assert {bits.bit_count() for bits in flipped} == {1}
    assert len(set(flipped)) > 8


def test_a_packet_without_payload_has_no_bit_to_flip() -> None:
    assert send(make_pipe(corrupt_undetected=1), 1, size=0)[0][1].payload == b""


# Fragmentation.


@pytest.mark.parametrize(
    ("payload", "ipv6", "sender", "mtu", "sizes"),
    [
        (FULL, False, 1500, 1500, [1500]),
        (FULL + 1, False, 1500, 1500, [1500, 21]),
        (FULL, False, 1500, 1492, [1492, 28]),
        (FULL, False, 1500, 1000, [996, 524]),  # 976 bytes are a multiple of 8, 980 are not
        (1500 - HEADERS_6, True, 1500, 1500, [1500]),
        (1500 - HEADERS_6 + 1, True, 1500, 1500, [1496, 61]),  # 1448 bytes each and 48 of headers
        (1500 - HEADERS_6, True, 1500, 1280, [1280, 276]),
        (3000 - HEADERS_4, False, 1500, 1000, [996, 524, 996, 524, 40]),
        (2000, True, 1500, 1280, [1280, 264, 608]),
        (100, False, 68, 1500, [68, 68, 32]),
        (100, False, 20, 1500, [28] * 13 + [24]),
    ],
)
def test_fragments(payload: int, ipv6: bool, sender: int, mtu: int, sizes: list[int]) -> None:
    packet = make_packet(size=payload, ipv6=ipv6, fragment_size=sender)
    assert cut_sizes(packet, sent_sizes(packet), mtu) == sizes


@pytest.mark.parametrize("ipv6", [False, True])
def test_fragments_carry_everything(ipv6: bool) -> None:
    source = random.Random(1)
    header = HEADERS_6 if ipv6 else HEADERS_4 - 8
    for _ in range(300):
        size, sender, mtu = source.randrange(3000), source.randrange(576, 1501), source.randrange(576, 1501)
        packet = make_packet(size=size, ipv6=ipv6, fragment_size=sender)
        sizes = cut_sizes(packet, sent_sizes(packet), mtu)
        assert max(sizes) <= min(sender, mtu)
        if len(sizes) > 1:
            assert sum(fragment - header for fragment in sizes) == size + 8
            assert sum((fragment - header) % 8 > 0 for fragment in sizes) <= 1


def test_a_datagram_arrives_with_its_last_fragment() -> None:
    pipe = make_pipe(rate=8 * 1500, delay=0.5)
    outcomes = pipe.enter(0.0, make_packet(size=3 * 1480 - 8))
    assert [(at, reason) for at, _, reason in outcomes] == [(3.5, ARRIVES)]


def test_any_of_its_fragments_may_be_the_last() -> None:
    delays = iter([0.5, 3.0, 0.1])
    pipe = make_pipe(delay=0, distribution=lambda _source: next(delays))
    assert arrivals(pipe.enter(0.0, make_packet(size=3 * 1480 - 8))) == {1: 3.0}


def test_a_lost_fragment_loses_the_datagram_and_the_others_are_sent() -> None:
    pipe = make_pipe(rate=8 * 1500, loss=DropList({1}))
    first = pipe.enter(0.0, make_packet(1, size=3 * 1480 - 8))
    assert first == [(3.0, make_any(), FRAGMENT_LOST)]
    assert arrivals(pipe.enter(0.0, make_packet(2, size=FULL))) == {2: 5.0}


def test_a_fragment_dropped_by_a_full_queue_loses_the_datagram() -> None:
    pipe = make_pipe(rate=8 * 1500, queue=1500)
    assert pipe.enter(0.0, make_packet(size=3 * 1480 - 8)) == [(2.0, make_any(), QUEUE_FULL)]


def test_the_path_fragments_by_default() -> None:
    for packet in (make_packet(size=1400), make_packet(size=1400, ipv6=True, dont_fragment=True)):
        ((at, _, reason),) = make_pipe(mtu=1280, rate=8000, delay=0).enter(0.0, packet)
        assert reason == ARRIVES
        assert at == pytest.approx(sum(cut_sizes(packet, [packet.ip_size], 1280)) / 1000)


def test_a_datagram_that_must_not_be_fragmented_is_reported() -> None:
    pipe = make_pipe(mtu=1280, too_big="icmp")
    assert reasons(pipe.enter(0.0, make_packet(size=1400))) == [ARRIVES]
    assert pipe.enter(0.5, make_packet(size=1400, dont_fragment=True)) == [(0.5, make_any(), TOO_BIG)]
    assert pipe.enter(0.5, make_packet(size=1400, ipv6=True)) == [(0.5, make_any(), TOO_BIG)]
    assert reasons(pipe.enter(0.5, make_packet(size=1280 - HEADERS_6, ipv6=True))) == [ARRIVES]
    assert reasons(pipe.enter(0.5, make_packet(size=1280, ipv6=True, fragment_size=1280))) == [ARRIVES]


def test_a_black_hole_drops_silently() -> None:
    pipe = make_pipe(mtu=1280, too_big="blackhole")
    assert pipe.enter(0.5, make_packet(size=1400)) == [(0.5, make_any(), TOO_BIG_SILENT)]
    assert reasons(pipe.enter(0.5, make_packet(size=1280 - HEADERS_4))) == [ARRIVES]


# Faults.


def test_a_cut_pipe_drops_until_every_cut_is_mended() -> None:
    pipe = make_pipe()
    under_way = pipe.enter(0.0, make_packet())
    pipe.cut()
    pipe.cut()
    assert reasons(under_way) == [ARRIVES]
    assert pipe.enter(0.5, make_packet()) == [(0.5, make_any(), PARTITION)]
    pipe.mend()
    assert reasons(pipe.enter(0.5, make_packet())) == [PARTITION]
    pipe.mend()
    assert reasons(pipe.enter(0.5, make_packet())) == [ARRIVES]
    with pytest.raises(RuntimeError, match="the pipe a>b is not cut"):
        pipe.mend()


def test_changes_do_not_mend_a_pipe() -> None:
    pipe = make_pipe()
    pipe.cut()
    pipe.set(delay=0.1)
    assert reasons(pipe.enter(0.0, make_packet())) == [PARTITION]


def test_held_packets_enter_later_in_their_order() -> None:
    pipe = make_pipe()
    pipe.hold()
    assert send(pipe, 3, 0.1) == []
    pipe.set(delay=0.5)
    assert arrivals(pipe.release(2.0)) == {0: 2.5, 1: 2.5, 2: 2.5}
    assert reasons(pipe.enter(3.0, make_packet())) == [ARRIVES]


def test_two_holds_need_two_releases() -> None:
    pipe = make_pipe()
    pipe.hold()
    pipe.hold()
    assert send(pipe, 1, 0.1) == pipe.release(1.0) == []
    assert len(pipe.release(2.0)) == 1
    with pytest.raises(RuntimeError, match=r"the pipe a>b is not held"):
        pipe.release(3.0)


def test_held_packets_may_meet_a_cut() -> None:
    pipe = make_pipe()
    pipe.hold()
    pipe.cut()
    assert pipe.enter(0.0, make_packet()) == []
    assert reasons(pipe.release(1.0)) == [PARTITION]


# Changes and randomness.


def test_conditions_are_shown_and_checked() -> None:
    pipe = make_pipe(loss=0.1)
    pipe.set(delay=0.2)
    assert pipe.conditions == Conditions(delay=0.2, loss=0.1)
    with pytest.raises(TypeError, match="there is no knob 'lag'"):
        pipe.set(lag=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="delay must be at least 0"):
        pipe.set(delay=-1)
    assert pipe.conditions == Conditions(delay=0.2, loss=0.1)


def test_a_model_that_is_set_restarts_and_others_continue() -> None:
    pipe = make_pipe(loss=DropList({2}), reorder=1, gap=2)
    assert reasons(send(pipe, 1)) == [ARRIVES]
    pipe.set(delay=0.5)
    assert reasons(send(pipe, 2)) == [LOST, ARRIVES]
    pipe.set(loss=DropList({2}))
    assert reasons(send(pipe, 2)) == [ARRIVES, LOST]


def test_outcomes_derive_from_the_seed_and_the_name() -> None:
    def draw(name: str, network_seed: Seed, **knobs: Unpack[Knobs]) -> list[str]:
        return reasons(send(Pipe(name, change({"loss": 0.5, **knobs}), Choices(network_seed)), 50))

    drawn = draw("a>b", 7)
    assert drawn == draw("a>b", 7)
    assert drawn != draw("b>a", 7)
    assert drawn != draw("a>b", 8)
    assert drawn == draw("a>b", 8, seed=7)


def test_setting_a_seed_restarts_everything() -> None:
    pipe = make_pipe(loss=0.5, duplicate=0.5)
    first = reasons(send(pipe, 50))
    assert reasons(send(pipe, 50)) != first
    pipe.set(seed=7)
    assert reasons(send(pipe, 50)) == first
    pipe.set(seed=None)
    assert reasons(send(pipe, 50)) == first


def reasons_of_originals(**knobs: Unpack[Knobs]) -> list[str]:
    reason_of: dict[int, str] = {}
    for _, packet, reason in send(make_pipe(**knobs), 200, 0.1):
        reason_of.setdefault(packet.number, reason)
    return list(reason_of.values())


@pytest.mark.parametrize(
    "other",
    [
        {"jitter": 0.5, "distribution": "normal"},
        {"duplicate": 0.5},
        {"reorder": 0.3, "gap": 2},
        {"corrupt": 0.5},
        {"corrupt_undetected": 0.5},
        {"rate": 1e4, "queue": 400},
        {"keep_order": False},
    ],
)
def test_no_knob_shifts_the_draws_of_another(other: Knobs) -> None:
    for loss in (0.2, GilbertElliott(0.1, 0.4)):
        alone = reasons_of_originals(loss=loss)
        knobs: Knobs = {**other, "loss": loss}
        together = reasons_of_originals(**knobs)
        assert all(reason in (expected, QUEUE_FULL) for reason, expected in zip(together, alone, strict=True))
        assert together.count(LOST) > 10


def test_loss_does_not_shift_the_jitter() -> None:
    jittered = arrivals(send(make_pipe(jitter=0.05), 200, 0.2))
    with_loss = arrivals(send(make_pipe(jitter=0.05, loss=0.2), 200, 0.2))
    assert with_loss.items() < jittered.items()


def test_random_sources_are_made_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(*key: object) -> random.Random:
        made.append(key)
        return stream(*key)

    monkeypatch.setattr("trio_dgram.sim._values.choices.stream", make)
    pipe = make_pipe(rate=1e6, mtu=1280)
    send(pipe, 3)
    assert made == []
    pipe.set(loss=0.5, duplicate=0.1)
    pipe.set(loss=0.6)
    assert made == [(7, "a>b", "originals", "loss"), (7, "a>b", "originals", "duplicate")]
