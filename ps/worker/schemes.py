"""Dense or factors: what travels of a gradient that the script gives as factors, by parameter and push."""

from __future__ import annotations

import logging

from ps import cost
from ps.compression.dgc import Dgc
from ps.config import RunConfig
from ps.factors import SHARED_BYTES_MAX, Factors
from ps.kernels.dispatch import IN_USE, TWIN
from ps.keyspace import Keyspace, Parameter
from ps.types import Array
from ps.worker.actions import Thin
from ps.worker.core import Session
from ps.worker.encoder import Encoder

log = logging.getLogger("ps")


class Schemes:
    """Chooses for one worker; says what and why when the choice for a parameter is made, and when it changes."""

    def __init__(self, keyspace: Keyspace, session: Session, encoder: Encoder, config: RunConfig) -> None:
        self.keyspace, self.session, self.encoder, self.config = keyspace, session, encoder, config
        self.machine = cost.Machine(server_flops=cost.SERVER_FLOPS[IN_USE != TWIN])  # servers are taken to be alike
        self._said: dict[str, tuple[str, str]] = {}  # parameter -> scheme and rule that were logged last

    def chosen(self, name: str, factors: Factors) -> Factors | Array:
        """What to push of a parameter: these factors (fitted to it) as they are, or their product."""
        parameter = self.keyspace.parameters[self.keyspace.index_of[name]]
        if not factors.is_safe:
            return factors.product()  # shows whether anything overflows, or was not finite
        if rule := self._rule(parameter, factors.k):
            self._say(name, "dense", rule, rule)
            return factors.product()
        choice = self._choice(parameter, factors.k)
        self._say(name, choice.scheme, "cost", _costs(factors.k, choice))
        return factors if choice.scheme == "factors" else factors.product()

    def pay(self, name: str, k: int) -> bool:
        """Whether factors of k rows of a matrix would travel, if they are finite and nothing is owed."""
        parameter = self.keyspace.parameters[self.keyspace.index_of[name]]
        return not self._rule(parameter, k) and self._choice(parameter, k).scheme == "factors"

    def owes(self, name: str) -> bool:
        """Earlier pushes of the parameter have left something, which only travels with a dense one."""
        residuals = map(self.encoder.residual, self.keyspace.slices_of[name])
        return any(residual_N is not None and bool(residual_N.any()) for residual_N in residuals)

    def thin(self, factors: dict[str, Factors]) -> dict[int, Thin]:
        """What travels of each slice of these parameters: its frame, and the shared factor with a shard's first one."""
        thin = {}
        for name, one in factors.items():
            group, shards, columns = self.keyspace.index_of[name], set[int](), one.v.shape[1]
            for slice_id in self.keyspace.slices_of[name]:
                rows = self.keyspace.slices[slice_id].size // columns
                nbytes = cost.factor_bytes(one.k, rows, columns, int(self.session.shard_S[slice_id] not in shards), 1)
                shards.add(int(self.session.shard_S[slice_id]))
                thin[slice_id] = Thin(nbytes, group)
        return thin

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _choice(self, parameter: Parameter, k: int) -> cost.Choice:
        slices = self.keyspace.slices_of[parameter.name]
        return cost.best_scheme(
            k,
            *parameter.shape,
            shards=len(set(self.session.shard_S[slices].tolist())),
            slices=len(slices),
            dense_bytes=sum(map(self._dense_bytes, slices)),
            machine=self.machine,
        )

    def _rule(self, parameter: Parameter, k: int) -> str:
        """Why factors of k rows of this parameter cannot travel in this run, whatever they cost; empty: they can."""
        cadence = self.session.model.cadence
        slices = [self.keyspace.slices[i] for i in self.keyspace.slices_of[parameter.name]]
        if cadence.accumulates:
            return "what this consistency model pushes is accumulated"
        if self.config.clip_norm is not None:
            return "clip_norm scales the whole gradient"
        if self.session.overlays or cadence.local_lr is not None:
            return "this worker steps a replica of its own"
        if parameter.master != "float32":
            return f"{parameter.master} keeps its precision"
        if any(len(item.pieces) > 1 for item in slices):
            return "it is small and travels in a bundle"
        if any(item.columns != parameter.shape[1] for item in slices):
            return "its rows are cut over several slices"
        if isinstance(self.encoder.codec(self.keyspace.slices_of[parameter.name].start), Dgc):
            return "dgc gives every gradient a momentum"
        if cost.FLOAT_BYTES * k * parameter.shape[1] > SHARED_BYTES_MAX:
            return f"a factor has more than {_bytes(SHARED_BYTES_MAX)}"
        return ""

    def _dense_bytes(self, slice_id: int) -> int:
        """Of the frame that would travel instead, at most."""
        item, codec = self.keyspace.slices[slice_id], self.encoder.codec(slice_id)
        if codec is None or self.session.clock < codec.warmup:
            return item.nbytes
        return min(item.nbytes, codec.bytes_max(item.rows, item.columns))

    def _say(self, name: str, scheme: str, rule: str, why: str) -> None:
        if self._said.get(name) != (scheme, rule):
            self._said[name] = scheme, rule
            log.info("worker %d: %r: %s, %s", self.session.rank, name, scheme, why)


def _costs(k: int, choice: cost.Choice) -> str:
    thin, dense = _bytes(choice.factor_bytes), _bytes(choice.dense_bytes)
    seconds = f"{choice.factor_s:.2g} s to send and multiply, {choice.dense_s:.2g} s to send dense"
    if choice.scheme == "factors":
        return f"{thin} instead of {dense} per push: K = {k}, {seconds}"
    return f"{dense} per push, {thin} as factors: K = {k}, {seconds}"


def _bytes(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.1f} kB"
