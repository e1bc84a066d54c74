"""One shard and one worker of a simulation without payload: what their runtimes do, without arrays and threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ps.messages import Code, Join, Place, Spec, Values
from ps.server.actions import Action, Answer, Apply, Replicate, Waited
from ps.server.actions import Send as ServerSend
from ps.server.build import build_shard
from ps.server.ledger import Commit
from ps.sim.network import Processor
from ps.types import CONTROLLER, Int64, PeerId, WorkerId, server_peer, worker_peer
from ps.wire import LEAST_BYTES, PART_BYTES
from ps.worker.actions import Action as WorkerAction
from ps.worker.actions import Send, Settled
from ps.worker.core import Session
from ps.worker.resends import Key, Resends

if TYPE_CHECKING:
    from ps.sim.scale import Cluster

Steps: TypeAlias = Generator[float | None, None, None]  # seconds to spend; None: until a message is there
INCARNATION = 1


class ShardPeer:
    """A shard and its processor; see `ps.server.runtime`."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster, self.number, self.peer = cluster, number, server_peer(number)
        self.shard = build_shard(cluster.config, number)
        self.processor = Processor(cluster)
        self._posted: dict[PeerId, list[Any]] = {}
        self._heard: list[Any] = []  # while sessions join: there is no network yet
        specs = tuple(Spec.of(parameter) for parameter in cluster.keyspace.parameters)
        self.perform(self.shard.handle(Place(0, specs, 1, cluster.placed.shard_S), 0.0))
        self.perform(self.shard.on_init(0, cluster.placed.of_shard(number), 0.0))

    def welcome(self, rank: WorkerId) -> Any:
        """What a worker hears that joins before the first event."""
        self._posted.clear()
        self.perform(self.shard.handle(Join(rank, INCARNATION), 0.0))
        [body] = self._posted.pop(worker_peer(rank))
        return body

    def arrive(self, bodies: list[Any]) -> None:
        """What came under one header waits for the processor."""
        self.processor.do(self.cluster.network.server_message_s, partial(self._receive, bodies))

    def _receive(self, bodies: list[Any]) -> None:
        now, more = self.cluster.now, len(bodies) > 1
        for body in bodies:
            self.perform(self.shard.handle(body, now, more))
        if more:
            self.perform(self.shard.go_on(now))
        self._flush()

    def perform(self, actions: list[Action]) -> None:
        """As `ps.server.runtime.Server`, without arrays."""
        for action in actions:
            if isinstance(action, Replicate):
                if self.cluster.watch is not None:
                    self.cluster.watch(self.number, action.record)
            elif isinstance(action, ServerSend):
                if action.to != CONTROLLER:
                    self._posted.setdefault(action.to, []).append(action.body)
            elif isinstance(action, Answer):
                self._answer(action)
            elif isinstance(action, Apply):
                self._apply(action.commits)
            elif isinstance(action, Waited):
                self.cluster.outcome.waited_s[action.worker, action.waited_for] += action.seconds

    def _apply(self, commits: list[Commit]) -> None:
        if (seconds := self.cluster.network.apply_s(self.shard, commits)) > 0:
            self.processor.do_first(seconds, partial(self._finish, commits))
        else:
            self._applied(commits)

    def _finish(self, commits: list[Commit]) -> None:
        self._applied(commits)
        self._flush()

    def _applied(self, commits: list[Commit]) -> None:
        outcome = self.cluster.outcome
        for commit in commits:
            if commit.contributions:
                outcome.staleness[commit.staleness] += 1
        self.perform(self.shard.on_applied(commits, self.cluster.now))

    def _answer(self, answer: Answer) -> None:
        ids = self.shard.ledger.ids_S[answer.slices]
        nbytes_E = self.cluster.pull_bytes[ids]
        first = nbytes = sent = 0
        for place_, size in enumerate(nbytes_E.tolist(), 1):
            nbytes += max(size, LEAST_BYTES)
            sent += size
            if nbytes >= PART_BYTES or place_ == len(ids):
                part = slice(first, place_)
                columns = (ids[part], answer.version_E[part], answer.min_clock_E[part])
                self._send(answer.to, Values(answer.id, *columns, answer.lr, answer.rate), sent)
                first, nbytes, sent = place_, 0, 0

    def _flush(self) -> None:
        if self._posted:
            posted, self._posted = self._posted, {}
            for to, bodies in posted.items():
                self._hand_over(to, bodies, 0)

    def _send(self, to: PeerId, body: Any, nbytes: int) -> None:
        self._hand_over(to, [*self._posted.pop(to, ()), body], nbytes)

    def _hand_over(self, to: PeerId, bodies: list[Any], nbytes: int) -> None:
        worker = self.cluster.workers[int(to[7:])]
        self.cluster.send(self.peer, to, bodies, nbytes, partial(worker.arrive, self.number, bodies, nbytes))


class _Calm(Resends):
    """Nothing is lost here, so nothing is sent again."""

    def sent(self, key: Key, now: float) -> None:
        pass

    def moves(self, key: Key, now: float) -> None:
        pass


