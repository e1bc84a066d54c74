"""What a training loop may rely on: values, verdicts, barriers, learning rates, state, data."""

from __future__ import annotations

import re
import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ps
from tests.integration.helpers import DEADLINE_S, Arrays, assert_equal, cluster, model, noise, run, steps

BSP, ASYNC = "bsp", "async"
LOCAL = "local:every=2,local_lr=0.1"
DOWNPOUR = "downpour:push_every=2,pull_every=2,local_lr=0.1"


def vector(value: float = 0.0, size: int = 3) -> Arrays:
    return {"w": np.full(size, value, np.float32)}


# ---- the caller's arrays --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "consistency"), [(None, BSP), (None, LOCAL), *((7, name) for name in (BSP, LOCAL, DOWNPOUR, ASYNC))]
)  # in threads only where the order of arrival does not matter
def test_arrays_may_be_overwritten_right_after_push(seed: int | None, consistency: str) -> None:
    def spoil(client: ps.Client, grads: Arrays) -> None:
        for grad in grads.values():
            grad.fill(np.nan)

    options: dict[str, Any] = {"servers": 2, "consistency": consistency, "optimizer": "sgd:lr=1"}
    untouched, spoilt = run(seed, steps(6), **options), run(seed, steps(6, spoil), **options)
    assert_equal(untouched[0], spoilt[0])
    assert np.isfinite(spoilt[0]["big"]).all()


def test_registered_and_pulled_arrays_are_the_callers(seed: int | None) -> None:
    def train(client: ps.Client) -> float:
        initial = vector(1.0)
        returned = client.register(initial)
        assert returned["w"] is initial["w"]
        initial["w"].fill(np.nan)
        first = client.pull()
        kept = first["w"]
        first["w"] += 100  # its own copy
        client.push(vector(1.0))
        client.tick()
        second = client.pull()
        second["w"].fill(-1)
        assert (kept == 101).all()
        return float(client.pull()["w"][0])

    np.testing.assert_allclose(run(seed, train, optimizer="sgd:lr=0.5"), [0.5, 0.5])


@pytest.mark.parametrize("consistency", [BSP, ASYNC, LOCAL, "local:every=1,local_lr=0.1", DOWNPOUR])
@pytest.mark.parametrize("compression", ["none", "none:error_feedback=true"])
def test_push_without_copy_never_writes_the_callers_arrays(
    seed: int | None, consistency: str, compression: str
) -> None:
    def train(client: ps.Client) -> Arrays:
        grads = {name: np.full_like(value, 0.5) for name, value in model().items()}
        for grad in grads.values():
            grad.flags.writeable = False
        client.register(model())
        futures = []
        for _ in range(4):
            client.pull()
            futures.append(client.push(grads, copy=False))
            client.tick()
        client.barrier()
        client.pull()
        assert all((grad == 0.5).all() for grad in grads.values())
        return client.pull()

    options: dict[str, Any] = {"consistency": consistency, "push_compression": compression, "optimizer": "sgd:lr=0.1"}
    first, _ = run(seed, train, **options)
    assert np.isfinite(first["w"]).all() and (first["w"] < 1).all()


def test_push_without_copy_sends_the_array_itself() -> None:
    def train(client: ps.Client) -> float:
        client.register({"big": np.zeros(10_000, np.float32)})
        client.pull()
        grad = np.ones(10_000, np.float32)
        client.push({"big": grad}, copy=False)  # one round trip of virtual time away from the server
        grad.fill(3)
        client.tick()
        return float(client.pull()["big"][0])

    assert run(1, train, workers=1, optimizer="sgd:lr=1") == [-3]


def test_out_fills_and_returns_the_same_arrays(seed: int | None) -> None:
    def train(client: ps.Client) -> None:
        client.register({**model(), "scalar": np.array(2, np.float32), "empty": np.zeros((0, 4), np.float32)})
        out = {name: np.full_like(value, np.nan) for name, value in model().items()}
        pulled = client.pull(out=out)
        assert all(pulled[name] is array for name, array in out.items())
        assert_equal(out, model())
        assert pulled["scalar"].shape == () and pulled["scalar"] == 2 and pulled["empty"].shape == (0, 4)
        one = np.empty((), np.float32)
        assert client.pull(["scalar"], out={"scalar": one})["scalar"] is one and one == 2
        some = client.pull(["b", "w"], out={"w": out["w"]})
        assert list(some) == ["b", "w"] and some["w"] is out["w"]
        assert client.pull([]) == {}
        grads = noise(pulled, np.random.default_rng(0))
        assert client.push_pull(grads, out=out)["big"] is out["big"]

    run(seed, train)


