"""One worker's decisions: what it sends, what it waits for, what it sends again. No I/O, no arrays of values.

Calls of the training loop and messages in, actions out. S: all registered slices by id; E: slices of one message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ps.consistency import Consistency
from ps.messages import (
    NO_MARKS,
    Ask,
    Code,
    Gap,
    Init,
    InitDone,
    Join,
    Leave,
    LeaveDone,
    Pull,
    Push,
    Rejected,
    Tick,
    Ticked,
    Values,
    Verdicts,
    Waiting,
    Welcome,
)
from ps.types import Clock, Int64, PeerId, WorkerId, server_peer
from ps.worker.actions import Action, Deliver, PullEntry, PushEntry, Send, Settled, Thin
from ps.worker.parts import NOTHING_THIN, cut
from ps.worker.resends import INIT, Key, Resends
from ps.worker.standing import Standing

VERDICTS = {int(code): code for code in Code}  # `Code(1)` takes ten times as long
NO_VERSION = 1 << 62  # as the base of a tick: whatever round is open, it is not delivered
PUSHES_IN_FLIGHT_MAX = 32  # per slice; the shard keeps more verdicts than that


class Session(Standing):
    """The worker's side of every exchange with the shards."""

    def __init__(
        self,
        rank: int,
        incarnation: int,
        model: Consistency,
        shards: int,
        overlays: bool = False,
        resend_s: float = 1.0,
        inflight_clocks: int = 2,
    ) -> None:
        super().__init__(model, shards, overlays)
        self.rank, self.incarnation = WorkerId(rank), incarnation
        self.inflight_clocks = inflight_clocks
        self.lr, self.rate = 0.0, 1.0
        self.late_clock = -1  # last clock that some shard closed too late for a round
        self.pushes: dict[int, PushEntry] = {}
        self.pulls: dict[int, PullEntry] = {}
        self.fenced: str | None = None
        self.heard: dict[int, float] = {}  # shard -> last sign of life
        self._push_of: dict[tuple[int, int], int] = {}  # (slice, number) -> push
        self.resends = Resends(resend_s)
        self._ticks: dict[tuple[int, int], Tick] = {}  # (shard, clock)
        self._inits: dict[int, set[int]] = {}  # shard -> slices whose values are not confirmed
        self._left: set[int] = set()
        self._next_id = (incarnation << 32) + 1  # a late answer to an earlier incarnation meets no id of this one

    # ---- joining and slices -----------------------------------------------------------------------------------------

    def join(self, now: float) -> list[Action]:
        """Asks every shard where this worker stands."""
        return [send for shard in range(self.shards) for send in self._again(("join", shard), now)]

    @property
    def is_joined(self) -> bool:
        return len(self.welcomed) == self.shards

    def init(self, slice_ids: Iterable[int], now: float) -> list[Action]:
        """Sends the initial values of these slices."""
        for slice_id in slice_ids:
            self._inits.setdefault(int(self.shard_S[slice_id]), set()).add(int(slice_id))
        return [send for shard in sorted(self._inits) for send in self._again(("init", shard, INIT), now)]

    @property
    def is_initialised(self) -> bool:
        return not self._inits

    # ---- the training loop ------------------------------------------------------------------------------------------

    def must_wait(self, slice_ids: Int64) -> bool:
        """Too many frames are unsettled: pushing now would keep more than `inflight_clocks` of them."""
        late = self.late_clock == self.clock - 1  # others may wait for this very push
        if not late and any(entry.clock <= self.clock - self.inflight_clocks for entry in self.pushes.values()):
            return True
        open_pushes = [entry.open for entry in self.pushes.values()]
        return len(open_pushes) >= PUSHES_IN_FLIGHT_MAX and any(
            sum(int(s) in one for one in open_pushes) >= PUSHES_IN_FLIGHT_MAX for s in slice_ids
        )

    def push(
        self, slice_ids: Int64, weight: float, now: float, thin: Mapping[int, Thin] = NOTHING_THIN
    ) -> tuple[PushEntry, list[Action]]:
        """Gives out the push numbers; what an earlier incarnation has pushed of this clock is left out.

        thin: what travels of the slices that are pushed as factors.
        """
        ids = slice_ids[self.finished_S[slice_ids] <= self.clock]
        if self.ahead:
            ids = np.array([i for i in ids.tolist() if not self._is_repeated(i)], np.int64)
        self.seq_S[ids] += 1
        self.wrote_S[ids] = True
        entry = PushEntry(self._take_id(), self.clock, weight, {}, {}, thin=thin)
        for slice_id, seq, base in zip(ids.tolist(), self.seq_S[ids].tolist(), self.base_S[ids].tolist(), strict=True):
            entry.open[slice_id] = (seq, base)
            entry.of_shard.setdefault(self.shard_of[slice_id], []).append(slice_id)
            self._push_of[slice_id, seq] = entry.id
        if entry.open:
            self.pushes[entry.id] = entry
        return entry, [send for shard in sorted(entry.of_shard) for send in self._again(("push", shard, entry.id), now)]

    def tick(self, now: float) -> list[Action]:
        """This worker has finished a clock. Told to every shard when a push or pull may follow."""
        cadence = self.model.cadence
        clock, self.clock = self.clock, Clock(self.clock + 1)
        if self.clock % cadence.stretch and self.clock % cadence.pull_every:
            return []
        self.told = self.clock
        actions: list[Action] = []
        for shard in range(self.shards):
            ids = self.ids_of[shard]
            tick = Tick(self.rank, self.incarnation, clock, ids, self.seq_S[ids], self.base_S[ids])
            self._ticks[shard, clock] = tick
            actions += self._again(("tick", shard, clock), now)
        return actions

    def pull(self, slice_ids: Int64, now: float) -> tuple[PullEntry, list[Action]]:
        """Asks the shards for these slices."""
        shard_E = self.shard_S[slice_ids]
        missing = {}
        for shard in sorted(set(shard_E.tolist())):
            ids = slice_ids[shard_E == shard]
            missing[shard] = (ids, self.seq_S[ids])
        entry = PullEntry(self._take_id(), self.told, missing)
        self.pulls[entry.id] = entry
        return entry, [send for shard in missing for send in self._again(("pull", shard, entry.id), now)]

    def take_back(self, pull: PullEntry, slice_ids: Int64, now: float) -> None:
        """These answers could not be read: they are asked for again, whole."""
        self.mark_S[slice_ids] = 0
        self.pulls[pull.id] = pull
        for shard in np.unique(self.shard_S[slice_ids]).tolist():
            here = slice_ids[self.shard_S[slice_ids] == shard]
            ids, seq_E = pull.missing.get(shard, (here[:0], here[:0]))
            pull.missing[shard] = (np.concatenate((ids, here)), np.concatenate((seq_E, self.seq_S[here])))
            self.resends.at_once(("pull", shard, pull.id), now)

    def abandon(self, pull: PullEntry) -> None:
        """Nobody waits for this pull any more."""
        self.pulls.pop(pull.id, None)

    @property
    def is_settled(self) -> bool:
        """Every push has a verdict (gathered is one) and every tick is known."""
        return not self._ticks and all(len(e.gathered) == len(e.open) for e in self.pushes.values())

    def has_closed(self, clock: Clock) -> bool:
        """This clock is finished, and every shard has all that was pushed up to its end."""
        return clock < self.clock and all(open_clock > clock for _, open_clock in self._ticks)

    def leave(self, now: float) -> list[Action]:
        """Leaves the clock minimum of every shard."""
        return [send for shard in range(self.shards) for send in self._again(("leave", shard), now)]

    @property
    def has_left(self) -> bool:
        return len(self._left) == self.shards

    # ---- messages and time ------------------------------------------------------------------------------------------

    def handle(self, shard: int, message: Any, now: float) -> list[Action]:
        """One message of a shard. What was asked by an earlier incarnation is passed over."""
        self.heard[shard] = now
        match message:
            case Verdicts(incarnation) if incarnation == self.incarnation:
                return self._verdicts(message, now)
            case Values():
                return self._values(shard, message, now)
            case Ticked(incarnation) if incarnation == self.incarnation:
                return self._ticked(shard, message, now)
            case Gap(incarnation) if incarnation == self.incarnation:
                self._gap(message, now)
            case Waiting() if message.id in self.pulls:
                self.pulls[message.id].note = message
            case Welcome(incarnation) if incarnation == self.incarnation:
                return self._welcome(shard, message, now)
            case InitDone(slice_E):
                left = self._inits.get(shard, set()) - set(slice_E.tolist())
                self._inits[shard] = left
                self.resends.moves(("init", shard, INIT), now)
                if not left:
                    del self._inits[shard]
            case LeaveDone(incarnation) if incarnation == self.incarnation:
                self._left.add(shard)
            case Rejected() if message.incarnation in (0, self.incarnation):
                self.fenced = message.reason
        return []

    def on_timer(self, now: float) -> list[Action]:
        """Sends again what has been unanswered for too long."""
        return [send for key in self.resends.take_due(now, self._is_open) for send in self._again(key, now)]

    def next_timer(self) -> float:
        """When `on_timer` has something to do; infinity when nothing is unanswered."""
        return self.resends.next()

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _is_open(self, key: Key) -> bool:
        match key:
            case ("join", shard):
                return shard not in self.welcomed
            case ("init", shard, _):
                return shard in self._inits
            case ("push", shard, push):
                entry = self.pushes.get(push)
                return entry is not None and any(slice_id in entry.open for slice_id in entry.of_shard[shard])
            case ("tick", shard, clock):
                return (shard, clock) in self._ticks
            case ("pull", shard, pull):
                return pull in self.pulls and shard in self.pulls[pull].missing
            case _:
                return key[1] not in self._left

    def _again(self, key: Key, now: float) -> list[Send]:
        """The message that `key` stands for, in parts where it is large, and the time of its next try."""
        self.resends.sent(key, now)
        to = server_peer(key[1])
        rank, incarnation = self.rank, self.incarnation
        match key:
            case ("join", _):
                return [Send(to, Join(rank, incarnation))]
            case ("init", shard, _):
                ids = np.array(sorted(self._inits[shard]))
                return [Send(to, Init(rank, incarnation, part), init=True) for part in cut(ids, self.nbytes_S)]
            case ("push", shard, push):
                return self._push_messages(to, shard, push)
            case ("tick", shard, clock):
                return [Send(to, self._ticks[shard, clock])]
            case ("pull", shard, pull):
                entry = self.pulls[pull]
                ids, seq_E = entry.missing[shard]
                late = 0 < entry.clock == self.late_clock + 1
                mark_K = self.mark_S[ids] if np.count_nonzero(self.mark_S) else NO_MARKS
                return [Send(to, Pull(rank, incarnation, pull, min(self.pulls), entry.clock, late, ids, seq_E, mark_K))]
            case _:
                return [Send(to, Leave(rank, incarnation))]

    def _push_messages(self, to: PeerId, shard: int, push: int) -> list[Send]:
        """The push itself for slices that have not answered; once all have it, a question for the final verdict."""
        entry = self.pushes[push]
        here = [s for s in entry.of_shard[shard] if s in entry.open]
        ids = [s for s in here if s not in entry.gathered]
        head = (self.rank, self.incarnation)
        if not ids:
            return [Send(to, Ask(*head, np.array(here), np.array([entry.open[s][0] for s in here])))]
        sends = []
        for part in cut(np.array(ids), self.nbytes_S, entry.thin):
            seq_E, base_E = np.array([entry.open[s] for s in part.tolist()]).T
            body = Push(*head, entry.clock, entry.weight, part, seq_E, base_E)
            sends.append(Send(to, body, push=push))
        return sends

    def _verdicts(self, message: Verdicts, now: float) -> list[Action]:
        actions: list[Action] = []
        slice_ids, seqs, codes = message.slice_E.tolist(), message.seq_E.tolist(), message.code_E.tolist()
        for slice_id, seq, code, version in zip(slice_ids, seqs, codes, message.version_E.tolist(), strict=True):
            push = self._push_of.get((slice_id, seq))
            if push is None:
                continue
            entry = self.pushes[push]
            self.resends.moves(("push", self.shard_of[slice_id], push), now)
            if code == Code.GATHERED:
                entry.gathered.add(slice_id)
                continue
            entry.gathered.discard(slice_id)
            del entry.open[slice_id], self._push_of[slice_id, seq]
            if not entry.open:
                del self.pushes[push]
            actions.append(Settled(push, slice_id, VERDICTS[code], version))
        return actions

    def _values(self, shard: int, message: Values, now: float) -> list[Action]:
        entry = self.pulls.get(message.id)
        if entry is None or shard not in entry.missing:
            return []
        asked, seq_E = entry.missing[shard]
        ids = message.slice_E
        if not self.follows(message):
            return []  # the view has moved since this pull was sent: it is asked again, with the new mark
        if asked.tobytes() == ids.tobytes():
            del entry.missing[shard]
        else:
            came_E = np.isin(asked, ids)
            if came_E.sum() != len(ids):
                return []  # a second copy, or one cut at other places: what is missing is asked for again
            entry.missing[shard] = (asked[~came_E], seq_E[~came_E])
            self.resends.moves(("pull", shard, entry.id), now)
        self.base_S[ids], self.min_clock_S[ids] = message.version_E, message.min_clock_E
        self.cached_S[ids], self.wrote_S[ids] = True, False
        if len(message.mark_K):
            self.mark_S[ids] = message.mark_K
        if self.steps_locally:
            self.round_S[ids] = self._round_E(ids)
        self.lr, self.rate = message.lr, message.rate
        if not entry.missing:
            del self.pulls[entry.id]
        return [Deliver(entry.id)]

    def _ticked(self, shard: int, ticked: Ticked, now: float) -> list[Action]:
        for key in [k for k in self._ticks if k[0] == shard and k[1] <= ticked.clock]:
            del self._ticks[key]
        if not ticked.late or ticked.clock <= self.late_clock:
            return []
        self.late_clock = ticked.clock  # the other shards have to know, or workers could wait for one another
        waiting = [entry for entry in self.pulls.values() if entry.clock == ticked.clock + 1]
        keys = [("pull", shard, entry.id) for entry in waiting for shard in entry.missing]
        return [send for key in keys for send in self._again(key, now)]

    def _gap(self, gap: Gap, now: float) -> None:
        """The shard misses pushes of these slices: they are due at once, in order."""
        last_of = dict(zip(gap.slice_E.tolist(), gap.seq_E.tolist(), strict=True))
        for entry in self.pushes.values():
            for slice_id, (seq, _) in entry.open.items():
                if seq > last_of.get(slice_id, 2**62):
                    entry.gathered.discard(slice_id)
                    self.resends.at_once(("push", int(self.shard_S[slice_id]), entry.id), now)

    def _welcome(self, shard: int, welcome: Welcome, now: float) -> list[Action]:
        """Once all have answered: a member goes on where it stood, a joiner starts at the latest clock of any shard."""
        if shard in self.welcomed:
            return []
        self.welcomed[shard] = welcome
        if not welcome.joined:
            self.ahead.update(zip(welcome.ahead_slice_P.tolist(), welcome.ahead_clock_P.tolist(), strict=True))
        if not self.is_joined:
            return []
        stretch = self.model.cadence.stretch
        if not (self.by_version or any(w.joined for w in self.welcomed.values())):
            return self._goes_on(now)
        latest = max(int(w.clock_E.max(initial=w.clock)) for w in self.welcomed.values())
        start = -(-latest // stretch) * stretch
        if start == 0:
            return []
        self.clock = Clock(start - 1)
        actions = self.tick(now)  # on shards that are behind, it has finished everything before without a push
        return self._jumps(Clock(start - 1)) if self.by_version else actions

    def _goes_on(self, now: float) -> list[Action]:
        """From the last exchange that all slices have seen; what was accumulated since then has died.

        A shard may have missed ticks that meant nothing for its slices: it is told.
        """
        self.clock = self.told = self.last_exchange()
        holders = [w for w in self.welcomed.values() if len(w.slice_E)]  # nobody waits for ticks of the others
        if all(w.clock >= self.clock for w in holders):
            return []
        self.clock = Clock(self.clock - 1)
        return self.tick(now)

    def _jumps(self, clock: Clock) -> list[Action]:
        """Where rounds are versions, that delivers nothing: it enters the open round of every slice alike.

        Had it delivered on some, others could wait for it on the rest while it waits for them.
        """
        for shard, w in self.welcomed.items():
            base_E = np.full(len(w.slice_E), NO_VERSION)
            self._ticks[shard, clock] = Tick(self.rank, self.incarnation, clock, w.slice_E, w.seq_E, base_E)
        return [Send(server_peer(shard), self._ticks[shard, clock]) for shard in self.welcomed]
