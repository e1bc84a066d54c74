"""Gradients of a script become frames on their way: gathered, clipped, encoded, or accumulated for later."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ps import factors, kernels
from ps.buffers import Buffer
from ps.errors import ConfigError
from ps.factors import Factors
from ps.types import Array, Int64
from ps.worker.actions import Action, PushEntry, Send, Thin
from ps.worker.encoder import Packed

if TYPE_CHECKING:
    from ps.worker.runtime import Worker

log = logging.getLogger("ps")

Take: TypeAlias = Callable[[int], Buffer | Packed]  # slice -> its gradient, or the frame where that is known already
Pushed: TypeAlias = Mapping[str, Array | Factors]


class Pushing:
    """Pushes of one worker, which has joined."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._session, self._arrays = worker, worker.session, worker.arrays
        self._cadence = worker.session.model.cadence

    @property
    def rate(self) -> float:
        """The rate at which a gradient of this worker enters the values."""
        return self._session.lr * self._session.rate

    def push(self, grads: Pushed, weight: float, copy: bool, timeout_s: float) -> int:
        """Encodes and sends (or accumulates) one push; returns its id, or 0 when nothing travelled."""
        session, arrays = self._session, self._arrays
        if self._cadence.carries == "delta" and self._cadence.local_lr == 0:
            raise ConfigError(
                "push: expected local_lr > 0 in the consistency model, at which a worker steps, got 0; or step in the "
                "script: client.step_to(values)"
            )
        ids, thin, take = self.ready(grads, copy, timeout_s)
        if not self._cadence.accumulates:
            return self.send(*session.push(ids, weight, self._worker.port.now(), thin), take)
        arrays.weights[session.clock] = arrays.weights.get(session.clock, 0.0) + weight
        for slice_id in ids.tolist():
            buffer = take(slice_id)
            assert isinstance(buffer, Buffer)  # factors do not accumulate
            self._step_replica(slice_id, buffer)
            arrays.accumulate(slice_id, buffer.array, weight)
            buffer.release()
        return 0

    def step_to(self, values: Mapping[str, Array], weight: float) -> None:
        """The replica is what the script has made of it in this clock; what has moved travels as that of a push."""
        ids, arrays = self._worker.keyspace.slice_ids(values), self._arrays
        if not self._session.cached_S[ids].all():
            raise ConfigError("step_to: expected values that were pulled before, got some that were not; pull() first")
        self._worker.poll()
        arrays.weights[self._session.clock] = weight
        for slice_id in ids:
            moved = arrays.gather(slice_id, values, copy=True)
            np.copyto(arrays.replica[slice_id], moved.array)
            moved.release()
            arrays.summed.setdefault(slice_id, None)

    def ready(self, grads: Pushed, copy: bool, timeout_s: float) -> tuple[Int64, Mapping[int, Thin], Take]:
        """The slices of a push, those among them that travel as factors, and what gives the gradient of each."""
        worker, session, arrays = self._worker, self._session, self._arrays
        worker.poll()
        ids = np.array(worker.keyspace.slice_ids(grads), np.int64)
        if not session.cached_S[ids].all() or (self._cadence.carries == "delta" and len(session.travelling(ids))):
            worker.pull(list(grads), {}, timeout_s)  # nothing to measure a push against: no version, no replica yet
        if not self._cadence.accumulates:
            worker.wait(lambda: not session.must_wait(ids), timeout_s, lambda: "push: " + worker.missing.verdicts())
        clip_norm = worker.config.clip_norm
        copy |= clip_norm is not None  # else the caller's arrays are written
        products = {name: grad for name, grad in grads.items() if isinstance(grad, Factors)}
        dense = {name: grad for name, grad in grads.items() if not isinstance(grad, Factors)}
        for name in [name for name in products if worker.schemes.owes(name)]:  # known only now that all news is in
            dense[name] = products.pop(name).product()
        if clip_norm is not None:
            fresh = {i: arrays.gather(i, dense, copy) for i in ids.tolist()}
            arrays.clip(fresh.values(), clip_norm)
            return ids, {}, fresh.__getitem__
        thin, take_thin = self._thin(products)
        clock, encodes = session.clock, arrays.encoder.encodes

        def take(slice_id: int) -> Buffer | Packed:
            if slice_id in thin:
                return take_thin(slice_id)
            return arrays.gather(slice_id, dense, copy and not encodes(slice_id, clock))

        return ids, thin, take

    def _thin(self, grads: dict[str, Factors]) -> tuple[Mapping[int, Thin], Callable[[int], Packed]]:
        """What travels of parameters that are pushed as factors, and what gives the frame of each of their slices."""
        shared = {name: factors.shared(grad) for name, grad in grads.items()}
        owner = {slice_id: name for name in grads for slice_id in self._worker.keyspace.slices_of[name]}

        def take(slice_id: int) -> Packed:
            name = owner[slice_id]
            return self._arrays.encoder.pack_factors(slice_id, grads[name], shared[name])

        return self._worker.schemes.thin(grads), take

    def _step_replica(self, slice_id: int, frame: Buffer) -> None:
        if self._arrays.keeps_replica:
            local_lr = self._cadence.local_lr
            self._arrays.step(slice_id, frame.array, self.rate if local_lr is None else local_lr)

    def send(self, entry: PushEntry, parts: list[Action], take: Take) -> int:
        """Sends the parts as soon as each is there. What an earlier incarnation has pushed is in none.

        Whatever interrupts it leaves numbers behind that nothing will ever be sent for: then this worker is done.
        """
        self._worker.verdicts[entry.id] = {}
        began = self._worker.port.now()
        try:
            self._send_parts(entry, parts, take)
        except BaseException:
            self._session.fenced = (
                f"push: expected to send all of it at clock {entry.clock}, got an interruption; close this client and "
                f"start the worker again"
            )
            raise
        if self._worker.metrics.traces:
            self._worker.metrics.span("push", began, self._worker.port.now())
        return entry.id

    def _send_parts(self, entry: PushEntry, parts: list[Action], take: Take) -> None:
        traces = self._worker.metrics.traces
        for part in parts:
            assert isinstance(part, Send)
            for slice_id in part.body.slice_E.tolist():
                began = self._worker.port.now() if traces else 0.0
                taken = take(slice_id)
                if isinstance(taken, Buffer):
                    if not self._cadence.accumulates:
                        self._step_replica(slice_id, taken)
                    taken = self._arrays.encoder.pack(slice_id, taken, entry.clock, self.rate)
                self._arrays.frames[entry.id, slice_id] = taken
                if traces:
                    shared = taken.frame.shared
                    nbytes = taken.frame.data.nbytes + (0 if shared is None else shared.nbytes)
                    self._worker.metrics.span("encode", began, self._worker.port.now(), slice=slice_id, bytes=nbytes)
            self._worker.perform([part])

    def send_accumulated(self, timeout_s: float) -> None:
        """Sends what slices whose round ends have accumulated in it. What has overflowed is dropped whole, like a bad
        gradient, and the replica goes on from the values that were pulled."""
        worker, session, arrays = self._worker, self._session, self._arrays
        if not arrays.weights:
            return
        ids = np.array(sorted(arrays.summed), np.int64)
        ids = ids[session.ends_E(ids)]
        if is_elastic := self._cadence.elastic is not None:
            worker.refresh(ids, timeout_s)
        mean_weight = math.fsum(arrays.weights.values()) / len(arrays.weights)  # of one clock: the rate is per clock
        weight = 1.0 if is_elastic else mean_weight  # of a move, which is added as it is
        open_since = session.clock + 1 + self._cadence.stretch - self._cadence.push_every  # the round that ends next
        arrays.weights = {clock: one for clock, one in arrays.weights.items() if clock >= open_since}
        fresh = arrays.collect(ids.tolist(), weight)
        if not all(kernels.all_finite(buffer.array) for buffer in fresh.values()):
            worker.metrics.count("nonfinite_pushes")
            log.warning("worker %d: accumulated push at clock %d dropped: overflow", worker.rank, session.clock)
            for slice_id, buffer in fresh.items():
                buffer.release()
                if self._cadence.carries == "delta":
                    np.copyto(arrays.replica[slice_id], arrays.pulled[slice_id])
            return
        worker.wait(lambda: not session.must_wait(ids), timeout_s, lambda: "tick: " + worker.missing.verdicts())
        entry, parts = session.push(ids, weight, worker.port.now())
        for slice_id in entry.open if is_elastic else ():  # what leaves here comes in there
            np.subtract(arrays.replica[slice_id], fresh[slice_id].array, out=arrays.replica[slice_id])
        push = self.send(entry, parts, fresh.__getitem__)
        del worker.verdicts[push]  # nobody has a future for it
