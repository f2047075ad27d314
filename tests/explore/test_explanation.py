"""The explanation of a failure: the text for the terminal, and the report in HTML."""

from __future__ import annotations

import json
import logging
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from trio_dgram import Address, open_socket, sim
from trio_dgram.sim._explore.explanation import Explanation, explain
from trio_dgram.sim._explore.logs import collecting_log
from trio_dgram.sim._explore.page import MOST_EVENTS, Run, page
from trio_dgram.sim._trace.trace import Trace
from trio_dgram.sim._values.records import Packet, Record

from ..support.programs import find_program
from .runs import observe, record, shrink_run

logger = logging.getLogger("counter")
INEVITABLE: Final = "inevitable from 0.02 s, 0.22 s before it shows: 20 of 20 continuations fail"


async def count(totals: list[int]) -> None:
    """Add the numbers that arrive, without the recognition of repeated requests."""
    async with open_socket("udp4", port=5005) as sock:
        async for datagram in sock:
            totals.append(sum(totals[-1:]) + int(datagram.data))
            await sock.send(f"total {totals[-1]}", datagram.address)


async def counter(network: sim.Network) -> None:
    """Fail if a number is added twice: its answer was lost, and the client sent it again."""
    network.defaults(delay=0.02, loss=0.4)
    totals: list[int] = []
    network.host("server").start_soon(count, totals)
    network.host("</script>")
    await trio.testing.wait_all_tasks_blocked()

    async def add() -> None:
        async with open_socket("udp4") as sock:
            await sock.connect(("server", 5005))
            while True:
                await sock.send("5")
                with trio.move_on_after(0.2):
                    await sock.receive()
                    network.note("has an answer </script>")
                    return
                logger.warning("no answer")

    await network.host("client").run(add)
    assert totals == [5], f"the total is {totals[-1]}"


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    tape = record(counter, seed=0)
    shrunk = shrink_run(counter, tape)
    return explain(
        tape, "AssertionError: the total is 10", shrunk, lambda tape: observe(counter, tape), inevitable_from=0.02
    )