# ---- dtypes ---------------------------------------------------------------------------------------------------------


def test_parameters_come_back_in_their_dtype(seed: int | None) -> None:
    dtypes = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int64, np.int8, np.uint16]
    values = {np.dtype(dtype).name: np.array([[1, 2], [3, 4]], dtype) for dtype in dtypes}
    values["big_endian"] = np.array([1, 2], ">f4")

    def train(client: ps.Client) -> Arrays:
        client.register(values)
        before = client.pull()
        assert all((before[name] == value).all() for name, value in values.items())
        client.push({name: np.ones_like(value) for name, value in values.items() if "int" not in name})
        client.tick()
        return client.pull()

    first, second = run(seed, train, optimizer="sgd:lr=0.5")
    assert_equal(first, second)
    for name, value in values.items():
        assert first[name].dtype == value.dtype.newbyteorder("=")
        step = 0 if "int" in name else 0.5
        assert (first[name].astype(np.float64) == value.astype(np.float64) - step).all(), name


def test_float64_keeps_its_precision_and_any_real_gradient_is_taken(seed: int | None) -> None:
    def train(client: ps.Client) -> float:
        client.register({"w": np.array([1.0, 1.0])})
        grads = [np.array([2e-16, 0]), [1, 0], np.array([1, 0], np.int32), np.array([1, 0], ml_dtypes.bfloat16)]
        for grad in grads:
            client.push({"w": grad})  # type: ignore[dict-item]
            client.tick()
        return float(client.pull()["w"][0])

    expected = float(np.float64(1) - 2e-16 - 1 - 1 - 1)
    assert run(seed, train, optimizer="sgd:lr=1") == [expected, expected]


# ---- verdicts -------------------------------------------------------------------------------------------------------


def test_applied_names_the_version(seed: int | None) -> None:
    def train(client: ps.Client) -> None:
        client.register(vector())
        client.pull()
        for version in (1, 2):
            future = client.push(vector(1.0))
            if client.rank == 0:
                with pytest.raises(ps.ConfigError, match=r"the push of clock \d is committed .* call tick\(\) first"):
                    future.result()
            client.tick()
            assert future.result(timeout=10.0) == {"'w'": ps.Applied(version)}
            assert future.is_done and future.verdicts() == {"'w'": ps.Applied(version)}

    run(seed, train)


def test_applied_on_arrival_needs_no_tick(seed: int | None) -> None:
    def train(client: ps.Client) -> None:
        client.register({"w": np.zeros(3, np.float32), "b": np.zeros(2, np.float32), "big": np.zeros(5000, np.float32)})
        future = client.push({"w": np.ones(3), "b": np.ones(2), "big": np.ones(5000)})
        assert future.result() == {"bundle of 2 ('w' ...)": ps.Applied(1), "'big'": ps.Applied(1)}

    run(seed, train, workers=1, consistency=ASYNC)


def test_gathered_is_seen_while_the_round_is_open(seed: int | None) -> None:
    def train(client: ps.Client) -> dict[str, Any]:
        client.register(vector())
        client.pull()
        future = client.push(vector(1.0)) if client.rank == 0 else None
        client.barrier()  # settles pushes: gathered is a verdict
        seen = future.verdicts() if future else {}
        client.tick()
        client.pull()
        assert future is None or future.result() == {"'w'": ps.Applied(1)}
        return seen

    assert run(seed, train) == [{"'w'": ps.Gathered()}, {}]


def test_accumulated_pushes_say_so_and_travel_together(seed: int | None) -> None:
    def train(client: ps.Client) -> float:
        client.register(vector())
        for _ in range(3):
            client.pull()
            future = client.push(vector(1.0))
            assert future.is_done and future.result() == {"": ps.Accumulated()}
            client.tick()
        client.barrier()
        return float(client.pull()["w"][0])

    options = {"consistency": "downpour:push_every=3,pull_every=3,local_lr=0.1", "optimizer": "sgd:lr=1"}
    assert run(seed, train, **options) == [-3, -3]


