"""Draw ``performance.svg``, the picture of the README, from the committed figures of the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
FIGURES = HERE.parents[1] / "benchmarks" / "results" / "2026-11-28.json"
CASE = "echo"
ROWS = {
    "trio_dgram": "trio_dgram",
    "uvloop": "uvloop",
    "Node": "Node dgram",
    "trio.socket": "trio.socket",
    "anyio on Trio": "anyio (Trio)",
    "asyncio": "asyncio",
}
TITLE = "Datagrams echoed per second, one process on one core (higher is better)"
LEFT, WIDTH, BAR, STEP, TOP = 110, 400, 16, 26, 46


def draw(figures: str) -> str:
    """Return the picture of ``figures``, a result of the benchmarks as JSON."""
    case = json.loads(figures)["cases"][CASE]
    rates = {row["name"]: row["median"] for row in case["rows"]}
    shown = sorted(ROWS, key=lambda name: -rates[name])
    longest = rates[shown[0]]
    height = TOP + STEP * len(shown)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 {height}" width="600" height="{height}">',
        '<g font-family="system-ui, sans-serif" font-size="14" fill="#212529">',
        f"<title>{TITLE}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="24" font-size="15" font-weight="600">{TITLE}</text>',
    ]
    for number, name in enumerate(shown):
        y = TOP + STEP * number
        width = round(WIDTH * rates[name] / longest)
        colour = "#0b7285" if name == "trio_dgram" else "#adb5bd"
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{ROWS[name]}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LEFT + width + 6}" y="{y + 13}">{rates[name]:,.0f}</text>',
        ]
    return "\n".join([*lines, "</g>", "</svg>"]) + "\n"


if __name__ == "__main__":
    (HERE / "performance.svg").write_text(draw(FIGURES.read_text(encoding="utf-8")), encoding="utf-8")
