"""FOLDER CLOCKS [RANK:CLOCK:PLACE ...]: adds integers; rank 0 leaves the sum, each worker what it saw at every read.

RANK:CLOCK:PLACE holds that worker in that clock, `before` its push or `after` it, in its first life: it says its pid
and waits at the gate of its rank. With `:alive` behind it, its lease runs on meanwhile.
"""

import os
import sys

import numpy as np

import ps
from tests.integration.processes.problems import integers, start_values
from tests.integration.processes.stage import leave, say, wait_at

clocks = int(sys.argv[2])
holds = {tuple(hold.split(":")[:3]): hold.endswith(":alive") for hold in sys.argv[3:]}

with ps.connect() as client:
    first_life = client._worker.incarnation == 1
    client.register(start_values())
    session = client._worker.session

    def hold(place: str) -> None:
        where = (str(client.rank), str(client.clock), place)
        if where in holds and first_life:
            say("held", client.rank, os.getpid(), os.environ["PS_CONTROLLER"], os.environ["PS_JOB"])
            wait_at(str(client.rank), (lambda: client.log(waits=1.0)) if holds[where] else None)

    seen = []
    while client.clock < clocks:
        say(client.rank, "reads", client.clock)
        client.pull()
        seen.append([client.clock, int(session.min_clock_S.min()), *session.base_S.tolist()])
        hold("before")
        client.push(integers(client.rank, client.clock))
        hold("after")
        client.tick()
    seen_array = np.array(seen, np.int64).reshape(len(seen), -1)
    leave(f"seen-{client.rank}", seen=seen_array)
    say(client.rank, "through")
    client.barrier()
    if client.rank == 0:
        leave("sum", **client.pull())
