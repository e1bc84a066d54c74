"""What an event costs in virtual time without payload: cores, cards and queues of a whole cluster."""

from __future__ import annotations

from benchmarks.harness import Bench, Function, checksum
from ps.config import RunConfig
from ps.sim.network import Host, Network
from ps.sim.scale import Profile, simulate

SERVERS = 4
NETWORK = Network(worker=Host(rate=1.25e9, delay_s=5e-5), server=Host(rate=12.5e9), apply_s_per_byte=1e-11)
PROFILE = Profile({f"w{i}": (256, 1024) for i in range(SERVERS)}, lambda rank, random: random.expovariate(1.0))


def scale(consistency: str) -> Function:
    """Clocks of all workers; an event is one clock of one worker at one server."""

    def bench_scale(bench: Bench) -> None:
        workers, clocks = bench.size(smoke=3, full=250), bench.size(smoke=2, full=5)
        options = dict(servers=SERVERS, workers=workers, consistency=consistency, optimizer="sgd:lr=0.1")
        config = RunConfig.check(options)
        with bench.timed(events=workers * clocks * SERVERS):
            outcome = simulate(config, PROFILE, NETWORK, clocks)
        bench.check(checksum(outcome.end_CW))

    return bench_scale


bench_scale_bsp = scale("bsp")
bench_scale_ssp = scale("ssp:staleness=3")
bench_scale_async = scale("async")
