"""One server process: `python -m ps.launch.server`, in the cluster that PS_CONTROLLER names."""

from __future__ import annotations

import argparse
import json
import sys
import time

from ps.control.hello import Hello
from ps.errors import Error
from ps.metrics import Metrics
from ps.processes import ClusterPort, named
from ps.server.build import build_shard
from ps.server.runtime import Server
from ps.transport.base import Unreachable
from ps.types import PeerId

IDLE_S = 0.5  # an idle server looks so often whether it is still needed
RETRY_S = 0.005  # what a slow reader had no room for is tried again so often
METRICS_S = 1.0  # the controller hears so often what was measured


def main() -> int:
    """Serves until the job is over. Exit code 1, with one line on stderr, when it could not begin."""
    parser = argparse.ArgumentParser(prog="ps.launch.server", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", help="host:port of the data plane; port 0: any free one")
    parser.add_argument("--advertise", default="", help="the host that others are told to dial, if it is another one")
    given = parser.parse_args()
    try:
        serve(given.listen, given.advertise)
    except Error as error:
        print(f"ps server: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def serve(listen: str, advertise: str = "") -> None:
    """Joins as a server and serves until the controller says goodbye; without a controller, until all have left.

    Raises: ConfigError when the place is taken or the controller refuses; DeadlineError when there is none.
    """
    port = ClusterPort(PeerId("server"))
    place = port.transport.listen(f"tcp://{listen}")
    if advertise:
        place = f"tcp://{advertise}:{place.rpartition(':')[2]}"
    welcome = port.join(*named(Hello("server", data_address=place)))
    config = welcome.config
    shard = build_shard(config, welcome.shard)
    server = Server(shard, welcome.job, port.send_nowait, Metrics(), clip_value=config.clip_value)
    try:
        _work(port, server)
    finally:
        port.close()


def _work(port: ClusterPort, server: Server) -> None:
    told_at = 0.0
    while not (port.over.is_set() and (not port.failed or not server.shard.ledger.live_W.any())):
        item = port.transport.recv(RETRY_S if server.has_unsent else IDLE_S)
        now = time.monotonic()
        if item is None:
            server.retry_unsent()
        else:
            server.receive(*item, now)
        if now - told_at > METRICS_S:
            told_at = now
            _tell(port, server)


def _tell(port: ClusterPort, server: Server) -> None:
    try:
        port.link.metrics(json.dumps(server.metrics.snapshot().to_dict()))
    except Unreachable:
        pass


if __name__ == "__main__":
    sys.exit(main())
