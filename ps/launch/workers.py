"""The worker processes of one job, wherever they run: what their ends mean for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ps.config import RunConfig
from ps.launch.ends import End, Failure, blamed, judge
from ps.launch.supervisor import GRACE_S, Exit
from ps.launch.view import View
from ps.launch.watch import Watch

SETTLE_S = 2.0  # from a worker's exit until its last message must have arrived


class Losses(Protocol):
    """What is needed of `ps.control.service.ControlServer`."""

    def worker_lost(self, rank: int, why: str) -> None: ...


@dataclass
class Workers:
    """For one thread.

    runs(rank): its process has not ended. again(rank, why): somebody will take the place of a lost worker; says so.
    """

    config: RunConfig
    control: Losses
    watch: Watch
    view: View
    runs: Callable[[int], bool]
    again: Callable[[int, str], bool]
    grace_s: float = GRACE_S
    failure: Failure | None = None  # the first thing that went wrong; with it the job ends
    loss: Failure | None = None  # of a worker that the others went on without
    exits: dict[int, Exit] = field(default_factory=dict)  # rank -> its last
    unclear: dict[int, float] = field(default_factory=dict)  # rank of an ended worker -> when to judge at the latest
    blamed_at: float = 0.0  # the job has failed: so long the one to blame may take to end
    silent: dict[int, float] = field(default_factory=dict)  # rank that is lost while its process goes on -> since when
    given_up: set[int] = field(default_factory=set)  # those that were told

    def take(self, rank: int, exit: Exit) -> None:
        """Its process has ended."""
        self.exits[rank] = exit
        self.unclear[rank] = time.monotonic() + SETTLE_S

    def look(self, now: float) -> None:
        """After each look at the controller: judges the workers that have ended, and a job that has failed."""
        self._note_losses(now)
        for rank in list(self.unclear):
            self._judge(rank, now)
        outcome = self.watch.outcome
        if outcome is not None and outcome[1]:
            self._on_failed(outcome[0], now)

    def note_loss(self, rank: int) -> None:
        """Says once that a living worker was lost."""
        if rank not in self.given_up:
            self.given_up.add(rank)
            has_lease = self.config.lease_s < float("inf")
            silent = f"no progress for {self.config.lease_s:g} s" if has_lease else "its connection has ended"
            why = f"worker {rank}: {silent}"
            self.view.note(f"{why}; {'it may come back' if self.config.on_worker_loss == 'wait' else 'lost'}")
            if self.config.on_worker_loss == "drop":
                self.loss = self.loss or Failure(f"{why}; it was lost")

    def lose(self, rank: int, why: str, exit: Exit | None = None) -> None:
        """It is gone without having left the cluster; exit: what is known of its end."""
        self.control.worker_lost(rank, why)
        over = self.watch.outcome is not None  # nobody goes on
        if not over and self.again(rank, why):
            return
        failure = Failure(f"worker {rank}: {why}", exit)
        if self.config.on_worker_loss == "wait":
            self.failure = self.failure or failure  # nobody will bring it back, so there is nothing to wait for
        else:
            if self.loss is None or self.loss.exit is None:
                self.loss = failure  # now with its last words
            others = "have finished" if over else "go on without it (--on-worker-loss drop)"
            self.view.note(f"worker {rank}: {why}; the others {others}")

    def verdict(self) -> Failure | None:
        """Why the job is not what was asked for; None: it is."""
        if self.failure is None and self.loss is not None:
            return Failure(f"{self.loss.why}; the others have finished", self.loss.exit)
        return self.failure

    def _note_losses(self, now: float) -> None:
        """Workers that the controller has given up though their processes live: a lease ran out."""
        for worker in self.watch.workers:
            rank = worker["rank"]
            if worker["state"] != "lost" or not self.runs(rank):
                self.silent.pop(rank, None)
            elif now - self.silent.setdefault(rank, now) > SETTLE_S:
                self.note_loss(rank)  # an end of its process would have been seen by now

    def _judge(self, rank: int, now: float) -> None:
        """Finishes, replaces or gives up a worker whose process has ended."""
        exit = self.exits[rank]
        state = next(worker["state"] for worker in self.watch.workers if worker["rank"] == rank)
        end, why = judge(exit, state, self.watch.outcome, now >= self.unclear[rank])
        if end is End.UNCLEAR or self.failure is not None:
            return
        del self.unclear[rank]
        if end is End.BROKEN:
            self.failure = Failure(f"worker {rank}: {why}", exit)
        elif end is End.LOST:
            self.lose(rank, why, exit)

    def _on_failed(self, reason: str, now: float) -> None:
        """The one to blame may still be printing its traceback."""
        rank = blamed(reason)
        self.blamed_at = self.blamed_at or now + self.grace_s
        if rank is None or not self.runs(rank) or now >= self.blamed_at:
            exit = None if rank is None else self.exits.get(rank)
            lost = [worker["rank"] for worker in self.watch.workers if worker["state"] == "lost"]
            first = self.loss.exit if self.loss is not None and rank in lost else exit
            self.failure = self.failure or Failure(reason, first)
