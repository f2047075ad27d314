"""Well-known conditions, each for one direction, as in ``network.path(server, client, **sim.presets.DSL_DOWN)``.

Each names the source of its figures; conditions that the source does not give have the default. A preset with a change
is ``{**sim.presets.LTE, "loss": 0.01}``.
"""

from __future__ import annotations

from typing import Final

from ._path.conditions import Knobs
from ._path.losses import DropList, GilbertElliott

DSL_DOWN: Final[Knobs] = {"delay": 0.025, "rate": 1_500_000}
"""Towards the subscriber. WebPageTest's profile "DSL (1.5 Mbps/384 Kbps 50ms RTT)", the time halved
(``www/settings/connectivity.ini.sample`` of WPO-Foundation/webpagetest)."""

DSL_UP: Final[Knobs] = {"delay": 0.025, "rate": 384_000}
"""From the subscriber; the source is that of :data:`DSL_DOWN`."""

LTE: Final[Knobs] = {"delay": 0.035, "rate": 12_000_000}
"""Either direction. WebPageTest's profile "LTE (12 Mbps, 70ms RTT)", the time halved (see :data:`DSL_DOWN`)."""

GEO_SATELLITE: Final[Knobs] = {"delay": 0.279}
"""One hop over a geostationary satellite, for ground stations at the edge of its view (RFC 2488, 2), either direction.
The rate differs by operator: add yours."""

LOSSY_WIFI: Final[Knobs] = {
    "delay": 0.015,
    "jitter": 0.010,
    "loss": GilbertElliott(1 / 40, 1 / 2),
    "rate": 50_000_000,
    "queue": 100_000,
}
"""A weak signal: one packet in 20 is lost, two in a row on average. The preset ``wifi_lossy`` of the crate str0m-netem
0.2.0 (``NetemConfig`` and ``GilbertElliot``)."""

DATA_CENTRE: Final[Knobs] = {"delay": 0.000_125, "rate": 10_000_000_000}
"""Round trips of 250 microseconds without queues, halved, at 10 Gbit/s: Alizadeh and others, "Data Center TCP (DCTCP)",
SIGCOMM 2010, abstract and introduction."""

QUIC: Final[Knobs] = {"delay": 0.015, "rate": 10_000_000, "queue": 25 * 1500}
"""The link of most tests of the QUIC interop runner (``testcases.py`` of quic-interop/quic-interop-runner), including
its measurements of goodput and, with traffic of your own beside it, of cross traffic:
``simple-p2p --delay=15ms --bandwidth=10Mbps --queue=25`` of quic-interop/quic-network-simulator.
That queue holds 25 packets; here it holds the bytes of 25 full ones."""

QUIC_LONG_RTT: Final[Knobs] = {**QUIC, "delay": 0.750}
"""The test ``longrtt``: ``simple-p2p --delay=750ms``; the rest and the source are those of :data:`QUIC`."""

QUIC_BLACKHOLE: Final[Knobs] = {**QUIC, "loss": 1}
"""The test ``blackhole`` while nothing passes, which is for 2 s after 5 s of :data:`QUIC`:
``blackhole --on=5s --off=2s``."""

QUIC_HANDSHAKE_LOSS: Final[Knobs] = {**QUIC, "loss": 0.30}
"""The test ``handshakeloss``: ``drop-rate --rate_to_server=30 --rate_to_client=30``, percent."""

QUIC_TRANSFER_LOSS: Final[Knobs] = {**QUIC, "loss": 0.02}
"""The test ``transferloss``: ``drop-rate --rate_to_server=2 --rate_to_client=2``, percent."""

QUIC_HANDSHAKE_CORRUPTION: Final[Knobs] = {**QUIC, "corrupt_undetected": 0.30}
"""The test ``handshakecorruption``: ``corrupt-rate --rate_to_server=30 --rate_to_client=30``, percent. There a byte
near the beginning changes, undetected by the checksum; here it is a bit anywhere."""

QUIC_TRANSFER_CORRUPTION: Final[Knobs] = {**QUIC, "corrupt_undetected": 0.02}
"""The test ``transfercorruption``: ``corrupt-rate --rate_to_server=2 --rate_to_client=2``, percent; see
:data:`QUIC_HANDSHAKE_CORRUPTION`."""

QUIC_AMPLIFICATION_LIMIT: Final[Knobs] = {**QUIC, "loss": DropList({2, 3, 4, 5, 6, 7})}
"""The test ``amplificationlimit``, from the client to the server (back it is :data:`QUIC`):
``droplist --drops_to_server=2,3,4,5,6,7``."""
