"""Replays recordings: the same records and frames through the same ledger and values, so the same bytes.

With other options it is an open-loop replay: the same gradients in the same order, met by another server side. That
gradients would have been computed on other values then is what it cannot know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace

from ps.buffers import Buffer
from ps.compression.choice import RAW, Codecs, Frame
from ps.compression.rules import AUTO
from ps.config import RunConfig
from ps.consistency import Cadence, Gather
from ps.errors import ConfigError, FrameError
from ps.keyspace import Keyspace, Slice
from ps.optim import optimizer
from ps.optim.base import Optimizer
from ps.optim.wrapper import Wrapper
from ps.record.entries import End, Registered
from ps.record.reader import Recording
from ps.server.build import build_follower
from ps.server.ledger import Added, Adopted, Commit, Initialised, Joined, LrChanged, Record
from ps.server.values import checksum
from ps.types import Array
from ps.worker.arrays import Arrays
from ps.worker.encoder import Encoder, Packed, encoder_seed


@dataclass(frozen=True)
class Changes:
    """What a replay does otherwise than the run; None: as it was."""

    optimizer: str | None = None
    lr: float | None = None
    schedule: str | None = None
    compression: str | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) is not None for one in fields(self))

    @property
    def of_rate(self) -> bool:
        """The rates that were recorded do not hold."""
        return any(change is not None for change in (self.optimizer, self.lr, self.schedule))

    def applied_to(self, config: RunConfig) -> RunConfig:
        """Raises: ConfigError naming the flag, for what does not exist, or does not go with the rest of the run."""
        options = config.model_dump()
        for name in ("optimizer", "schedule"):
            options[name] = getattr(self, name) or options[name]
        if self.compression is not None:
            if AUTO in (config.compression, self.compression):
                raise ConfigError(
                    f"--compression: expected codecs that are named, got {self.compression} in place of "
                    f"{config.compression}; auto chooses one for each parameter, by a link that is measured"
                )
            options |= {"compression": self.compression, "push_compression": None, "pull_compression": None}
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise ConfigError(f"--lr: expected a number > 0, got {self.lr}")
        try:
            return RunConfig.check(options)
        except ConfigError as error:  # the run was one, so it is one of these
            raise ConfigError(f"--{error}") from None

    def applied_to_rule(self, rule: Optimizer) -> Optimizer:
        """The optimizer at the rate that was asked for, however deep in its wrappers."""
        if self.lr is None:
            return rule
        if isinstance(rule, Wrapper):
            return replace(rule, inner=self.applied_to_rule(rule.inner))
        if rule.TAKES == "sum":
            raise ConfigError(f"--lr: expected an optimizer that has a rate, got {type(rule).__name__}, which adds")
        return replace(rule, lr=self.lr)


@dataclass
class Outcome:
    """What came of one recording. recorded: the server's own checksum, None where the recording ends before it."""

    shard: int
    records: int = 0
    commits: int = 0
    seconds: float = 0.0
    recorded: int | None = None
    replayed: int = 0
    staleness: Counter[int] = field(default_factory=Counter)  # commits of pushes, by staleness in commits

    @property
    def is_equal(self) -> bool:
        return self.recorded == self.replayed


