"""FOLDER WORKERS [RANK CLOCK]: the BSP problem; each worker leaves its last values and digests of all it has read.

With RANK CLOCK, that worker says its pid in the middle of that clock and waits there, in its first life.
"""

import hashlib
import os
import sys

import numpy as np

import ps
from tests.integration.processes.problems import bsp_problem
from tests.integration.processes.stage import leave, say, wait_at

problem = bsp_problem(int(sys.argv[2]))
victim = tuple(map(int, sys.argv[3:5])) or (-1, -1)

with ps.connect() as client:
    first_life = client.clock == 0

    def hold(clock: int) -> float:
        if (client.rank, clock) == victim and first_life:
            say("held", client.rank, os.getpid())
            wait_at(str(client.rank))
        return 0.0

    read = problem.run(client, hold)
    digests = [hashlib.sha256(b"".join(values[n].tobytes() for n in sorted(values))).hexdigest() for values in read]
    leave(f"worker-{client.rank}", digests=np.array(digests), **read[-1])