def test_late_push_is_refused_with_its_reason() -> None:
    def train(client: ps.Client) -> list[Any]:
        client.register(vector())
        client.pull()
        if client.rank == 2:
            client.spend(5.0)  # virtual: the others are through by then
        verdicts = []
        for _ in range(2):
            future = client.push(vector(1.0))
            client.tick()
            client.pull()
            verdicts.append(future.result()["'w'"])
        return verdicts

    first, _, late = run(1, train, workers=3, consistency="quorum:n=2")
    assert first == [ps.Applied(1), ps.Applied(2)]
    assert late[0] == ps.Refused("late: version 2 was committed without it")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_push_that_is_not_finite_is_dropped_whole_and_named(
    seed: int | None, bad: float, caplog: pytest.LogCaptureFixture
) -> None:
    def train(client: ps.Client) -> tuple[Any, float]:
        client.register(model())
        client.pull()
        grads = {name: np.ones(value.shape) for name, value in model().items()}  # float64: 1e300 is Inf in float32
        if client.rank == 1:
            grads["b"][2] = bad
        future = client.push(grads)
        client.tick()
        verdict = future.result(timeout=10.0)
        values = client.pull()
        client.push({name: np.zeros_like(value) for name, value in values.items()})  # it is not held against anybody
        client.tick()
        client.pull()
        assert client.metrics.snapshot().total("nonfinite_pushes") == client.rank
        return verdict, float(values["w"][0, 0])

    (applied, w), (refused, same_w) = run(seed, train, optimizer="sgd:lr=0.5")
    assert set(applied.values()) == {ps.Applied(1)}
    assert refused == {"": ps.Refused("NaN or Inf in b")}
    assert w == same_w == 0.5  # the clock was closed by worker 0 alone
    assert [record.message for record in caplog.records] == ["worker 1: push at clock 0 dropped: NaN or Inf in b"]


def test_several_pushes_in_a_clock_add_up_with_their_weights(seed: int | None) -> None:
    def train(client: ps.Client) -> float:
        client.register(vector())
        client.push(vector(1.0), weight=3)
        client.push(vector(5.0), weight=1)
        client.push({})
        client.tick()
        client.tick()  # a clock without a push contributes nothing
        return float(client.pull()["w"][0])

    assert run(seed, train, optimizer="sgd:lr=1") == [-2, -2]


@pytest.mark.parametrize("consistency", [BSP, ASYNC, "ssp:staleness=2", LOCAL, DOWNPOUR, "quorum:n=1"])
def test_push_may_come_before_the_first_pull(seed: int | None, consistency: str) -> None:
    def train(client: ps.Client) -> float:
        client.register(vector(1.0))
        for _ in range(4):
            client.push(vector(1.0))
            client.tick()
        return float(client.pull()["w"][0])

    for value in run(seed, train, consistency=consistency, optimizer="sgd:lr=0.1"):
        assert value < 1


# ---- clocks, barriers, ends -----------------------------------------------------------------------------------------


def test_push_pull_is_a_whole_clock(seed: int | None) -> None:
    def train(client: ps.Client) -> list[float]:
        client.register(vector())
        return [float(client.push_pull(vector(1.0))["w"][0]) for _ in range(3)] + [client.clock]

    assert run(seed, train, optimizer="sgd:lr=1") == [[-1, -2, -3, 3]] * 2


def test_barrier_waits_for_all(seed: int | None) -> None:
    arrived: list[int] = []

    def train(client: ps.Client) -> list[int]:
        seen = []
        for number in range(3):
            client.spend(0.01 * client.rank)
            arrived.append(client.rank)
            client.barrier()
            seen.append(len(arrived) - client.size * number)
            client.barrier()
        return seen

    assert run(seed, train, workers=3) == [[3, 3, 3]] * 3


def test_barrier_opens_when_a_worker_leaves_early(seed: int | None) -> None:
    def train(client: ps.Client) -> int:
        if client.rank == 2:
            return 0
        client.register(vector())
        client.push(vector(1.0))
        client.tick()
        client.barrier()
        return int(client.pull()["w"][0])

    assert run(seed, train, workers=3, optimizer="sgd:lr=2") == [-2, -2, 0]


