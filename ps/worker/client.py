"""What a training loop holds: register, pull, push, tick, log. One client per worker, used from one thread."""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, SupportsFloat

import numpy as np

from ps.config import RunConfig
from ps.errors import ConfigError
from ps.factors import Factors
from ps.keyspace import Options
from ps.messages import Barrier, Code, Done, EpochDone, SetLr, Skipped, Stop
from ps.metrics import Metrics
from ps.types import CONTROLLER, Array, Clock, WorkerId
from ps.worker.checks import (
    Gradients,
    checked_grads,
    checked_mapping,
    checked_number,
    checked_out,
    checked_weight,
    nonfinite,
)
from ps.worker.leases import Leases
from ps.worker.probe import measure
from ps.worker.pulling import PullFuture
from ps.worker.runtime import Worker
from ps.worker.verdicts import Accumulated, Applied, PushFuture, Refused

REASON_BYTES_MAX = 8000


class Client:
    """A worker's face. Every call takes `timeout=` seconds and names who is missing when it runs out."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        encoder = worker.arrays.encoder  # residuals belong to a checkpoint
        self._states: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]]
        self._states = {"ps.compression": (encoder.state, encoder.load_state)}
        self._closed = False
        self._pending: PullFuture | None = None  # a pull that was begun
        self.idle_clock: Callable[[float], None] = self._idle_clock  # given seconds; a wrapper that pulls has its own
        self.on_close: Callable[[], None] = lambda: None  # ends an embedded cluster

    # ---- who and where ----------------------------------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """This worker's rank, from 0; kept across restarts."""
        return self._worker.rank

    @property
    def size(self) -> int:
        """Workers of the run."""
        return self._worker.size

    @property
    def clock(self) -> int:
        """Clocks that this worker has finished; a restarted worker goes on from here."""
        return self._worker.session.clock

    @property
    def config(self) -> RunConfig:
        """The run's options, as the controller told them, with the optimizer that the script has asked for."""
        return self._worker.config

    @property
    def seed(self) -> int:
        """The run's seed, 0 when none was given: for data order and initial values."""
        return self._worker.config.seed or 0

    @property
    def lr(self) -> float:
        """The learning rate in force at the last pull."""
        return self._worker.session.lr

    @property
    def bundles(self) -> list[tuple[str, ...]]:
        """The trainable parameters, those together that have to be pushed together: small ones share a slice."""
        keyspace = self._worker.keyspace
        names = [
            tuple(keyspace.parameters[piece.parameter].name for piece in s.pieces)
            for s in keyspace.slices
            if s.trainable
        ]
        return list(dict.fromkeys(names))

    def push_bytes(self, names: Iterable[str]) -> int:
        """Bytes of payload that a push of these parameters takes at most, encoded as the run says."""
        keyspace, codecs = self._worker.keyspace, self._worker.arrays.codecs
        return sum(codecs.push_bytes(keyspace.slices[i]) for i in keyspace.slice_ids(names))

    def factors_pay(self, name: str, k: int) -> bool:
        """Whether factors of k rows of this matrix would travel, were they pushed now: so they are worth keeping."""
        return self._worker.schemes.pay(name, k)

    def measure_link(self, *, timeout: float | None = None) -> None:
        """Dense or factors is chosen by the speed of the link to server 0 from now on, instead of 1 Gbit/s.

        Raises: DeadlineError.
        """
        self._registered("measure_link")
        self._finish_pull()
        measure(self._worker, self._timeout(timeout))

    @property
    def fetches_next(self) -> bool:
        """Whether the pull after this clock's tick fetches values, rather than giving the worker's own."""
        return self._worker.session.pull_travels

    @property
    def now(self) -> float:
        """Seconds, monotonic: of this machine's clock, or virtual ones in a seeded cluster."""
        return self._worker.port.now()

    @property
    def busy_s(self) -> float:
        """Seconds, from any begin, that this worker has not spent waiting for others: the difference of two counts."""
        return self._worker.busy_s

    @property
    def metrics(self) -> Metrics:
        """This worker's counters and histograms."""
        return self._worker.metrics

    @property
    def should_stop(self) -> bool:
        """True once the job was stopped: leave the loop."""
        if not self._closed:
            self._worker.poll()
        return self._worker.stopped is not None

    # ---- parameters -------------------------------------------------------------------------------------------------

    def register(
        self,
        values: Mapping[str, Array],
        options: Mapping[str, Options] | None = None,
        *,
        optimizer: str = "",
        timeout: float | None = None,
    ) -> dict[str, Array]:
        """Registers a batch of parameters; all workers register the same batches in the same order.

        values: name -> initial array (float16, bfloat16, float32, float64; integers are stored only). Those of the
        lowest live rank hold; a joiner gets the servers'. options: per name; what the run says of a
        name (RunConfig.parameters) goes before them. optimizer: what the servers are to do with gradients, where the
        run leaves that to its script; the same at every call. Returns the same names, untouched.
        Raises: ConfigError naming the parameter; DeadlineError.
        """
        self._open("register")
        arrays = {}
        for name, array in checked_mapping("register", values).items():
            if not isinstance(name, str):
                raise ConfigError(f"register: expected names as str, got {name!r}")
            arrays[name] = np.asarray(array)
        if not arrays:
            raise ConfigError("register: expected at least one parameter, got none")
        for name in options or {}:
            if name not in arrays:
                raise ConfigError(f"register: options: expected names among {', '.join(arrays)}, got {name!r}")
        seconds, worker = self._timeout(timeout), self._worker
        chosen = {name: worker.config.options_of(name, (options or {}).get(name, Options())) for name in arrays}
        worker.poll()
        worker.wait(lambda: worker.session.is_settled, seconds, lambda: "register: " + worker.missing.verdicts())
        worker.registration.register(arrays, chosen, optimizer, seconds)
        worker.pace.begin()
        return dict(values)

    def pull(
        self,
        names: list[str] | None = None,
        *,
        out: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Array]:
        """Values of these parameters (all without names); waits as the consistency model says.

        out: contiguous arrays of the registered shape and dtype to fill; else fresh ones. Each slice is exactly one
        version. Raises: ConfigError, DeadlineError naming worker, server, slice and clock.
        """
        wanted, outputs = self._ready_to_pull("pull", names, out)
        self._worker.pull(wanted, outputs, self._timeout(timeout))
        return outputs

    def pull_later(
        self,
        names: list[str] | None = None,
        *,
        out: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> PullFuture:
        """Begins a pull and returns at once: `wait` for the names that are needed first.

        The arrays of `out` may be written until the future is done. The next push or pull waits for it.
        Raises: ConfigError.
        """
        wanted, outputs = self._ready_to_pull("pull_later", names, out)
        self._pending = self._worker.pull_later(wanted, outputs, self._timeout(timeout))
        return self._pending

    def _ready_to_pull(
        self, call: str, names: list[str] | None, out: Mapping[str, Array] | None
    ) -> tuple[list[str], dict[str, Array]]:
        """The names that are wanted, and the arrays for their values."""
        self._registered(call)
        self._finish_pull()
        wanted = self._worker.keyspace.names(names)
        return wanted, self._worker.arrays.outputs(wanted, checked_out(self._worker.keyspace, out, wanted))

    def _finish_pull(self) -> None:
        """A pull that was begun ends before anything else is asked for."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def push(
        self, grads: Gradients, weight: float = 1.0, *, copy: bool = True, timeout: float | None = None
    ) -> PushFuture:
        """Sends gradients (or deltas, under `add`) of this clock and returns at once.

        grads: name -> array of the registered shape, or `ps.Factors(u, v)` for one that is a product: then what takes
        less time travels. weight: examples behind them. copy=False: arrays are sent as they are, and must not be
        written before the future is done. A push with NaN or Inf is dropped whole, warned about by name and counted;
        its future says Refused. Raises: ConfigError naming parameter and shape.
        """
        self._registered("push")
        self._finish_pull()
        self._worker.pace.computed()
        weight, arrays = checked_weight(weight), checked_grads(self._worker, grads)
        if bad := nonfinite(self._worker, arrays):
            return PushFuture(self._worker, 0, self.clock, Refused(f"NaN or Inf in {bad}"))
        clock = self.clock
        push = self._worker.pushing.push(arrays, weight, copy, self._timeout(timeout))
        return PushFuture(self._worker, push, clock, None if push else Accumulated())

    def step_to(self, values: Mapping[str, Array], weight: float = 1.0, *, timeout: float | None = None) -> None:
        """Under `local`, `async_local`, `easgd`: an optimizer of the script's own has stepped to these values.

        values: name -> array of the registered shape, all that a push would name. weight: examples behind the step.
        What follows from it travels when the round ends. Raises: ConfigError under any other model.
        """
        self._registered("step_to")
        if self._worker.session.model.cadence.carries != "delta":
            raise ConfigError(
                f"step_to: expected consistency local, async_local or easgd, where workers step, got "
                f"{self.config.consistency}; use push"
            )
        self._finish_pull()
        self._worker.pace.computed()
        weight, arrays = checked_weight(weight), checked_grads(self._worker, values)
        if nonfinite(self._worker, arrays):
            raise ConfigError("step_to: expected finite values, got NaN or Inf: training has diverged; lower its lr")
        self._worker.pushing.step_to({n: a for n, a in arrays.items() if not isinstance(a, Factors)}, weight)

    def tick(self, *, timeout: float | None = None) -> None:
        """This worker has finished a clock (Petuum's Clock()). Waits only while too many pushes are unsettled, where a
        round of `easgd` ends for the servers' values, and under `local` with overlap for those that are due."""
        self._registered("tick")
        self._finish_pull()
        self._worker.pace.computed()
        self._worker.tick(self._timeout(timeout))
        self._worker.pace.begin()
        self._worker.reports.report()

    def push_pull(
        self,
        grads: Gradients,
        weight: float = 1.0,
        *,
        out: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Array]:
        """push, tick and pull in one call: one clock, one round trip, both directions at once."""
        return self._push_pull(grads, weight, out, timeout).now()

    def push_pull_later(
        self,
        grads: Gradients,
        weight: float = 1.0,
        *,
        out: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> PullFuture:
        """As `push_pull`, but returns once all is sent: see `pull_later`."""
        self._pending = self._push_pull(grads, weight, out, timeout)
        return self._pending

    def _push_pull(
        self, grads: Gradients, weight: float, out: Mapping[str, Array] | None, timeout: float | None
    ) -> PullFuture:
        wanted, outputs = self._ready_to_pull("push_pull", None, out)
        worker, seconds, weight = self._worker, self._timeout(timeout), checked_weight(weight)
        worker.pace.computed()
        arrays = checked_grads(worker, grads)
        if nonfinite(worker, arrays):
            worker.tick(seconds)
            pull = worker.pull_later(wanted, outputs, seconds)
        else:
            pull = worker.push_pull_later(arrays, weight, wanted, outputs, seconds)
        worker.pace.begin()
        worker.reports.report()
        return pull

    # ---- the run ----------------------------------------------------------------------------------------------------

    def log(self, **values: SupportsFloat) -> None:
        """Metrics of this clock, for the live view, stop rules, sweeps. Non-finite values are left out."""
        self._open("log")
        numbers = {name: checked_number(f"log: {name}", value) for name, value in values.items()}
        kept = {name: value for name, value in numbers.items() if math.isfinite(value)}
        self._worker.reports.log(tuple(kept), tuple(kept.values()))

    def barrier(self, *, timeout: float | None = None) -> None:
        """Settles this worker's pushes (gathered counts) and waits for all live workers.

        A restarted worker goes through those before its first clock, where its earlier incarnation has been. Raises:
        DeadlineError naming the worker that is behind; called again, it goes on waiting at the same barrier.
        """
        self._open("barrier")
        seconds = self._timeout(timeout)
        worker = self._worker
        worker.wait(lambda: worker.session.is_settled, seconds, lambda: "barrier: " + worker.missing.verdicts())
        if worker.passed and not worker.has_ticked:
            worker.passed -= 1
            return
        number, worker.behind = worker.barriers + 1, None

        def ask() -> None:
            self._post(Barrier(WorkerId(self.rank), worker.incarnation, number, worker.has_ticked))

        ask()
        worker.wait(lambda: worker.barrier_opened >= number, seconds, lambda: worker.missing.at_barrier(number), ask)
        worker.barriers = number
        worker.pace.begin()

    def stop(self, reason: str) -> None:
        """Ends the job for everybody; `should_stop` becomes true everywhere."""
        self._open("stop")
        text = f"worker {self.rank}: {reason}".encode(errors="replace")[:REASON_BYTES_MAX]
        self._post(Stop(text.decode(errors="ignore"), False))

    def set_lr(self, lr: float, at_clock: int | None = None, *, timeout: float | None = None) -> None:
        """From `at_clock` (default: this worker's clock) on the learning rate is `lr`; returns when all servers know.

        Clocks that are committed already keep their rate. Raises: ConfigError; DeadlineError.
        """
        self._open("set_lr")
        seconds, worker = self._timeout(timeout), self._worker
        rate, clock = checked_number("set_lr: lr", lr), self.clock if at_clock is None else at_clock
        if not (math.isfinite(rate) and rate >= 0):
            raise ConfigError(f"set_lr: lr: expected a finite number >= 0, got {rate!r}")
        if clock < 0:
            raise ConfigError(f"set_lr: at_clock: expected a clock >= 0, got {clock!r}")
        worker.lr_asked += 1
        number = worker.lr_asked
        self._post(SetLr(WorkerId(self.rank), worker.incarnation, number, rate, Clock(clock)))
        worker.wait(lambda: worker.lr_set >= number, seconds, lambda: "set_lr: some server has not confirmed it")

    def register_state(self, name: str, get: Callable[[], Any], set: Callable[[Any], None]) -> None:
        """Names worker state (RNG, data position, inner moments) that belongs to a checkpoint of this worker.

        get: gives it as None, numbers, text, bytes, arrays, lists, and dicts with text as keys, in memory of its own:
        what MessagePack carries. set: takes that back; what it raises becomes a ConfigError.
        """
        if name in self._states:
            raise ConfigError(f"register_state: {name!r} is registered already; give each state its own name")
        self._states[name] = (get, set)

    def state(self) -> dict[str, Any]:
        """All registered worker state, as `get` gives it now."""
        return {name: get() for name, (get, _) in self._states.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Hands each registered state its part; what is not named stays as it is. The state need not outlive the call.

        Raises: ConfigError when a name is not registered, before anything is loaded; ConfigError naming state and
        field where one does not fit.
        """
        for name in state:
            if name not in self._states:
                raise ConfigError(f"load_state: {name!r} is not registered; known: {', '.join(self._states) or 'none'}")
        for name, value in state.items():
            try:
                self._states[name][1](value)
            except ConfigError as error:
                raise ConfigError(f"load_state: {name!r}: {error}") from error
            except KeyError as error:
                raise ConfigError(f"load_state: {name!r}: expected {error}, as state() gives it, got none") from error
            except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
                raise ConfigError(
                    f"load_state: {name!r}: expected what state() gives, got a state that fails with "
                    f"{type(error).__name__}: {error}"
                ) from error

    def take_steps(self, share: float) -> None:
        """From now on this worker computes floor(share * H) clocks of a round, at least one, and leaves the rest out.

        With fragments: of the H / F clocks between two exchanges.

        share: its speed over that of the fastest, so that a round takes all equally long: dynamic local updates (Liu
        et al., arXiv 2401.09135). Raises: ConfigError unless workers step, or where it is not in (0, 1].
        """
        cadence = self.config.model().cadence
        if cadence.carries != "delta":
            raise ConfigError(
                f"take_steps: expected a model whose workers step, as local, got {self.config.consistency}"
            )
        if not 0 < share <= 1:
            raise ConfigError(f"take_steps: share: expected above 0 and at most 1, got {share}")
        self._worker.session.steps = max(int(share * cadence.stretch), 1)

    def spend(self, seconds: float) -> None:
        """Lets compute time pass that is declared, not done: a real sleep, or virtual time in a seeded cluster."""
        self._worker.port.spend(seconds)

    # ---- data epochs ------------------------------------------------------------------------------------------------

    def epoch_done(self, epoch: int) -> None:
        """This worker has been through its part of the data epoch."""
        self._post(EpochDone(WorkerId(self.rank), self._worker.incarnation, epoch))

    def epoch_ended(self, epoch: int) -> bool:
        """Enough workers have finished this epoch (run option epoch_share): go on to the next."""
        self._worker.poll()
        return self._worker.epoch_ended >= epoch

    def epoch_skipped(self, epoch: int, examples: int) -> None:
        """Counts the examples that were left out because the epoch had ended."""
        self._post(Skipped(WorkerId(self.rank), self._worker.incarnation, epoch, examples))

    def leases(self, data: str, examples: int, epochs: int, size: int) -> Leases:
        """This worker's share in a data set of this name, lent by the controller `size` positions at a time: what
        `ps.data.leased` is made of."""
        self._open("leases")
        leases = Leases(self._worker, lambda timeout_s: self.idle_clock(timeout_s), data, examples, epochs, size)
        self.register_state(
            f"ps.data.{data}",
            leases.state,
            lambda state: leases.restore(state["floor"], [(start, stop) for start, stop in state["done"]]),
        )
        self._worker.leases[data] = leases
        return leases

    def _idle_clock(self, timeout_s: float) -> None:
        """Closes a clock without a push, at the pace of the others: a pull waits as the model says."""
        self._registered("leases")
        self.pull([min(self._worker.keyspace.parameters, key=lambda p: p.size).name], timeout=timeout_s)
        self.tick(timeout=timeout_s)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def close(self, error: str = "", *, timeout: float | None = None) -> None:
        """Leaves: waits until the servers have this worker's pushes, leaves the clock minimum, says good-bye.

        error: why `train` failed; then nothing is waited for. Raises: StoppedError (the job has failed), DeadlineError.
        """
        if self._closed:
            return
        self._closed = True
        worker = self._worker
        if worker.pid != os.getpid():
            return  # it is the parent's
        try:
            if not error:
                seconds = self._timeout(timeout)
                self._finish_pull()
                worker.finish(seconds)
                worker.wait(lambda: worker.session.is_settled, seconds, lambda: "close: " + worker.missing.verdicts())
                for leases in worker.leases.values():
                    leases.report()
                worker.perform(worker.session.leave(worker.port.now()))
                worker.wait(lambda: worker.session.has_left, seconds, lambda: "close: a server has not let go")
        except BaseException as failure:  # an interrupt, too: it has not left
            error = f"{type(failure).__name__}: {failure}"  # the others must not wait for it
            raise
        finally:
            if self._pending is not None:
                self._pending.end()
            text = error.encode(errors="replace")[-REASON_BYTES_MAX:].decode(errors="ignore")
            worker.reports.report(now=True)
            self._post(Done(WorkerId(self.rank), worker.incarnation, text))
            worker.port.close()
            self.on_close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.close("" if error is None else "".join(traceback.format_exception(error)))

    # ---- checks -----------------------------------------------------------------------------------------------------

    def _post(self, body: Any) -> None:
        self._worker.post(CONTROLLER, body)

    def _timeout(self, timeout: float | None) -> float:
        seconds = self._worker.config.timeout_s if timeout is None else checked_number("timeout", timeout)
        if not seconds > 0:
            raise ConfigError(f"timeout: expected seconds > 0, got {timeout!r}; None means the run's timeout_s")
        return seconds

    def _open(self, call: str) -> None:
        if self._closed:
            raise ConfigError(f"{call}: this client is closed; call it before close() or the end of its with block")

    def _registered(self, call: str) -> None:
        self._open(call)
        if not self._worker.registration.batches:
            raise ConfigError(f"{call}: no parameters yet; call client.register({{name: array}}) first")


__all__ = ["Accumulated", "Applied", "Client", "Code", "Gradients", "PushFuture", "Refused"]
