"""Factors over real processes and sockets: the bytes of one process, and of the formula."""

from __future__ import annotations

import pytest

import ps
from tests.integration.processes.factor_problem import expected_bytes, train
from tests.integration.processes.helpers import Stage, assert_bytes_equal


@pytest.mark.parametrize("servers", [1, 2])
def test_factors_over_processes_equal_one_process_bit_for_bit(stage: Stage, servers: int) -> None:
    run = stage.psctl("factors.py", workers=2, servers=servers, optimizer="momentum:lr=0.1,decay=0.8")
    with ps.LocalCluster(servers, 2, optimizer="momentum:lr=0.1,decay=0.8", seed=1) as cluster:
        expected = cluster.run(train, timeout=60.0)
    code, _, err = run.wait()
    assert code == 0, err
    for rank in range(2):
        values = stage.result(f"worker-{rank}")
        assert values.pop("bytes") == expected[rank].pop("bytes") == expected_bytes(servers)
        assert_bytes_equal(values, expected[rank])