def test_barrier_that_nobody_joins_ends_with_its_deadline(seed: int | None) -> None:
    free = threading.Event()
    passed: list[int] = []

    def train(client: ps.Client) -> str:
        if client.rank == 1:
            if seed is None:
                assert free.wait(DEADLINE_S)
            else:
                client.spend(10.0)
            client.barrier()
            passed.append(1)
            client.barrier()
            return ""
        with pytest.raises(ps.DeadlineError) as raised:
            client.barrier(timeout=1.0)
        free.set()
        client.barrier()  # caught: still the same barrier
        client.barrier()
        assert passed == [1]
        return str(raised.value)

    text, _ = run(seed, train, resend_s=0.1)
    assert re.fullmatch(r"after 1 s: barrier 1: waits for worker 1, at clock 0, last heard \d\.\d s ago", text), text


def test_stop_by_a_worker_reaches_all(seed: int | None) -> None:
    def train(client: ps.Client) -> int:
        client.register(vector())
        while not client.should_stop:
            client.push_pull(vector(1.0))
            if client.rank == 1 and client.clock == 3:
                client.stop("loss < 0.1")
        return client.clock

    with cluster(seed, workers=3) as one:
        clocks = one.run(train, timeout=DEADLINE_S)
        assert min(clocks) >= 3
        assert one.status()["stopped"] == "worker 1: loss < 0.1"


def test_leaving_after_a_stop_does_not_hold_up_those_who_have_not_seen_it(seed: int | None) -> None:
    def train(client: ps.Client) -> int:
        client.register(vector())
        for _ in range(5 if client.rank else 2):
            client.push_pull(vector(1.0))
        client.stop("enough")
        while client.rank == 0 and not client.should_stop:
            client.spend(0.001)
        return client.clock

    assert run(seed, train, workers=3) == [2, 5, 5]


def test_log_shows_in_status(seed: int | None) -> None:
    def train(client: ps.Client) -> None:
        client.log(loss=np.float32(0.5), accuracy=1)
        client.log(loss=0.25 + client.rank, diverged=float("nan"))

    with cluster(seed) as one:
        one.run(train, timeout=DEADLINE_S)
        logged = [worker["logged"] for worker in one.status()["workers"]]
        assert logged == [{"loss": 0.25, "accuracy": 1.0}, {"loss": 1.25, "accuracy": 1.0}]


def test_it_is_measured_which_metrics_end_in_values_that_are_left_out(seed: int | None) -> None:
    def train(client: ps.Client) -> dict[str, float]:
        client.log(spike=float("inf"), loss=1.0, fine=1.0)
        client.log(spike=2.0, loss=float("nan"))
        client.log(fine=2.0)
        gauges = client.metrics.snapshot().gauges
        return {dict(labels)["metric"]: value for (name, labels), value in gauges.items() if name == "nonfinite_log"}

    assert run(seed, train, workers=1) == [{"spike": 0.0, "loss": 1.0}]


def test_set_lr_at_a_clock(seed: int | None) -> None:
    def train(client: ps.Client) -> list[float]:
        client.register(vector())
        client.pull()
        if client.rank == 0:
            client.set_lr(1.0, at_clock=2)
        client.barrier()
        values, rates = [], []
        for _ in range(4):
            client.push(vector(1.0))
            client.tick()
            values.append(float(client.pull()["w"][0]))
            rates.append(client.lr)
        assert rates == [0.25, 1.0, 1.0, 1.0]  # the rate of the commit that comes next
        return values

    assert run(seed, train, optimizer="sgd:lr=0.25") == [[-0.25, -0.5, -1.5, -2.5]] * 2


def test_registered_state_goes_round(seed: int | None) -> None:
    def train(client: ps.Client) -> None:
        rng = np.random.default_rng(client.rank)
        position = [3]
        bits = rng.bit_generator
        client.register_state("rng", lambda: bits.state, lambda state: setattr(bits, "state", state))
        client.register_state("position", lambda: position[0], lambda value: position.__setitem__(0, value))
        saved = client.state()
        drawn = rng.random(3)
        position[0] = 8
        client.load_state(saved)
        assert (rng.random(3) == drawn).all() and position == [3]
        with pytest.raises(ps.ConfigError, match="'rng' is registered already"):
            client.register_state("rng", dict, lambda _: None)
        with pytest.raises(
            ps.ConfigError, match=r"'momentum' is not registered; known: ps\.compression, rng, position"
        ):
            client.load_state({"position": 5, "momentum": 0})
        assert position == [3], "nothing is loaded of a state that names what is not there"

    run(seed, train)


