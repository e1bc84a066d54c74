"""FOLDER CLOCKS CLOCK: adds integers without a barrier; all wait in that clock, and leave their last values."""

import sys

import ps
from tests.integration.processes.problems import integers, start_values
from tests.integration.processes.stage import leave, say, wait_at

clocks, middle = map(int, sys.argv[2:4])

with ps.connect() as client:
    client.register(start_values())
    while client.clock < clocks:
        client.pull()
        if client.clock == middle:
            say("held", client.rank)
            wait_at("middle")
        client.push(integers(client.rank, client.clock))
        client.tick()
        client.log(clock=client.clock)
    leave(f"sum-{client.rank}", **client.pull())
