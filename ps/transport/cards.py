"""Network cards that hosts have by agreement alone: processes of one machine that share a file keep to their rates.

Each direction of a card is busy until some time of `time.monotonic`, which all processes of a machine read alike. Who
sends takes the sender's way out and the receiver's way in, in one step: each is through at max(ready, busy) + bytes /
rate. So nothing is through before the rate of every card on its way allows, however late anybody looks.
"""

from __future__ import annotations

import fcntl
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from ps.types import PeerId

OUT, IN = 0, 1


class Host(BaseModel):
    """A machine with one full-duplex network card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float | None = None  # bytes per second, each way; None: no time passes
    delay_s: float = 0.0  # one way, from here to the middle of the network: a path has those of both ends


class Layout(BaseModel):
    """Which hosts there are, and who is on which. Peers that are on none reach all at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hosts: dict[str, Host]
    place: dict[str, str]  # "worker:0" -> name of a host

    def write(self, path: Path) -> None:
        """For `Cards` of all processes: as JSON, and beside it the table of times, all of them past."""
        table_of(path).write_bytes(np.zeros((len(self.hosts), 2)).tobytes())
        path.write_text(self.model_dump_json())


class Cards:
    """The cards of a layout, as one process sees them. Raises: OSError, ValueError where `write` has not been."""

    def __init__(self, path: Path) -> None:
        self.layout = Layout.model_validate_json(path.read_text())
        self._file = table_of(path).open("r+b")
        self._busy = np.memmap(self._file, np.float64, "r+", shape=(len(self.layout.hosts), 2))
        self._row = {host: row for row, host in enumerate(self.layout.hosts)}

    def host_of(self, peer: PeerId) -> str | None:
        """None: it is on none."""
        return self.layout.place.get(peer)

    def rate(self, sender: str, to: str) -> float:
        """Bytes per second from one host to another, when nobody else sends."""
        return min(self._rate(sender), self._rate(to))

    def delay_s(self, sender: str, to: str) -> float:
        """Seconds from one host to another, beside the time in cards."""
        return self.layout.hosts[sender].delay_s + self.layout.hosts[to].delay_s

    def reserve(self, sender: str, to: str, nbytes: float, ready: float) -> float:
        """Takes both cards for so many bytes, which can leave at the time `ready`; when the slower one is through."""
        through = ready
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            for host, way in ((sender, OUT), (to, IN)):
                at = self._row[host], way
                self._busy[at] = max(float(self._busy[at]), ready) + nbytes / self._rate(host)
                through = max(through, float(self._busy[at]))
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        return through

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def _rate(self, host: str) -> float:
        rate = self.layout.hosts[host].rate
        return float("inf") if rate is None else rate


def table_of(path: Path) -> Path:
    """Where the times are, float64 by host and direction (OUT, IN)."""
    return path.with_suffix(".busy")