def test_a_state_that_does_not_fit_is_named(seed: int | None) -> None:
    """By the state, and by the field where the setter has said it, or missed it."""

    def train(client: ps.Client) -> None:
        moment = np.zeros(3)

        def load(state: dict[str, Any]) -> None:
            moment[:] = state["moment"]

        client.register_state("mine", lambda: {"moment": moment.copy()}, load)
        ps.data.leased(8, client, batch=2, epochs=1)
        for state, words in (
            ({"mine": {"moments": 1}}, "'mine': expected 'moment', as state() gives it, got none"),
            (
                {"mine": {"moment": np.ones(4)}},
                "'mine': expected what state() gives, got a state that fails with Value",
            ),
            ({"mine": None}, "'mine': expected what state() gives, got a state that fails with TypeError: "),
            ({"ps.data.data": {"done": []}}, "'ps.data.data': expected 'floor', as state() gives it, got none"),
        ):
            with pytest.raises(ps.ConfigError) as caught:
                client.load_state(state)
            assert str(caught.value).startswith(f"load_state: {words}")
        client.load_state({"mine": {"moment": np.full(3, 2.0)}})
        assert client.state()["mine"]["moment"].tolist() == [2.0] * 3

    run(seed, train)


def test_elastic_averaging_gives_workers_their_own_values_and_readers_those_of_the_servers(seed: int | None) -> None:
    def train(client: ps.Client) -> list[float]:
        client.register(vector(1.0))
        read = []
        for _ in range(4):
            read.append(float(client.pull()["w"][0]))
            client.push(vector(-8.0), weight=5.0)  # at local_lr 0.5: four up
            client.tick()
        return [*read, float(client.pull()["w"][0])]

    with cluster(seed, workers=1, consistency="easgd:alpha=0.25,every=2,local_lr=0.5", optimizer="add") as one:
        read = one.run(train)
        # After two steps 9, the servers' 1: two of the eight go there. Then 15 and 3: three of the twelve.
        assert read == [[1.0, 5.0, 7.0, 11.0, 12.0]]
        assert one.pull()["w"][0] == 6.0


def test_reader_sees_each_slice_in_one_version(seed: int | None) -> None:
    pulls = threading.Semaphore(0)

    def train(client: ps.Client) -> None:
        client.register({"a": np.zeros(30_000, np.float32), "b": np.zeros(30_000, np.float32)})
        while not client.should_stop:
            client.push({"a": np.ones(30_000, np.float32), "b": np.ones(30_000, np.float32)})
            client.tick()
            client.pull()
            pulls.release()

    with cluster(seed, servers=2, consistency=ASYNC, optimizer="sgd:lr=2") as one:
        one.start(train)
        last = 0.0
        for _ in range(5):
            assert pulls.acquire(timeout=DEADLINE_S)
            for value in one.pull().values():
                assert (value == value[0]).all() and value[0] == round(float(value[0]))
            least = float(one.pull(["a"])["a"][0])
            assert least <= last
            last = least
        one.stop("seen enough")
        one.results(timeout=DEADLINE_S)


# ---- data -----------------------------------------------------------------------------------------------------------


def test_shard_gives_every_example_once_per_epoch(seed: int | None) -> None:
    x = np.arange(103)

    def train(client: ps.Client) -> list[list[int]]:
        client.register(vector())
        batches = []
        for rows, doubled in ps.data.shard((x, 2 * x), client, batch=8, epochs=3):
            assert (doubled == 2 * rows).all()
            batches.append(rows.tolist())
            client.push_pull(vector(1.0), weight=len(rows))
        return batches

    parts = run(seed, train, workers=3)
    per_epoch = len(parts[0]) // 3
    assert {len(part) for part in parts} == {3 * per_epoch}
    orders = []
    for epoch in range(3):
        epoch_batches = [part[epoch * per_epoch : (epoch + 1) * per_epoch] for part in parts]
        orders.append([row for part in epoch_batches for batch in part for row in batch])
        assert sorted(orders[-1]) == x.tolist()
    assert orders[0] != orders[1] != orders[2]


