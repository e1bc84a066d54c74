"""What must hold once every script of a simulated cluster is over and every message has arrived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ps.errors import StoppedError
from ps.messages import Code
from ps.server.runtime import Server
from ps.sim.loop import Simulator
from ps.sim.scripts import Script
from ps.testing.lives import Life
from ps.testing.witness import Witness


def check_aftermath(witness: Witness, sim: Simulator, scripts: Sequence[Script], lives: Mapping[Script, Life]) -> None:
    """Notes with the witness what does not hold."""
    for script in sorted(scripts, key=lambda one: isinstance(one.error, StoppedError)):  # those are stopped by others
        _check_script(witness, sim, script, script in lives)
    clean = {life for script, life in lives.items() if script.error is None and not script.is_killed}
    _check_numbers(witness)
    for life in lives.values():
        _check_pushes(witness, life, life in clean)
    for server in sim.servers.values():
        _check_server(witness, server)
    for message in vars(sim).get("lent", []):
        witness.expect(message.on_release is None, "leaks", "a message that nobody holds any more kept its buffers")
    if witness.gather is not None and not witness.by_version:
        _check_rounds(witness, clean, all_clean=len(clean) == len(lives))


def _check_script(witness: Witness, sim: Simulator, script: Script, enrolled: bool) -> None:
    if script.is_killed or (not enrolled and sim.controller.core.stopped is not None):
        return  # dead, or it came when the job was over
    error = script.error
    witness.expect(script.is_over, "liveness", f"{script.address} waits for ever")
    witness.expect(error is None, "liveness", f"{script.address}: {type(error).__name__}: {error}")


def _check_numbers(witness: Witness) -> None:
    for (worker, slice_id), settled in witness.settled.items():
        where = f"worker {worker}, {witness.name(slice_id)}: expected push numbers without gaps"
        witness.expect(sorted(settled) == list(range(1, len(settled) + 1)), "exactly once", where, sorted(settled))


def _check_pushes(witness: Witness, life: Life, clean: bool) -> None:
    """Closed clocks have lost nothing; who left cleanly was told so, as far as it could be told."""
    for push in life.pushes:
        if witness.pushes[push.worker, push.slice].get(push.seq) is not push:
            continue  # forgotten with its incarnation: its number was given out again
        log = witness.settled.get((push.worker, push.slice), {}).get(push.seq)
        where = f"{push} on {witness.name(push.slice)}:"
        if clean or push.clock < life.ticked.get(int(life.session.shard_S[push.slice]), 0):
            witness.expect(log is not None, "exactly once", where, "its clock is closed, it has no verdict")
        told = push.verdict
        if clean:
            last = told is not None and (told[0] != Code.GATHERED or witness.gather is not None)
            witness.expect(last, "verdicts", where, f"its worker left without a verdict, told {told}, log {log}")
        if told is not None and told[0] != Code.GATHERED:
            witness.expect(told == log, "verdicts", where, f"told {told}, log {log}")
    if clean:
        _check_worker(witness, life)


def _check_worker(witness: Witness, life: Life) -> None:
    """The worker's own store: one frame per open push, one holder each, and every refused gradient in the residual."""
    opened = {(entry.id, slice_id) for entry in life.session.pushes.values() for slice_id in entry.open}
    kept = life.arrays.frames
    witness.expect(set(kept) == opened, "leaks", f"worker {life.rank} keeps frames {sorted(kept)} for {sorted(opened)}")
    holders = [packed.buffer.holders for packed in kept.values()]
    witness.expect(set(holders) <= {1}, "leaks", f"worker {life.rank}: holders of its frames: {holders}")
    for slice_id, memory in life.memory.items():
        want, got = memory.residual_N, life.arrays.encoder.residual(slice_id)
        left = np.zeros_like(want) if got is None and want is not None else got  # of raw slices, when nothing is left
        same = (want is None) == (left is None) and (want is None or left is None or want.tobytes() == left.tobytes())
        where = f"worker {life.rank}: residual of {witness.name(slice_id)}:"
        witness.expect(same, "frames", where, "expected", want, "got", got)


def _check_server(witness: Witness, server: Server) -> None:
    shard, ledger, follower = server.shard.shard, server.shard.ledger, server.follower
    assert follower is not None
    same = server.values.contents() == follower.values.contents()
    witness.expect(same, "follower", f"shard {shard}: other values than its follower")
    witness.expect(ledger.state() == follower.ledger.state(), "follower", f"shard {shard}: other numbers")
    seen = witness.shards[shard]
    for index, slice_id in enumerate(seen.ids):
        version, where = int(ledger.version_S[index]), f"{witness.name(slice_id)}:"
        witness.expect(version == seen.version[slice_id], "versions", where, version, "in the ledger, not in the log")
        value, want = server.values.current[index].array, witness.history.get(slice_id, {}).get(version)
        same = want is not None and want.tobytes() == value.tobytes()
        witness.expect(same, "values", where, "ends with", value, "the replay with", want)
        view = server.values.view[index]
        if view is not None:
            same = view.values.array.tobytes() == witness.views.by_version[slice_id][version].tobytes()
            witness.expect(same, "values", where, "the view that all workers share is another one")
        for worker in range(len(ledger.live_W)):
            _check_ledger(witness, server, worker, index, slice_id)
    witness.expect(not server._frames, "leaks", f"shard {shard} keeps frames {sorted(server._frames)}")
    left = (server._payloads, server._outbox)
    witness.expect(not any(left), "leaks", f"shard {shard} keeps payloads or messages: {left}")
    values = server.values
    kept = [buffer for versions in values.kept for buffer in versions.values()]
    views = [view.values for view in values.view if view is not None]
    if server.own_views is not None:
        views += [own.view.values for mine in server.own_views.views.values() for own in mine.values()]
    known = Counter(map(id, [*values.current, *values.base.values(), *kept, *views]))
    for buffer in {id(buffer): buffer for buffer in [*values.current, *views]}.values():
        held = buffer.holders - known[id(buffer)]
        witness.expect(held == 0, "leaks", f"shard {shard}: a buffer has {held} holders too many")


def _check_ledger(witness: Witness, server: Server, worker: int, index: int, slice_id: int) -> None:
    """The verdicts that the shard would give again."""
    ledger = server.shard.ledger
    for seq, verdict in witness.settled.get((worker, slice_id), {}).items():
        stored = ledger.verdict(worker, index, seq)
        witness.expect(stored == verdict, "verdicts", f"worker {worker}, push {seq}: stored {stored}, log {verdict}")


def _check_rounds(witness: Witness, clean: set[Life], all_clean: bool) -> None:
    """Versions are rounds: as many as the workers have finished."""
    assert witness.gather is not None
    clock = max((life.client.clock for life in clean), default=0)
    for slice_id, seen in witness.shard_of.items():
        version, rounds = seen.version[slice_id], witness.rounds(slice_id, clock)
        right = version == rounds if all_clean else version >= rounds
        witness.expect(right, "versions", f"{witness.name(slice_id)}: version {version} after {rounds} rounds")
