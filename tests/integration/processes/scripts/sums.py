"""FOLDER CLOCKS [RANK CLOCK PLACE]: adds integers; rank 0 leaves the sum, each worker what it saw at every read.

With RANK CLOCK PLACE, that worker says its pid in that clock, before its push or after it, and waits there, in its
first life.
"""

import os
import sys

import numpy as np

import ps
from tests.integration.processes.problems import integers, start_values
from tests.integration.processes.stage import leave, say, wait_at

clocks = int(sys.argv[2])
victim = (int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]) if len(sys.argv) > 3 else (-1, -1, "")

with ps.connect() as client:
    first_life = client._worker.incarnation == 1
    client.register(start_values())
    session = client._worker.session

    def hold(place: str) -> None:
        if (client.rank, client.clock, place) == victim and first_life:
            say("held", os.getpid(), os.environ["PS_CONTROLLER"])
            wait_at("middle")

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