class Replay:
    """One server's part of a run, once more."""

    def __init__(self, recording: Recording, changes: Changes = Changes()) -> None:
        """Raises: ConfigError for changes that do not go with the run."""
        self.recording, self.changes = recording, changes
        self.was, self.config = recording.header.config, changes.applied_to(recording.header.config)
        self.follower = build_follower(self.config)
        self.ledger, self.values = self.follower.ledger, self.follower.values
        self.keyspace = Keyspace()
        self._codecs_were: Codecs = self.was.codecs()
        self._encoders: dict[int, Encoder] = {}  # by worker, where frames are encoded anew
        self._use(self.was.rule())

    def run(self, progress: Callable[[int], object] = lambda _: None) -> Outcome:
        """All of it. progress: is told how many bytes were read. Raises: FrameError, ConfigError."""
        outcome = Outcome(self.recording.header.shard)
        for entry, seconds, frames in self.recording.entries(progress):
            outcome.seconds = seconds
            if isinstance(entry, End):
                outcome.recorded = entry.checksum
                break
            outcome.records += 1
            if isinstance(entry, Commit) and entry.contributions:
                outcome.commits += 1
                outcome.staleness[entry.staleness] += 1
            self._take(entry, frames)
        outcome.replayed = checksum(self.values.parts())
        return outcome

    def write_to(self, arrays: Arrays, outputs: dict[str, Array]) -> None:
        """Copies the values of this server's slices into the arrays of their parameters."""
        for slice_id, buffer in zip(self.ledger.ids_S.tolist(), self.values.current, strict=True):
            arrays.deliver(slice_id, buffer.array, outputs)

    # ---- records ----------------------------------------------------------------------------------------------------

    def _use(self, rule: Optimizer) -> None:
        """The optimizer that the run had; in force is that, or the one that was asked for."""
        self._rule_was = rule
        mine = rule if self.changes.optimizer is None else self.config.rule()
        self.values.optimizer = self.changes.applied_to_rule(mine)

    def _check_rule(self) -> None:
        """Raises: ConfigError for an optimizer that needs what was not recorded."""
        if self.values.optimizer.needs_base and not self._rule_was.needs_base:
            raise ConfigError(
                "--optimizer: expected one that does not compare with what each worker was sent, which this recording "
                f"lacks, got {self.changes.optimizer}"
            )

    def _take(self, entry: Record | Registered, frames: list[Frame]) -> None:
        new: list[Slice] = []
        payload: list[Array] = []
        match entry:
            case Registered(specs):
                self.keyspace.extend([spec.parameter() for spec in specs])
                return
            case Added(ids):
                new = [self.keyspace.slices[int(i)] for i in ids]
                self._check_rule()
                self._check_codecs(ids.tolist())
            case Adopted(spec):
                self._use(optimizer(spec))
                self.ledger.apply(entry)
                return
            case LrChanged() if self.changes.of_rate:  # the script's own rates keep their ratio to the optimizer's
                entry = replace(entry, lr=entry.lr * self.values.optimizer.lr / self._rule_was.lr)
            case Joined(worker):
                self._encoders.pop(worker, None)  # what a frame has left out died with its process
            case Initialised(indices):
                items = [self.values.slices[int(i)] for i in indices]
                payload = [frame.data.view(item.dtype) for frame, item in zip(frames, items, strict=True)]
            case Commit():
                self._commit(entry, frames)
                return
        self.follower.feed(entry, payload, new)

    def _commit(self, commit: Commit, frames: list[Frame]) -> None:
        item = self.values.slices[commit.slice]
        if len(frames) != len(commit.contributions):
            raise FrameError(f"{self.recording.path}: expected {len(commit.contributions)} frames, got {len(frames)}")
        for place, frame in enumerate(frames):
            if frame.codec != RAW:
                self._codecs_were.check_push(item, frame)
            else:
                frames[place] = Frame(RAW, frame.data.view(item.dtype))
        if self.changes.of_rate:
            commit = replace(commit, lr=self._rate(commit))
        made = self._encoded(commit, frames)
        self.follower.feed(commit, (), frames=[one.frame if isinstance(one, Packed) else one for one in made])
        for one in made:
            if isinstance(one, Packed):
                one.buffer.release()

    # ---- other rates, other codecs ----------------------------------------------------------------------------------

    def _rate(self, commit: Commit) -> float:
        """The rate that a shard would have given this commit: as in `Arrivals.due` and `Rounds.due`."""
        decision = self.config.model().commit(self.ledger.sharing)
        if isinstance(decision, Gather):
            shift = int(self.config.model().cadence.shift_E(self.ledger.ids_S[[commit.slice]])[0])
            clock, rate = max(commit.base * decision.clocks - shift, 0), 1.0
        else:
            clock, rate = int(self.ledger.min_clock_S()[commit.slice]), decision.rate
        return rate * self.ledger.lr(clock, self.values.optimizer.lr * self.config.rates().factor(clock))

    def _check_codecs(self, ids: list[int]) -> None:
        """Raises: ConfigError where another codec is asked for than the one that frames have lost something to."""
        for slice_id in ids:
            item = self.keyspace.slices[slice_id]
            was = self._codecs_were.of_push(item)
            if was is not None and was != self.values.codecs.of_push(item):
                raise ConfigError(
                    f"--compression: expected {self._codecs_were.push}, as in the recording, got "
                    f"{self.values.codecs.push}; only gradients recorded under none are whole, to be encoded otherwise"
                )

    def _encoded(self, commit: Commit, frames: Iterable[Frame]) -> list[Frame | Packed]:
        """The frames that the workers would have sent under the codec that was asked for."""
        item, slice_id = self.values.slices[commit.slice], int(self.ledger.ids_S[commit.slice])
        if self._codecs_were.of_push(item) == self.values.codecs.of_push(item):
            return list(frames)
        made: list[Frame | Packed] = []
        for push, frame in zip(commit.contributions, frames, strict=True):
            if frame.codec != RAW:  # factors are exact: they travel as they are
                made.append(frame)
                continue
            gradient = Buffer(self.values.pool, frame.data, lent=True)
            made.append(self._encoder(push.worker).pack(slice_id, gradient, push.clock, commit.lr))
        return made

    def _encoder(self, worker: int) -> Encoder:
        if worker not in self._encoders:
            seed = encoder_seed(self.config.seed, worker)
            self._encoders[worker] = Encoder(self.keyspace, self.values.codecs, self.values.pool, seed)
        return self._encoders[worker]


def final_values(replays: list[Replay]) -> dict[str, Array]:
    """All parameters, in their registered dtype. Raises: ConfigError where a recording ends before they are there."""
    keyspace = max((one.keyspace for one in replays), key=lambda keyspace: len(keyspace.parameters))
    arrays = Arrays(keyspace, Cadence(), keeps_replica=False)
    held = sum(len(one.ledger.ids_S) for one in replays if one.ledger.ready_S.all())
    if held < len(keyspace.slices) or not held:
        raise ConfigError("--save: expected recordings with initial values of all parameters, got one that ends before")
    outputs = arrays.outputs(keyspace.index_of, None)
    for one in replays:
        one.write_to(arrays, outputs)
    return outputs


def total(replays: list[Replay]) -> int:
    """One number for all servers: that of `LocalCluster.checksum`."""
    crc = 0
    for one in replays:
        crc = checksum(one.values.parts(), crc)
    return crc
