"""Links of a chosen speed for processes of this machine, by a token bucket in their transport: without root."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ps.experiments.cells import Cell
from ps.launch.options import Place
from ps.transport.cards import Host, Layout


def place_of(cell: Cell, folder: Path) -> Callable[[str], Place]:
    """Where each process is started, by its name ("worker 0"); the table of the cell's links is in its folder."""
    path = folder.resolve() / "links.json"
    layout_of(cell).write(path)

    def place(name: str) -> Place:
        host = cell.hosts.get(name.replace(" ", ":"))
        return Place(env={} if host is None else {"PS_LINKS": f"{host}:{path}"})

    return place


def layout_of(cell: Cell) -> Layout:
    """The cell's hosts and their links."""
    hosts = {}
    for name in sorted(set(cell.hosts.values())):
        link = cell.links.of(name)
        hosts[name] = Host(rate=None if link.rate_mbit is None else link.bytes_per_s, delay_s=link.delay_s)
    return Layout(hosts=hosts, place=cell.hosts)
