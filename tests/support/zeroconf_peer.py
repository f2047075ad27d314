"""What others do with Multicast DNS, by the library zeroconf.

``python zeroconf_peer.py 4|6 register TYPE NAME HOST PORT ADDRESS`` tells of a service until a line comes in, then
takes it back. ``python zeroconf_peer.py 4|6 browse TYPE`` prints what comes and goes until then.
"""

from __future__ import annotations

import sys

from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf


class Printer(ServiceListener):
    """Prints the services that are found, with their addresses."""

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        info = zc.get_service_info(type_, name)
        where = f"{info.server} {info.port} {' '.join(sorted(info.parsed_addresses()))}" if info else "nowhere"
        print("added", name.removesuffix(f".{type_}"), "at", where, flush=True)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:  # noqa: ARG002 -- the listener's form
        print("removed", name.removesuffix(f".{type_}"), flush=True)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Ignore changes."""


def main(version: str, command: str, type_: str, *rest: str) -> None:
    zeroconf = Zeroconf(ip_version=IPVersion.V4Only if version == "4" else IPVersion.V6Only)
    try:
        if command == "browse":
            ServiceBrowser(zeroconf, type_, Printer())
            print("browsing", flush=True)
        else:
            name, host, port, address = rest
            info = ServiceInfo(type_, f"{name}.{type_}", int(port), server=host, parsed_addresses=[address])
            zeroconf.register_service(info)
            print("registered", flush=True)
        sys.stdin.readline()
    finally:
        zeroconf.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
