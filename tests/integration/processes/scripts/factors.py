"""FOLDER: seeded pushes of factors; each worker leaves its last values and the bytes that it has pushed."""

import ps
from tests.integration.processes.factor_problem import train
from tests.integration.processes.stage import leave

with ps.connect() as client:
    leave(f"worker-{client.rank}", **train(client))
