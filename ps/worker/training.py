"""The calls of a training loop: register, pull, push, tick."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ps.errors import ConfigError
from ps.factors import Factors
from ps.keyspace import Options
from ps.types import Array
from ps.worker.calls import Calls
from ps.worker.checks import Gradients, checked_grads, checked_mapping, checked_out, checked_weight, nonfinite
from ps.worker.probe import measure
from ps.worker.pulling import PullFuture
from ps.worker.runtime import Worker
from ps.worker.verdicts import Accumulated, PushFuture, Refused


class TrainingCalls(Calls):
    """Values and gradients, clock by clock."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self._pending: PullFuture | None = None  # a pull that was begun

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

    def measure_link(self, *, timeout: float | None = None) -> None:
        """Dense or factors is chosen by the speed of the link to server 0 from now on, instead of 1 Gbit/s.

        Raises: DeadlineError.
        """
        self._registered("measure_link")
        self._finish_pull()
        measure(self._worker, self._timeout(timeout))
