"""One server process: `python -m ps.launch.server`, in the cluster that PS_CONTROLLER names."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path

from ps.config import RunConfig
from ps.control.hello import Hello, LinkEnd
from ps.errors import Error, OutboxFull
from ps.key import key_of_environment
from ps.launch.asked import Asked
from ps.processes import ClusterPort, figures_s, named, number
from ps.server.build import build_server
from ps.server.runtime import Server
from ps.transport.base import Unreachable
from ps.types import PeerId

IDLE_S = 0.5  # an idle server looks so often whether it is still needed
RETRY_S = 0.005  # what a slow reader had no room for is tried again so often
LEAVE_S = 5.0  # a server that is asked to stop waits so long for the others to be told
METRICS_S = 1.0  # the controller hears so often what was measured, unless PS_FIGURES_S is less


def main() -> int:
    """Serves until the job is over. Exit code 1, with one line on stderr, when it could not begin."""
    parser = argparse.ArgumentParser(prog="ps.launch.server", description=__doc__)
    parser.add_argument(
        "--listen", default="127.0.0.1:0", help="of the data plane: host:port (0: any free port) or ipc://"
    )
    parser.add_argument("--advertise", default="", help="the host that others are told to dial, if it is another one")
    parser.add_argument("--record", type=Path, help="a folder: what is applied is written down there")
    given = parser.parse_args()
    try:
        serve(given.listen, given.advertise, record=given.record)
    except Error as error:
        print(f"ps server: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def serve(listen: str, advertise: str = "", asked: Asked | None = None, record: Path | None = None) -> LinkEnd | None:
    """Joins as a server, for shard PS_SHARD if that is set, and serves until the controller says goodbye.

    asked: a signal then ends the job, whose values are lost with this server, in words.
    record: the folder for its recording, if there is to be one.
    When the controller is gone: until all workers have left, or none has said a word for the run's timeout_s.
    Returns: how the connection to the controller has ended.
    Raises: ConfigError when the place is taken, the key of PS_KEY does not hold or the controller refuses;
    DeadlineError when there is none.
    """
    port = ClusterPort(PeerId("server"), key_of_environment())
    try:
        place = port.transport.listen(listen if "://" in listen else f"tcp://{listen}")
        if advertise:
            place = f"tcp://{advertise}:{place.rpartition(':')[2]}"
        hello = Hello("server", data_address=place, shard=number("PS_SHARD", -1))
        welcome = port.join(*named(hello))
    except BaseException:
        port.transport.close()
        raise
    config = welcome.config
    try:
        server = build_server(config, welcome.shard, welcome.job, port.send_nowait, record=record)
        if asked is not None:
            asked.wake = port.transport.wake
        _work(port, server, config, asked)
        server.close()
    finally:
        port.close()
    return port.end


def _work(port: ClusterPort, server: Server, config: RunConfig, asked: Asked | None) -> None:
    metrics_s, told_at, heard_at = (
        figures_s(METRICS_S),
        0.0,
        time.monotonic(),
    )  # heard_at: with a controller any silence is fine
    leave_at = float("inf")
    while not _is_over(port.end, server, time.monotonic() - heard_at > config.timeout_s):
        if asked is not None and asked.by and leave_at == float("inf"):
            leave_at = time.monotonic() + LEAVE_S
            _say_why(port, asked)
        if time.monotonic() >= leave_at or (leave_at < float("inf") and port.end is not None):
            return
        item = port.transport.recv(RETRY_S if server.has_unsent else min(IDLE_S, metrics_s))
        now = time.monotonic()
        if item is not None or port.end is None:
            heard_at = now
        if item is None:
            server.retry_unsent()
        else:
            server.receive(*item, now)
        if now - told_at >= metrics_s:
            told_at = now
            port.measured(server.metrics)


def _say_why(port: ClusterPort, asked: Asked) -> None:
    """The controller then ends the job, names what is lost, and says goodbye."""
    asked.give_back()  # a second signal ends this process at once
    with suppress(Unreachable, OutboxFull):
        port.link.leaving(f"it was asked to stop by {asked.by}")


def _is_over(end: LinkEnd | None, server: Server, silent: bool) -> bool:
    """Without a controller nobody says when all is over; a server must not be left behind for ever."""
    return end is not None and (not end.gone or silent or not server.shard.ledger.live_W.any())


if __name__ == "__main__":
    sys.exit(main())
