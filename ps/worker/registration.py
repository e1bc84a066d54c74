"""Parameters of a script become slices on servers: placed by the controller, initialised by one worker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ps.buffers import Buffer
from ps.compression.auto import AUTO, decided
from ps.compression.summary import summary
from ps.consistency import Gather
from ps.keyspace import Options, Parameter
from ps.messages import BatchReady, Register, Registered, Spec
from ps.types import CONTROLLER, Array, WorkerId
from ps.worker.probe import measure
from ps.worker.standing import knows_updates

if TYPE_CHECKING:
    from ps.worker.runtime import Worker


class Registration:
    """Batches of parameters of one worker. initial: values that are being sent, by slice."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.batches = 0
        self.answers: dict[int, Registered] = {}  # batch -> what the controller has said
        self.initial: dict[int, Buffer] = {}

    def register(
        self, batch: Mapping[str, Array], options: Mapping[str, Options], optimizer: str, timeout_s: float
    ) -> None:
        """One batch of parameters; returns when they are placed and, where it is on us, initialised."""
        worker = self._worker
        parameters = [Parameter.of(name, values, options[name]) for name, values in batch.items()]
        number = self.batches
        specs = tuple(Spec.of(parameter) for parameter in parameters)
        if worker.config.compression == AUTO:
            measure(worker, timeout_s)
        worker.post(
            CONTROLLER, Register(WorkerId(worker.rank), worker.incarnation, number, specs, worker.link, optimizer)
        )
        answer = self._answer(number, timeout_s)
        if optimizer and not number:
            worker.adopt(optimizer)
        if answer.compression:
            parameters = [replace(p, options=decided(worker.config, p.options, answer.compression)) for p in parameters]
            self._say(lambda: f"compression {answer.compression}: {answer.why}")
        if not knows_updates(worker.config, parameters):
            worker.session.overlays = False
        ids = worker.keyspace.extend(parameters)
        slices = [worker.keyspace.slices[i] for i in ids]
        shared = isinstance(worker.session.model.commit(1), Gather)
        self._say(lambda: summary(slices, worker.arrays.codecs, worker.size, shared))
        self.batches += 1
        worker.session.place(answer.shard_E, np.array([item.nbytes for item in slices]))
        if answer.initialise:
            self._initialise(ids, batch, timeout_s)
            worker.post(CONTROLLER, BatchReady(WorkerId(worker.rank), worker.incarnation, number))
            self._answer(number, timeout_s)

    def _say(self, what: Callable[[], str]) -> None:
        """One worker tells the user what holds for all; the others need not put it into words."""
        if self._worker.rank == 0 and self._worker.incarnation == 1 and (text := what()):
            print(f"ps: {text}", file=sys.stderr, flush=True)

    def _answer(self, number: int, timeout_s: float) -> Registered:
        """The controller's answer: where the batch lives."""
        worker = self._worker
        worker.behind = None
        worker.wait(lambda: number in self.answers, timeout_s, lambda: worker.missing.at_registration(number))
        return self.answers.pop(number)

    def _initialise(self, ids: Iterable[int], batch: Mapping[str, Array], timeout_s: float) -> None:
        """Sends the initial values; returns when the shards have them."""
        worker = self._worker
        flat = {name: np.ascontiguousarray(values) for name, values in batch.items()}
        mine = {i: worker.arrays.gather(i, flat, copy=True) for i in ids}
        self.initial |= mine
        worker.perform(worker.session.init(mine, worker.port.now()))
        worker.wait(lambda: worker.session.is_initialised, timeout_s, worker.missing.silent_shards)
        for slice_id in mine:
            self.initial.pop(slice_id).release()
