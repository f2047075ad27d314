"""Inventories of other projects' documentation, so that links to them resolve without the network.

``<name>.txt`` lists the names that this documentation links to, one a line: role, name, location (``$`` stands for the
name). :func:`write_inventory` writes them in the format of ``objects.inv``, which Sphinx reads. ``nox -s docs --
--online`` runs this file, which compares them with the published inventories.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from urllib.request import urlopen

HERE = Path(__file__).parent
INVENTORIES = {
    "python": "https://docs.python.org/3/",
    "trio": "https://trio.readthedocs.io/en/stable/",
    "pyopenssl": "https://www.pyopenssl.org/en/stable/",
    "hypothesis": "https://hypothesis.readthedocs.io/en/latest/",
}


def read_names(name: str) -> list[tuple[str, str, str]]:
    """Return role, name and location of each entry of ``<name>.txt``."""
    lines = (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [(role, entry, location) for role, entry, location in map(str.split, lines)]


def write_inventory(name: str, folder: Path) -> Path:
    """Write ``<name>.inv`` into ``folder`` and return its path."""
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n# The rest is compressed by zlib.\n"
    body = "".join(f"{entry} {role} 1 {location} -\n" for role, entry, location in read_names(name))
    path = folder / f"{name}.inv"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head.encode() + zlib.compress(body.encode()))
    return path


def differences(name: str) -> list[str]:
    """Return a line for each entry that the published inventory lacks or has elsewhere."""
    with urlopen(f"{INVENTORIES[name]}objects.inv", timeout=30) as response:
        published = zlib.decompress(response.read().split(b"\n", 4)[4]).decode()
    places = {}
    for line in published.splitlines():
        entry, role, _, location = line.split()[:4]
        places[role, entry] = location.replace("$", entry)
    return [
        f"{name}: {role} {entry} is at {place}, not at {location}"
        for role, entry, location in read_names(name)
        if (place := places.get((role, entry), "no place")) != location.replace("$", entry)
    ]


if __name__ == "__main__":
    sys.exit("\n".join(line for name in INVENTORIES for line in differences(name)) or None)
