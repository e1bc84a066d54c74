"""One incarnation of a worker under watch: what it should hold at each moment, beside what it holds."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ps.compression.base import Memory
from ps.compression.choice import FACTORS, RAW, Frame
from ps.factors import Factors
from ps.messages import Code, Ticked, Values, Verdicts
from ps.testing.witness import PushSeen, Witness
from ps.types import Array, PeerId
from ps.worker.actions import PushEntry, Settled
from ps.worker.checks import Gradients
from ps.worker.client import Client
from ps.worker.verdicts import PushFuture


class Life:
    """Hooks into the client of one incarnation; the script pulls, pushes and ticks through it."""

    def __init__(self, witness: Witness, client: Client) -> None:
        self.witness, self.client, self.worker = witness, client, client._worker
        self.rank, self.incarnation = self.worker.rank, self.worker.incarnation
        self.session, self.arrays = self.worker.session, self.worker.arrays
        self.cadence = witness.model.cadence
        self.accumulates = self.cadence.push_every > 1 or self.cadence.carries == "delta"  # travels when a round ends
        self.pushes: list[PushSeen] = []
        self.buffers: Sequence[Array] = ()  # of the message in hand
        self.ticked: dict[int, int] = {}  # shard -> clocks that it has confirmed
        self.replica: dict[int, Array] = {}  # what the worker should hold
        self.pulled: dict[int, Array] = {}
        self.taken: dict[int, int] = {}  # version of what was last pulled
        self.since: dict[int, int] = {}  # clock of the first read
        self.arrived: dict[int, tuple[int, Array]] = {}  # version and values that are not taken in yet
        self.read: dict[int, int] = {}  # version of the last read
        self.worked: dict[int, int] = {}  # version read before the last tick
        self.codecs, self.memory = witness.codecs, dict[int, Memory]()  # of each slice that is encoded, or was refused
        self.summed: dict[int, Array] = {}
        self.weights: dict[int, float] = {}  # clock -> of its accumulated pushes
        self.grads: dict[int, Array] = {}  # of the push that is being made
        self.factors: dict[int, Factors] = {}  # those of them that came as factors
        self.owed: set[int] = set()  # slices of which a frame of factors was refused, and not yet sent again
        hooks: dict[str, Callable[..., Any]] = {"_verdicts": self._verdicts, "_values": self._values}
        self.original = {name: getattr(self.session, name) for name in (*hooks, "_ticked")}
        self.original |= {"send": self.worker.pushing.send, "_take": self.worker._take}
        vars(self.session).update(hooks, _ticked=self._ticked)
        vars(self.worker.pushing)["send"] = self._send_push
        vars(self.worker)["_take"] = self._take

    # ---- what the script does ---------------------------------------------------------------------------------------

    def pull(self, names: list[str]) -> dict[str, Array]:
        """Pulls, and checks what comes: the promise of the model, and the values as they should be here."""
        values = self.client.pull(names)
        clock, session, expect = self.client.clock, self.session, self.witness.expect
        for name, array in values.items():
            slice_id = self.worker.keyspace.slices_of[name].start
            version, min_clock = self.taken[slice_id], int(session.min_clock_S[slice_id])
            where = f"worker {self.rank} at clock {clock} pulled {self.witness.name(slice_id)}, version {version}, "
            where += f"min clock {min_clock}:"
            want = self.replica.get(slice_id)
            same = want is not None and want.tobytes() == array.tobytes()
            expect(same, "values", where, "expected", want, "got", array.reshape(-1))
            if clock % (self.cadence.pull_every // self.cadence.fragments) == 0 or self.cadence.overlap:
                numbers = (clock, self.since[slice_id], version, min_clock)
                wrong = self.witness.promise(slice_id, *numbers, self.incarnation > 1)
                expect(wrong is None, "reads", where, wrong)
            in_time = session.late_clock < clock - 1 and session.finished_S[slice_id] < clock
            if self.witness.by_version and in_time and slice_id in self.worked:
                before = self.worked[slice_id]
                expect(version > before, "reads", where, f"expected more than version {before}, it was in time")
        return values

    def push(self, grads: Gradients, weight: float) -> PushFuture:
        """Pushes, and computes what should travel."""
        given = {self.worker.keyspace.slices_of[name].start: grad for name, grad in grads.items()}
        self.factors = {slice_id: grad for slice_id, grad in given.items() if isinstance(grad, Factors)}
        self.grads = {
            slice_id: product(grad.u, grad.v) if isinstance(grad, Factors) else grad.reshape(-1)
            for slice_id, grad in given.items()
        }
        if self.accumulates:
            self._step_replica(self.grads)
            self.weights[self.client.clock] = self.weights.get(self.client.clock, 0.0) + weight
            if self.cadence.carries == "gradient":
                for slice_id, grad in self.grads.items():
                    self.summed[slice_id] = self.summed.get(slice_id, 0) + grad.dtype.type(weight) * grad
        return self.client.push(grads, weight)

    def _step_replica(self, slices: Iterable[int]) -> None:
        local_lr = self.cadence.local_lr
        lr = self.session.lr * self.session.rate if local_lr is None else local_lr
        for slice_id in slices if self.arrays.keeps_replica else ():
            if slice_id in self.replica:
                scale = self.worker.keyspace.slices[slice_id].options.lr_scale
                old = self.replica[slice_id]
                self.replica[slice_id] = np.asarray(old - old.dtype.type(lr * scale) * self.grads[slice_id])

    def tick(self) -> None:
        """Finishes the clock."""
        self.worked = dict(self.read)
        for slice_id, base in enumerate(self.session.base_S.tolist()):
            self.witness.on_tick(self.rank, slice_id, base, self.client.clock)
        self.client.tick()
        self._take_in()

    def _take_in(self) -> None:
        """What has come of rounds that ended `overlap` clocks ago, or before, enters the replica."""
        clock = self.client.clock
        for slice_id in [*self.arrived]:
            if self.witness.rounds(slice_id, clock - self.cadence.overlap) == self.witness.rounds(slice_id, clock):
                self._enter(slice_id, *self.arrived.pop(slice_id))

    def _enter(self, slice_id: int, version: int, values: Array) -> None:
        own, self.taken[slice_id], self.pulled[slice_id] = self.replica.get(slice_id), version, values
        if own is None:
            self.since[slice_id] = self.client.clock
        if own is None or (self.cadence.elastic is None and not self.cadence.mix):
            self.replica[slice_id] = values
        elif self.cadence.elastic is None and self.worker.keyspace.slices[slice_id].trainable:
            self.replica[slice_id] = values + values.dtype.type(self.cadence.mix) * (own - values)

    # ---- hooks ------------------------------------------------------------------------------------------------------

    def _send_push(self, entry: PushEntry, parts: Any, take: Any) -> int:
        number: int = self.original["send"](entry, parts, take)
        weight = entry.weight
        if self.accumulates:
            self._take_in()  # a worker that leaves passes over clocks
            now = self.client.clock
            self.weights = {clock: one for clock, one in self.weights.items() if clock > now - self.cadence.push_every}
            mean = 1.0 if self.cadence.elastic is not None else sum(self.weights.values()) / len(self.weights)
            self.witness.expect(weight == mean, "frames", f"worker {self.rank}: weight {weight} instead of {mean}")
        else:
            self._step_replica(entry.open)
        for slice_id, (seq, base) in entry.open.items():
            frame = self.arrays.frames[number, slice_id].frame
            decoded = self._decoded(slice_id, frame)
            head = (self.rank, self.incarnation, slice_id, seq, self.client.clock, base, weight)
            push = PushSeen(*head, decoded, frame.codec)
            want = self._factors(slice_id) if frame.codec == FACTORS else self._frame(slice_id, weight)
            same = frame.codec == want.codec and frame.data.tobytes() == want.data.tobytes()
            same &= _bytes(frame.shared) == _bytes(want.shared)
            where = f"{push} on {self.witness.name(slice_id)}:"
            if self.witness.gather is not None and not self.witness.by_version:
                rounds = [self.witness.rounds(slice_id, clock) for clock in (push.clock, push.clock + 1)]
                self.witness.expect(rounds[0] < rounds[1], "frames", where, "travels before its round ends")
            self.witness.expect(same, "frames", where, "expected", want, "got", frame)
            self.pushes.append(push)
            self.witness.on_push(push)
        self.summed.clear()  # what an earlier incarnation has finished does not travel, nor later
        return number

    def _decoded(self, slice_id: int, frame: Frame) -> Array:
        """What a frame adds to the sum of its commit, at weight 1."""
        if frame.codec == RAW:
            return np.array(frame.data)
        item = self.worker.keyspace.slices[slice_id]
        if frame.codec == FACTORS:
            assert frame.shared is not None
            u, v, k = frame.data[16:].view(np.float32), frame.shared, len(frame.shared) // item.columns
            return product(u.reshape(k, item.rows), v.reshape(k, item.columns))
        codec, out = self.codecs.of_push(item), np.zeros(item.size, np.float32)
        assert codec is not None
        codec.decode_add(frame.data, out, 1.0)
        return out

    def _factors(self, slice_id: int) -> Frame:
        """What should travel of factors: both as they are; not while something of an earlier push is left."""
        where, given = f"worker {self.rank}: factors of {self.witness.name(slice_id)}", self.factors.get(slice_id)
        memory = self.memory.get(slice_id)
        left = memory is not None and memory.residual_N is not None and memory.residual_N.any()
        self.witness.expect(given is not None and not self.accumulates, "frames", where, "were never given")
        self.witness.expect(not left, "frames", where, "travel, and leave behind what is left from before")
        if given is None:
            return Frame(RAW, np.empty(0))
        (k, rows), columns = given.u.shape, given.v.shape[1]
        header = struct.pack("<BBHIQ", FACTORS, 1, 0, k, rows * columns)
        frame = header + given.u.astype("<f4").tobytes()
        return Frame(FACTORS, np.frombuffer(frame, np.uint8), given.v.astype("<f4"))

    def _frame(self, slice_id: int, weight: float) -> Frame:
        """What should travel for this slice: gradient, accumulated gradients or delta, and what is left from before."""
        if self.cadence.elastic is not None:
            distance = self.replica[slice_id] - self.pulled[slice_id]
            frame = distance * distance.dtype.type(self.cadence.elastic)
            self.replica[slice_id] = self.replica[slice_id] - frame
        elif self.cadence.carries == "delta":
            frame = self.pulled[slice_id] - self.replica[slice_id]
        elif self.accumulates:
            frame = self.summed[slice_id] / self.summed[slice_id].dtype.type(weight)
        else:
            frame = self.grads[slice_id]
        item = self.worker.keyspace.slices[slice_id]
        codec, memory = self.codecs.of_push(item), self._memory(slice_id)
        if codec is not None and self.client.clock >= codec.warmup and slice_id not in self.owed:
            data = np.empty(codec.bytes_max(item.rows, item.columns), np.uint8)
            length = codec.encode(np.asarray(frame, np.float32), memory, data)
            if length < item.nbytes:
                return Frame(codec.ID, data[:length])
            frame = self._decoded(slice_id, Frame(codec.ID, data[:length]))
        self.owed.discard(slice_id)
        if memory.residual_N is not None:
            frame = frame + memory.residual_N if memory.residual_N.any() or codec is not None else frame
            memory.residual_N[:] = 0
        return Frame(RAW, np.asarray(frame))

    def _memory(self, slice_id: int) -> Memory:
        """What the worker should remember of a slice, in units of the rate in force now."""
        item = self.worker.keyspace.slices[slice_id]
        codec, rate = self.codecs.of_push(item), self.session.lr * self.session.rate
        if slice_id not in self.memory:
            if codec is None:
                left = np.zeros(item.size, item.dtype) if self.codecs.feeds_back(item) else None
                self.memory[slice_id] = Memory(item.rows, item.columns, left)
            else:
                seed = self.arrays.encoder._seed(slice_id)
                self.memory[slice_id] = codec.memory(item.rows, item.columns, seed)
        memory = self.memory[slice_id]
        if memory.residual_N is not None and memory.lr not in (0, rate) and rate:
            memory.residual_N *= memory.residual_N.dtype.type(memory.lr / rate)
        memory.lr = rate
        return memory

    def _verdicts(self, message: Verdicts, now: float) -> Any:
        rows = zip(*(column.tolist() for column in (message.slice_E, message.seq_E, message.version_E)), strict=True)
        for (slice_id, seq, version), code in zip(rows, message.code_E.tolist(), strict=True):
            self.witness.on_verdict(self.rank, self.incarnation, slice_id, seq, (Code(code), version))
        actions = self.original["_verdicts"](message, now)
        for action in actions:
            if isinstance(action, Settled) and action.code == Code.LATE:
                frame, memory = self.arrays.frames[action.push, action.slice].frame, self._memory(action.slice)
                codec = self.codecs.of_push(self.worker.keyspace.slices[action.slice])
                if frame.codec == FACTORS and memory.residual_N is not None:
                    memory.residual_N += self._decoded(action.slice, frame)
                    self.owed.add(action.slice)
                elif frame.codec not in (RAW, FACTORS) and codec is not None:
                    codec.refund(frame.data, memory)
                elif frame.codec == RAW and memory.residual_N is not None:
                    memory.residual_N += frame.data
        return actions

    def _take(self, sender: PeerId, body: Any, buffers: Sequence[Array]) -> None:
        self.buffers = buffers
        self.original["_take"](sender, body, buffers)

    def _values(self, shard: int, message: Values, now: float) -> Any:
        actions = self.original["_values"](shard, message, now)
        if actions:
            codecs = message.codec_K.tolist() or [RAW] * len(message.slice_E)
            columns = (message.slice_E.tolist(), message.version_E.tolist(), message.min_clock_E.tolist(), codecs)
            for (slice_id, version, min_clock, codec), buffer in zip(
                zip(*columns, strict=True), self.buffers, strict=True
            ):
                frame = Frame(codec, buffer)
                values = self.witness.on_read(self.rank, slice_id, version, min_clock, frame)
                before = self.read.get(slice_id, 0)
                where = f"worker {self.rank} read {self.witness.name(slice_id)}"
                self.witness.expect(version >= before, "reads", where, f"at version {version} after {before}")
                self.read[slice_id] = version
                if self.cadence.overlap and slice_id in self.replica:
                    self.arrived[slice_id] = (version, values)
                else:
                    self._enter(slice_id, version, values)
        return actions

    def _ticked(self, shard: int, ticked: Ticked, now: float) -> Any:
        self.ticked[shard] = max(ticked.clock + 1, self.ticked.get(shard, 0))
        return self.original["_ticked"](shard, ticked, now)


def product(u_KM: Array, v_KN: Array) -> Array:
    """What factors stand for, flat, in the order that the servers keep."""
    total_MN = np.zeros((u_KM.shape[1], v_KN.shape[1]), np.float32)
    for k, (u_M, v_N) in enumerate(zip(u_KM.astype(np.float32), v_KN.astype(np.float32), strict=True)):
        total_MN = np.outer(u_M, v_N) if k == 0 else total_MN + np.outer(u_M, v_N)
    return total_MN.reshape(-1)


def _bytes(array: Array | None) -> bytes | None:
    return None if array is None else array.tobytes()