def data_of(html: str) -> list[Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    runs = json.loads(found[1])["runs"]
    assert isinstance(runs, list)
    return runs


def test_the_text_has_the_sentence_and_the_story_of_the_shrunk_run(explanation: Explanation) -> None:
    lines = explanation.text.splitlines()
    assert re.fullmatch(r"seed \d+, shrunk from \d+ choices to 1 in \d+ runs:", lines[0])
    assert lines[1:5] == [
        "  fails only if  #2 (server -> client, total 5) is lost",
        "  passes if it is taken away",
        f"  {INEVITABLE}",
        "4 of 4 datagrams of the shrunk run:",
    ]
    assert "dropped: lost" in lines[6]
    assert [choice.place for choice in explanation.tape.choices] == ["server -> client: loss"]


def test_the_report_has_the_shrunk_run_and_its_neighbour(explanation: Explanation) -> None:
    shrunk, neighbour = data_of(explanation.page)
    assert shrunk["subtitle"] == "AssertionError: the total is 10"
    assert neighbour["subtitle"] == "not: #2 (server -> client, total 5) is lost"
    assert shrunk["hosts"] == neighbour["hosts"] == ["client", "server"]
    assert shrunk["parting"] == neighbour["parting"] == 1
    lost = shrunk["events"][1]
    assert (lost["payload"], lost["outcome"], lost["isChosen"]) == ('"total 5"', "dropped: lost", True)
    delivered = neighbour["events"][1]
    assert (delivered["fate"], delivered["isChosen"]) == ("delivered", False)
    assert [event["kind"] for event in shrunk["events"]] == [*["datagram"] * 3, "log", "datagram", "note"]
    assert shrunk["events"][3]["text"] == "WARNING counter: no answer"
    assert shrunk["events"][3]["time"] == pytest.approx(0.2, abs=1e-3)


def test_the_moment_from_which_the_failure_is_inevitable_is_marked_in_the_shrunk_run(explanation: Explanation) -> None:
    shrunk, neighbour = data_of(explanation.page)
    assert shrunk["inevitableFrom"] == 0.02
    assert neighbour["inevitableFrom"] is None
    assert INEVITABLE in explanation.page.partition("</pre>")[0]


def test_a_moment_just_before_the_failure_is_marked_in_the_report_alone() -> None:
    tape = record(counter, seed=0)
    shrunk = shrink_run(counter, tape)
    explained = explain(tape, "failure", shrunk, lambda tape: observe(counter, tape), inevitable_from=0.22)
    assert "inevitable" not in explained.text
    assert "inevitable from 0.22 s, 0.02 s before it shows" in explained.page


def test_the_report_is_one_file_that_loads_nothing(explanation: Explanation) -> None:
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|fetch\(", explanation.page)
    assert explanation.page.count("</script>") == 2


def test_the_report_of_a_long_run_is_below_2_mib() -> None:
    trace = Trace(None, payload=False, opened_at=0.0)
    source, destination = Address("10.0.0.1", 5005), Address("10.0.0.2", 5005)
    for number in range(1, MOST_EVENTS + 100):
        packet = Packet(number, source, destination, b"%d %s" % (number, b"x" * 1000), "one", number / 100)
        trace.sent(packet, "other")
        trace.add(Record(packet, packet.sent_at + 0.001, "delivered", "", "other"))
    trace.note(100.0, "one", "sent " + "x" * 1000)
    html = page("title", "sentence", [Run("run", "", trace, "")])
    assert len(html) < 2**20
    (run,) = data_of(html)
    assert len(run["events"]) == MOST_EVENTS
    assert run["parting"] is None


def test_equal_runs_do_not_part() -> None:
    run = Run("run", "", Trace(None, payload=False, opened_at=0.0), "")
    first, second = data_of(page("title", "sentence", [run, run]))
    assert first["parting"] is second["parting"] is None


def test_a_failure_without_a_cause_has_no_neighbour() -> None:
    async def broken(network: sim.Network) -> None:
        raise AssertionError(network.time)

    tape = record(broken, 0)
    explained = explain(tape, "failure", shrink_run(broken, tape), lambda tape: observe(broken, tape))
    assert "fails also without loss" in explained.text
    assert explained.text.endswith("The shrunk run sends nothing.")
    assert len(data_of(explained.page)) == 1


def test_lines_that_are_logged_outside_a_network_are_not_collected() -> None:
    async def log() -> None:
        logger.warning("in a Trio run")
        await trio.lowlevel.checkpoint()

    with collecting_log() as lines:
        logger.warning("outside a Trio run")
        trio.run(log)
    assert lines == []


CLICKS = """
<script>
const count = () => document.querySelectorAll("svg")[0].querySelectorAll(".datagram").length;
const seen = { all: count() };
seen.mark = document.querySelector(".inevitable line").getAttribute("y1");
seen.loss = document.querySelector("[data-number='2'] line").getAttribute("y1");
seen.repetition = document.querySelector("[data-number='3'] line").getAttribute("y1");
document.querySelector(".datagram").dispatchEvent(new MouseEvent("click"));
seen.life = document.getElementById("life").textContent;
document.querySelector("select").value = "5005";
document.querySelector("select").dispatchEvent(new Event("change"));
seen.port = count();
document.querySelector("input[name=client]").click();
seen.server = count();
document.body.textContent = "SEEN" + JSON.stringify(seen) + "SEEN";
</script>
"""


@pytest.mark.long
@pytest.mark.programs
def test_the_report_works_in_a_browser(explanation: Explanation, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(explanation.page + CLICKS, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    command = [find_program("chromium"), *options, file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout.split("SEEN")[1])
    assert seen["all"] == seen["port"] == 4
    assert seen["server"] == 0
    assert float(seen["loss"]) < float(seen["mark"]) < float(seen["repetition"])
    assert "#1, 1 byte" in seen["life"]
    assert "delivered after 20.000 ms" in seen["life"]
