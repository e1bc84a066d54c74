"""What a training loop may rely on: arrays, dtypes, verdicts, and calls that are cut short."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ps
from tests.integration.helpers import DEADLINE_S, Arrays, assert_equal, model, noise, run, steps, vector

BSP, ASYNC = "bsp", "async"
LOCAL = "local:every=2,local_lr=0.1"
DOWNPOUR = "downpour:push_every=2,pull_every=2,local_lr=0.1"


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