class WorkerPeer:
    """A session and its training loop; see `ps.worker.runtime`."""

    def __init__(self, cluster: Cluster, rank: int, random: Random) -> None:
        self.cluster, self.random, self.peer = cluster, random, worker_peer(rank)
        config = cluster.config
        model = config.model()
        self.cadence = model.cadence
        self.session = Session(
            rank, INCARNATION, model, config.servers, cluster.overlays, inflight_clocks=config.inflight_clocks
        )
        self.session.resends = _Calm(config.resend_s)
        self.session.place(cluster.placed.shard_S, cluster.nbytes_S)
        for shard, server in enumerate(cluster.servers):
            self.session.handle(shard, server.welcome(self.session.rank), 0.0)
        self.all_S: Int64 = np.arange(len(cluster.nbytes_S))
        self.is_over = self._waits = False
        self._inbox: deque[tuple[int, list[Any], int]] = deque()
        self._posted: dict[PeerId, list[Any]] = {}
        self._steps = self._train()

    def arrive(self, shard: int, bodies: list[Any], nbytes: int) -> None:
        """A message is there, with so many bytes in buffers."""
        self._inbox.append((shard, bodies, nbytes))
        if self._waits:
            self.go_on()

    def go_on(self) -> None:
        """Goes on with the training loop until it waits, or spends time."""
        self._waits = False
        for seconds in self._steps:
            if seconds is None:
                self._waits = True
            else:
                self.cluster.at(self.cluster.now + seconds, self.go_on)
            return
        self.is_over = True

    # ---- the training loop ------------------------------------------------------------------------------------------

    def _train(self) -> Steps:
        cluster, session, end_CW = self.cluster, self.session, self.cluster.outcome.end_CW
        yield from self._pull(self.all_S)
        end_CW[0, session.rank] = cluster.now
        for clock in range(1, cluster.clocks + 1):
            if seconds := cluster.profile.compute_s(session.rank, self.random):
                yield seconds
            yield from self._push_pull()
            end_CW[clock, session.rank] = cluster.now
        yield from self._until(lambda: session.is_settled)
        self._perform(session.leave(cluster.now))
        yield from self._until(lambda: session.has_left)

    def _push_pull(self) -> Steps:
        session, cluster, cadence = self.session, self.cluster, self.cadence
        yield from self._poll()
        if cadence.accumulates or cadence.lazy:
            if not cadence.accumulates:
                yield from self._push()
            elif session.push_travels:
                session.skip_to_travelling_clock()
                if cadence.elastic is not None:
                    yield from self._fetch(self.all_S)
                yield from self._push()
            yield from self._poll()
            self._perform(session.tick(cluster.now))
            yield from self._flush()
            yield from self._pull(session.travelling(self.all_S))
            return
        yield from self._until(lambda: not session.must_wait(self.all_S))
        _, parts = session.push(self.all_S, 1.0, cluster.now)
        self._perform(session.tick(cluster.now))
        _, asked = session.pull(self.all_S, cluster.now)
        self._perform(asked)
        yield from self._send(parts)
        yield from self._until(lambda: not session.pulls)

    def _push(self) -> Steps:
        session = self.session
        yield from self._until(lambda: not session.must_wait(self.all_S))
        yield from self._send(session.push(self.all_S, 1.0, self.cluster.now)[1])

    def _pull(self, ids: Int64) -> Steps:
        yield from self._poll()
        if len(ids):
            yield from self._fetch(ids)

    def _fetch(self, ids: Int64) -> Steps:
        session = self.session
        self._perform(session.pull(ids, self.cluster.now)[1])
        yield from self._until(lambda: not session.pulls)

    # ---- messages ---------------------------------------------------------------------------------------------------

    def _until(self, done: Callable[[], bool]) -> Steps:
        while not done():
            if self._posted:
                yield from self._flush()
            if not self._inbox:
                yield None
            yield from self._take()
        yield from self._flush()

    def _poll(self) -> Steps:
        while self._inbox:
            yield from self._take()
        yield from self._flush()

    def _take(self) -> Steps:
        shard, bodies, nbytes = self._inbox.popleft()
        if seconds := self.cluster.network.decode_s(nbytes):
            yield seconds
        now = self.cluster.now
        for body in bodies:
            if actions := self.session.handle(shard, body, now):
                self._perform(actions)

    def _perform(self, actions: list[WorkerAction]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self._posted.setdefault(action.to, []).append(action.body)
            elif isinstance(action, Settled) and action.code is Code.LATE:
                self.cluster.outcome.refused += 1

    def _flush(self) -> Steps:
        if self._posted:
            posted, self._posted = self._posted, {}
            for to, bodies in posted.items():
                yield from self._hand_over(to, bodies, 0)

    def _send(self, parts: list[WorkerAction]) -> Steps:
        for part in parts:
            assert isinstance(part, Send)
            nbytes = sum(self.cluster.push_bytes[part.body.slice_E].tolist())
            yield from self._hand_over(part.to, [*self._posted.pop(part.to, ()), part.body], nbytes)
        yield from self._flush()

    def _hand_over(self, to: PeerId, bodies: list[Any], nbytes: int) -> Steps:
        if seconds := self.cluster.network.encode_s(nbytes):
            yield seconds
        server = self.cluster.servers[int(to[7:])]
        self.cluster.send(self.peer, to, bodies, nbytes, partial(server.arrive, bodies))
