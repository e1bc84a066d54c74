"""Which setting to run on so many hosts: a few are simulated by a script's profile, beside torch's ring all-reduce."""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Thread
from typing import Any

from ps.bill import bill_of
from ps.colocated import COLOCATED
from ps.config import RunConfig
from ps.errors import ConfigError
from ps.experiments.files import Link
from ps.keyspace import empty_map, place
from ps.predict.profile import Measured
from ps.predict.simulate import Predicted, predict
from ps.sim.network import Host, Network

MODELS = ("bsp", "ssp:staleness=3", "async", "local:every=20")
COMPRESSIONS = ("none", "onebit", "int8")
CLOCKS = 40  # two rounds of local
ERROR_MIN = 0.15  # of a prediction, as measured on hosts with links: experiments/predicted.py
BEST = 3
PROBE_BYTES = 64 << 20
PROBE_S = 10.0
WARNING = (
    "This predicts seconds per step, not steps to a quality: compressed, stale and local steps may need more of them."
)
LOCAL = (
    "local is for scripts that step themselves (ps.torch, ps.jax, client.step_to): others add local_lr=...; name the "
    "servers' optimizer with it, sgd:lr=1 averages."
)


@dataclass(frozen=True)
class Setting:
    """What a run would be. servers: how many, on the first hosts; or colocated, one beside each worker."""

    consistency: str
    compression: str
    servers: str

    def __str__(self) -> str:
        return f"{self.consistency}, compression {self.compression}, servers {self.servers}"

    def options(self, hosts: int, optimizer: str | None) -> dict[str, Any]:
        """Of the run, one worker per host."""
        servers = hosts if self.servers == COLOCATED else int(self.servers)
        made = {"servers": servers, "workers": hosts, "consistency": self.consistency, "compression": self.compression}
        return made if optimizer is None else {**made, "optimizer": optimizer}


@dataclass(frozen=True)
class Rated:
    """A setting, what a step of it takes, and the bytes that the fullest server needs."""

    setting: Setting
    predicted: Predicted
    server_bytes: int


@dataclass(frozen=True)
class Advice:
    """rated: all settings that make sense, the fastest first. error: of a prediction, as a part of it."""

    rated: Sequence[Rated]
    ddp_s: float  # of a step
    error: float

    @property
    def use_ddp(self) -> bool:
        """It wins by more than the prediction may be off."""
        return self.ddp_s < self.rated[0].predicted.clock_s * (1 - self.error)


def settings(servers: Sequence[str]) -> list[Setting]:
    """All that are looked at."""
    return [Setting(model, codec, each) for model in MODELS for codec in COMPRESSIONS for each in servers]


def check_servers(servers: Sequence[str], hosts: int) -> None:
    """Raises: ConfigError for a number of servers that makes no sense."""
    for each in servers:
        if each != COLOCATED and not (each.isdecimal() and 1 <= int(each) <= hosts):
            raise ConfigError(f"--servers: expected {COLOCATED}, or 1 to {hosts}, one on a host, got {each!r}")


def advise(
    profiles: Mapping[str, Measured], hosts: int, link: Link, servers: Sequence[str], optimizer: str | None = None
) -> Advice:
    """profiles: by compression. The compute of `none` counts for all, as a codec has no part in it; another that is
    missing leaves its settings out. hosts: each has one worker.

    Raises: ConfigError when nothing is left.
    """
    plain, rated = profiles["none"], []
    for one in settings(servers):
        if one.compression in profiles:
            profile = profiles[one.compression].model_copy(update={"compute_s": plain.compute_s})
            try:
                config = profile.completed(RunConfig.check(one.options(hosts, optimizer)))
            except ConfigError:
                continue  # this optimizer does not go with it
            predicted = predict(str(one), config, profile, network(config, link), CLOCKS)
            rated.append(Rated(one, predicted, server_bytes(config, profile)))
    if not rated:
        raise ConfigError(f"--optimizer: expected one that a setting can run with, got {optimizer!r}")
    rated.sort(key=lambda item: item.predicted.clock_s)
    error = ERROR_MIN if plain.check is None else max(ERROR_MIN, plain.check.error)
    return Advice(rated, ddp_s(plain, hosts, link), error)