def test_epoch_share_ends_an_epoch_early_and_counts_what_is_left_out(seed: int | None) -> None:
    finished = threading.Semaphore(0)  # epochs that worker 0 has finished
    epochs, x = 3, np.arange(40)

    def train(client: ps.Client) -> int:
        client.register(vector())
        seen = 0
        for step, (rows,) in enumerate(ps.data.shard((x,), client, batch=5, epochs=epochs)):
            seen += len(rows)
            if client.rank == 1:  # slower by far
                if seed is not None:
                    client.spend(100.0)
                else:
                    assert finished.acquire(timeout=DEADLINE_S)
                    client.barrier()
            elif seed is None and step % 4 == 3:
                client.epoch_done(step // 4)  # told before the other goes on; told again by shard
                finished.release()
                client.barrier()
            client.push(vector(1.0), weight=len(rows))
            client.tick()
        return seen

    with cluster(seed, consistency=ASYNC, epoch_share=0.5) as one:
        all_of_mine, some = one.run(train, timeout=DEADLINE_S)
        skipped = one.status()["skipped_examples"]
        assert all_of_mine == epochs * len(x) // 2
        assert some + sum(skipped.values()) == all_of_mine and some < all_of_mine
        assert set(skipped) <= set(range(epochs))


def test_shard_ends_when_the_job_is_stopped(seed: int | None) -> None:
    def train(client: ps.Client) -> int:
        client.register(vector())
        steps = 0
        for _ in ps.data.shard((np.arange(1000),), client, batch=1, epochs=100):
            client.push_pull(vector(1.0))
            steps += 1
            if steps == 3:
                client.stop("enough")
        return steps

    assert max(run(seed, train)) < 1000


# ---- calls that are cut short ---------------------------------------------------------------------------------------


def test_a_push_that_is_interrupted_half_way_ends_this_client_with_words() -> None:
    """Numbers were given out that nothing will be sent for: to go on would wait for ever, or worse."""
    size = 3 << 20

    def train(client: ps.Client) -> None:
        client.register({name: np.zeros(size, np.float32) for name in "ab"})
        client.pull()
        grads, gather, calls = {name: np.ones(size, np.float32) for name in "ab"}, client._worker.arrays.gather, [0]

        def interrupted(*args: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == 3:
                raise KeyboardInterrupt
            return gather(*args, **options)

        client._worker.arrays.gather = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            client.push_pull(grads)
        client._worker.arrays.gather = gather  # type: ignore[method-assign]
        with pytest.raises(ps.PeerError) as caught:
            client.push_pull(grads, timeout=DEADLINE_S)
        raise caught.value

    with (
        ps.LocalCluster(workers=1, consistency=BSP) as local,
        pytest.raises(ps.PeerError, match="got an interruption; close this client and start the worker again"),
    ):
        local.run(train, timeout=DEADLINE_S)


def test_a_pull_under_way_ends_with_its_client(seed: int | None) -> None:
    def train(client: ps.Client) -> tuple[float, str]:
        client.register(vector())
        client.pull()
        given_up = client.pull_later()
        given_up.end()
        client._pending = None
        assert not given_up.is_done
        with pytest.raises(ps.ConfigError) as caught:
            given_up.result()
        pending = client.push_pull_later(vector(1.0))
        client.close()
        assert pending.is_done
        return float(pending.result()["w"][0]), str(caught.value)

    for value, said in run(seed, train, optimizer="sgd:lr=0.5", consistency=BSP):
        assert value == -0.5 and "got one that was given up" in said


def test_values_that_cannot_be_read_are_asked_for_again(seed: int | None) -> None:
    size = 1 << 16

    def train(client: ps.Client) -> float:
        client.register(vector(size=size))
        client.pull()
        look, broken = client._worker.arrays.look, [1]

        def once(*args: Any) -> Any:
            if broken:
                broken.pop()
                raise ps.FrameError("a broken frame")
            return look(*args)

        client._worker.arrays.look = once  # type: ignore[method-assign, assignment]
        pull = client.push_pull_later(vector(1.0, size))
        with pytest.raises(ps.FrameError, match="a broken frame"):
            pull.result()
        assert not pull.is_done
        return float(pull.result()["w"][0])

    options: dict[str, Any] = {"optimizer": "sgd:lr=0.5", "consistency": BSP, "pull_compression": "onebit"}
    assert run(seed, train, **options) == [-0.5, -0.5]