def network(config: RunConfig, link: Link) -> Network:
    """One host per worker; server i is beside worker i."""
    hosts = {f"h{rank + 1}": Host(link.bytes_per_s, link.delay_s) for rank in range(config.workers)}
    where = {f"worker:{rank}": f"h{rank + 1}" for rank in range(config.workers)}
    return Network(hosts=hosts, place={**where, **{f"server:{i}": f"h{i + 1}" for i in range(config.servers)}})


def server_bytes(config: RunConfig, profile: Measured) -> int:
    """What the fullest server needs, by the memory bill."""
    slices = profile.keyspace.slices
    bill = bill_of(config, slices, place(slices, empty_map(config.servers)).shard_S.tolist())
    return max(held + replies for held, replies in zip(bill.servers, bill.replies, strict=True))


def ddp_s(profile: Measured, hosts: int, link: Link) -> float:
    """A step of DDP without overlap: 2 (N - 1) / N * B / bandwidth + 2 (N - 1) * latency + the slowest compute.

    Ring all-reduce: each host sends and takes 2 (N - 1) / N of the bytes, in 2 (N - 1) turns.
    """
    n = hosts
    wire_s = 2 * (n - 1) / n * profile.nbytes / link.bytes_per_s
    return wire_s + 2 * (n - 1) * link.delay_ms / 1e3 + slowest_s(profile, n)


def slowest_s(profile: Measured, workers: int) -> float:
    """Expected seconds of the slowest of so many steps."""
    ordered, n = sorted(profile.compute_s), len(profile.compute_s)
    return sum(s * (((i + 1) / n) ** workers - (i / n) ** workers) for i, s in enumerate(ordered))


# ---- the link -------------------------------------------------------------------------------------------------------


def loopback_mbit() -> float:
    """10^6 bits per second of one TCP connection of this machine with itself. Raises: ConfigError."""
    taken = 0
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(PROBE_S)
        sender = Thread(target=_send, args=(server.getsockname(),), daemon=True)
        began = time.perf_counter()
        sender.start()
        try:
            with closing(server.accept()[0]) as line:
                line.settimeout(PROBE_S)
                while part := line.recv(1 << 20):
                    taken += len(part)
        except OSError as error:
            raise ConfigError(f"--rate-mbit: expected it given, as 127.0.0.1 cannot be measured: {error}") from None
    return 8 * taken / (time.perf_counter() - began) / 1e6


def _send(address: tuple[str, int]) -> None:
    with closing(socket.create_connection(address, PROBE_S)) as line:
        line.settimeout(PROBE_S)
        line.sendall(bytes(PROBE_BYTES))


# ---- in words -------------------------------------------------------------------------------------------------------


def in_lines(advice: Advice, hosts: int, script: Sequence[str], optimizer: str | None) -> list[str]:
    """The advice for a person: commands that are ready, but for addresses in capitals."""
    best, off = advice.rated[0].predicted.clock_s, f"{100 * advice.error:.0f} %"
    ddp = f"DDP's ring all-reduce, without overlap: {1e3 * advice.ddp_s:.4g} ms a step"
    lines = [WARNING]
    if advice.use_ddp:
        lines.append(f"use DDP: {ddp}; the best setting here takes {1e3 * best:.4g} ms, more than {off} longer")
    for place_, item in enumerate(advice.rated[:BEST], 1):
        one = item.predicted
        figures = f"{one.step_bytes:,.0f} bytes per worker and step, {item.server_bytes / 1e6:,.1f} MB per server"
        lines.append(f"{place_}. {item.setting}: {1e3 * one.clock_s:.4g} ms a step, {figures}")
        given = flags({**item.setting.options(hosts, optimizer), "servers": item.setting.servers})
        lines += [f"   psctl run {given} {shlex.join(script)}", f"   psctl controller --host ADDRESS {given}"]
    if any(item.setting.consistency.startswith("local:") for item in advice.rated[:BEST]):
        lines.append(LOCAL)
    if not advice.use_ddp:
        lines.append(f"{ddp}: not faster by more than a prediction may be off, {off}")
    return [
        *lines,
        "psctl run is for this machine. On several, with PS_KEY set: the controller, servers on as many of the hosts",
        "(colocated: on all), a worker on each: psctl server --controller ADDRESS:7070 --listen HOST:0",
        f"                                       psctl worker --controller ADDRESS:7070 {shlex.join(script)}",
    ]


def flags(options: Mapping[str, Any]) -> str:
    """As they are typed."""
    return shlex.join([part for name, value in options.items() for part in (f"--{name}", str(value))])
