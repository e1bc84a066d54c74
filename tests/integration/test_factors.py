"""Gradients given as factors: the same training as with arrays, in the bytes that the formula says."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

import ps
from ps.compression import Codec, compressor
from ps.cost import Machine, factor_bytes
from ps.testing.lives import product
from tests.integration.helpers import Arrays, assert_equal, cluster, run

M, N = 96, 64
FAST = Machine(server_flops=float("inf"))  # factors whenever they are fewer bytes
NEVER = Machine(server_flops=1.0)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape).astype(np.float32)


def factors(rng: np.random.Generator, k: int, shape: Any = (M, N), dtype: Any = np.float32) -> ps.Factors:
    return ps.Factors(normal(rng, k, shape[0]).astype(dtype), normal(rng, k, shape[1]).astype(dtype))


def set_machine(client: ps.Client, machine: Machine = FAST) -> None:
    client._worker.schemes.machine = machine


def sent(client: ps.Client) -> int:
    return client.metrics.snapshot().total("push_bytes", direction="sent")


# ---- the same training ----------------------------------------------------------------------------------------------


def linear_layer(dense: bool, clocks: int = 25) -> Any:
    """A linear layer and its bias fitted to seeded data; returns the losses and the last weights."""

    def train(client: ps.Client) -> tuple[list[float], Arrays]:
        rng = np.random.default_rng(client.rank)
        target = normal(np.random.default_rng(99), M, N)
        client.register({"w": np.zeros((M, N), np.float32), "b": np.zeros(M, np.float32)})
        set_machine(client)
        losses = []
        for _ in range(clocks):
            values = client.pull()
            x = normal(rng, 16, N)
            delta = x @ values["w"].T + values["b"] - x @ target.T
            losses.append(float((delta**2).mean()))
            u = delta / np.float32(len(x))
            client.push({"w": u.T @ x if dense else ps.Factors(u, x), "b": u.sum(axis=0)}, weight=len(x))
            client.tick()
        return losses, client.pull()

    return train


@pytest.mark.parametrize("consistency", ["bsp", "async", "ssp:staleness=1", "quorum:n=1"])
@pytest.mark.parametrize("optimizer", ["sgd:lr=0.3", "momentum:lr=0.1,decay=0.8"])
def test_the_loss_curve_is_that_of_dense_gradients(consistency: str, optimizer: str) -> None:
    options: dict[str, Any] = {"servers": 2, "consistency": consistency, "optimizer": optimizer}
    thin, dense = run(1, linear_layer(False), **options), run(1, linear_layer(True), **options)
    for (losses, values), (wanted, expected) in zip(thin, dense, strict=True):
        np.testing.assert_allclose(losses, wanted, rtol=1e-4)
        assert losses[-1] < 0.8 * losses[0]
        for name, value in values.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("servers", [1, 2, 3])
@pytest.mark.parametrize("k", [0, 1, 5, 40])
def test_one_push_is_the_product_to_the_bit(seed: int | None, servers: int, k: int) -> None:
    """Three slices of 1024 x 3072, summed over two workers in rank order with their weights."""
    shape = (1024, 3072)
    pushes = [[factors(np.random.default_rng([rank, step]), k, shape) for step in range(2)] for rank in range(2)]

    def train(client: ps.Client) -> np.ndarray[Any, Any]:
        client.register({"w": np.ones(shape, np.float32)})
        set_machine(client)
        client.pull()
        for step, one in enumerate(pushes[client.rank]):
            client.push({"w": one}, weight=client.rank + step + 1)
        client.tick()
        return client.pull()["w"]

    first, second = run(seed, train, servers=servers, optimizer="sgd:lr=0.5")
    total = np.zeros(shape[0] * shape[1], np.float32)
    for rank, step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        total += np.float32(rank + step + 1) * product(pushes[rank][step].u, pushes[rank][step].v)
    total /= np.float32(8)
    wanted = np.ones(total.size, np.float32) - np.float32(0.5) * total
    assert first.tobytes() == second.tobytes() == wanted.tobytes()
    dense = sum((rank + step + 1) * one.product() for rank, row in enumerate(pushes) for step, one in enumerate(row))
    np.testing.assert_allclose(first, 1 - 0.5 * dense / 8, rtol=1e-5, atol=1e-5)


def test_push_pull_takes_them(seed: int | None) -> None:
    def train(client: ps.Client, dense: bool) -> Arrays:
        rng = np.random.default_rng(client.rank)
        client.register({"w": np.zeros((M, N), np.float32), "b": np.zeros(M, np.float32)})
        set_machine(client)
        for _ in range(3):
            one = factors(rng, 4)
            values = client.push_pull({"w": one.product() if dense else one, "b": one.u.sum(axis=0)})
        return values

    for thin, dense in zip(run(seed, lambda c: train(c, False)), run(seed, lambda c: train(c, True)), strict=True):
        np.testing.assert_allclose(thin["w"], dense["w"], rtol=1e-4, atol=1e-5)


def test_factors_may_be_overwritten_right_after_push(seed: int | None) -> None:
    def train(client: ps.Client, spoil: bool) -> Arrays:
        rng = np.random.default_rng(client.rank)
        client.register({"w": np.zeros((M, N), np.float32)})
        set_machine(client)
        for copy in (True, False):
            client.pull()
            one = factors(rng, 4)
            client.push({"w": one}, copy=copy)
            if spoil:
                one.u.fill(np.nan)
                one.v.fill(np.nan)
            client.tick()
        return client.pull()

    assert_equal(run(seed, lambda c: train(c, True))[0], run(seed, lambda c: train(c, False))[0])


# ---- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [0, 1, 8, 64])
def test_bytes_are_those_of_the_formula(servers: int, k: int) -> None:
    """4096 x 1024: four slices. Another layer of 512 x 256 is one slice, and its bias travels raw."""
    big, small, clocks = (4096, 1024), (512, 256), 2

    def train(client: ps.Client) -> tuple[int, int, int]:
        rng = np.random.default_rng(client.rank)
        zeros = {"big": big, "small": small, "b": (512,)}
        client.register({name: np.zeros(shape, np.float32) for name, shape in zeros.items()})
        set_machine(client)
        for _ in range(clocks):
            client.pull()
            client.push({"big": factors(rng, k, big), "small": factors(rng, k, small), "b": normal(rng, 512)})
            client.tick()
        client.barrier()
        shard_S = client._worker.session.shard_S[client._worker.keyspace.slices_of["big"]]
        messages = client.metrics.snapshot().total("push_messages", direction="sent")
        return sent(client), messages, len(set(shard_S.tolist()))

    with cluster(1, servers=servers) as one:
        results = one.run(train)
        counted = sum(s.total("push_bytes", direction="received") for p, s in one.metrics() if p.startswith("server"))
    shards = results[0][2]
    assert shards == min(servers, 4)
    each = factor_bytes(k, *big, shards, 4) + factor_bytes(k, *small, 1, 1) + 4 * 512
    assert [nbytes for nbytes, _, _ in results] == [each * clocks] * 2
    assert counted == 2 * each * clocks
    assert all(messages <= servers * clocks for _, messages, _ in results), "one per server and push"


def test_a_second_layer_may_share_the_message_and_not_the_factor() -> None:
    """Two layers of one shape, two buffers V: nobody is added the other's product."""
    ones = {name: factors(np.random.default_rng(seed), 3) for seed, name in enumerate("abc")}

    def train(client: ps.Client) -> Arrays:
        client.register({name: np.zeros((M, N), np.float32) for name in ones})
        set_machine(client)
        client.pull()
        client.push(ones)
        client.tick()
        return client.pull()

    values = run(1, train, workers=1, optimizer="sgd:lr=1")[0]
    for name, one in ones.items():
        assert values[name].tobytes() == (0 - product(one.u, one.v)).tobytes()


# ---- the choice -----------------------------------------------------------------------------------------------------


def says(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "ps" and record.levelno == logging.INFO]


def test_the_choice_is_said_once_and_again_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ps")

    def train(client: ps.Client) -> None:
        rng = np.random.default_rng(0)
        client.register({"w": np.zeros((M, N), np.float32)})
        set_machine(client)
        for k in (4, 4, 8, 60, 60, 4):
            client.push_pull({"w": factors(rng, k)})

    run(1, train, workers=1)
    assert says(caplog) == [
        "worker 0: 'w': factors, 2.6 kB instead of 24.6 kB per push: K = 4, 2.1e-05 s to send and multiply, "
        "0.0002 s to send dense",
        "worker 0: 'w': dense, 24.6 kB per push, 38.4 kB as factors: K = 60, 0.00031 s to send and multiply, "
        "0.0002 s to send dense",
        "worker 0: 'w': factors, 2.6 kB instead of 24.6 kB per push: K = 4, 2.1e-05 s to send and multiply, "
        "0.0002 s to send dense",
    ]


def test_slow_servers_get_dense_gradients() -> None:
    def train(client: ps.Client) -> int:
        client.register({"w": np.zeros((M, N), np.float32)})
        set_machine(client, NEVER)
        client.push_pull({"w": factors(np.random.default_rng(0), 1)})
        return sent(client)

    assert run(1, train, workers=1) == [4 * M * N]


def test_the_choice_reckons_with_the_link_where_the_run_has_measured_it() -> None:
    """A server of a given speed: what pays at 1 Gbit/s does not on a link through memory or in virtual time."""

    def train(client: ps.Client) -> tuple[float, int]:
        client.register(ONE)
        link = client._worker.schemes.machine.link_bytes_per_s
        set_machine(client, Machine(link, server_flops=1e9))
        client.push_pull({"w": factors(np.random.default_rng(0), 1)})
        return client._worker.schemes.machine.link_bytes_per_s, sent(client)

    assert run(1, train, workers=1) == [(Machine().link_bytes_per_s, factor_bytes(1, M, N, 1, 1))]
    [(link, nbytes)] = run(1, train, workers=1, compression="auto")
    assert link > Machine().link_bytes_per_s and nbytes == 4 * M * N


SMALL = {"w": np.zeros((8, 8), np.float32), "v": np.zeros((8, 8), np.float32)}
WIDE = {"w": np.zeros((2, (1 << 20) + 8), np.float32)}
ONE = {"w": np.zeros((M, N), np.float32)}


@pytest.mark.parametrize(
    ("initial", "options", "why"),
    [
        (ONE, {"consistency": "downpour:push_every=2,pull_every=2,local_lr=0.1"}, "what this consistency model pushes"),
        (ONE, {"consistency": "local:every=2,local_lr=0.1"}, "what this consistency model pushes is accumulated"),
        (ONE, {"consistency": "ssp:staleness=1"}, "this worker steps a replica of its own"),
        (ONE, {"clip_norm": 1.0}, "clip_norm scales the whole gradient"),
        (ONE, {"push_compression": "dgc:min_elements=0"}, "dgc gives every gradient a momentum"),
        ({"w": np.zeros((M, N))}, {}, "float64 keeps its precision"),
        (SMALL, {}, "it is small and travels in a bundle"),
        (WIDE, {}, "its rows are cut over several slices"),
    ],
)
def test_where_factors_cannot_travel_the_product_does(
    initial: Arrays, options: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ps")

    def train(client: ps.Client, dense: bool) -> Arrays:
        client.register(initial)
        set_machine(client)
        for step in range(3):
            client.pull()
            rng = np.random.default_rng([client.rank, step])
            ones = {name: factors(rng, 1, value.shape, value.dtype) for name, value in initial.items()}
            client.push({name: one.product() if dense else one for name, one in ones.items()})
            client.tick()
        client.barrier()
        return client.pull()

    thin = run(1, lambda c: train(c, False), optimizer="sgd:lr=0.1", **options)
    assert sum(f"'w': dense, {why}" in line for line in says(caplog)) == 2, "once per worker"
    assert_equal(thin[0], run(1, lambda c: train(c, True), optimizer="sgd:lr=0.1", **options)[0])


def test_a_codec_is_the_measure_and_serves_what_it_makes_shorter() -> None:
    """fp16 halves the dense frame: K = 18 of 96 x 64 is less than float32 and no longer less than float16."""

    def train(client: ps.Client) -> list[int]:
        client.register(ONE)
        set_machine(client)
        counts = [0]
        for k in (18, 20):
            client.push_pull({"w": factors(np.random.default_rng(k), k)})
            counts.append(sent(client))
        return np.diff(counts).tolist()

    thin = [factor_bytes(k, M, N, 1, 1) for k in (18, 20)]
    codec = compressor("fp16")
    assert isinstance(codec, Codec)
    half = codec.bytes_max(M, N)
    assert thin[0] < half < thin[1] < 4 * M * N
    assert run(1, train, workers=1, push_compression="fp16") == [[thin[0], half]]
    assert run(1, train, workers=1) == [thin]


def test_what_a_codec_has_left_travels_before_factors_do() -> None:
    """topk leaves most of the first gradient; factors wait until that is gone, and nothing is lost."""

    def train(client: ps.Client) -> tuple[list[int], Arrays]:
        client.register(ONE)
        rng, counts = np.random.default_rng(0), [0]
        for k, machine in ((1, NEVER), (1, FAST), (1, FAST)):
            set_machine(client, machine)
            client.push_pull({"w": factors(rng, k)})
            counts.append(sent(client))
        return np.diff(counts).tolist(), client._worker.arrays.encoder.residual(0)  # type: ignore[return-value]

    [(nbytes, residual)] = run(1, train, workers=1, push_compression="topk:ratio=0.2", optimizer="sgd:lr=1")
    assert min(nbytes) > factor_bytes(1, M, N, 1, 1) and np.any(residual)


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300, 1e25])
@pytest.mark.parametrize("place", ["u", "v"])
@pytest.mark.parametrize("consistency", ["bsp", "local:every=2,local_lr=0.1"])
def test_factors_that_are_not_finite_are_dropped_whole_and_named(
    bad: float, place: str, consistency: str, caplog: pytest.LogCaptureFixture
) -> None:
    def train(client: ps.Client) -> Any:
        client.register({"w": np.zeros((M, N), np.float32), "b": np.zeros(M, np.float32)})
        set_machine(client)
        client.pull()
        u, v = np.ones((2, M)), np.ones((2, N))
        (u if place == "u" else v)[1, 3] = bad
        (v if place == "u" else u)[1, 3] = 1e25 if bad == 1e25 else 1  # each finite, the product not
        future = client.push({"w": ps.Factors(u, v), "b": np.ones(M)})
        assert client.metrics.snapshot().total("nonfinite_pushes") == 1
        client.tick()
        client.tick()
        return future.result(), float(np.abs(client.pull()["w"]).max()), sent(client)

    options = {"workers": 1, "consistency": consistency}
    assert run(1, train, **options) == [({"": ps.Refused("NaN or Inf in w")}, 0.0, 0)]
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == [
        "worker 0: push at clock 0 dropped: NaN or Inf in w"
    ]


def test_mistakes_name_the_parameter_and_leave_the_job_alive(seed: int | None) -> None:
    def train(client: ps.Client) -> float:
        frozen = {"f": ps.Options(frozen=True)}
        client.register({"w": np.zeros((M, N), np.float32), "b": np.zeros(M, np.float32), "f": np.ones((M, N))}, frozen)
        set_machine(client)
        client.pull()
        b = np.zeros(M)
        for grads, text in (
            ({"w": ps.Factors(np.ones((2, N)), np.ones((2, M)))}, r"'w': expected factors of shapes \(K, 96\) and"),
            ({"b": ps.Factors(np.ones((2, M)), np.ones((2, 1)))}, r"'b': expected an array, not factors"),
            ({"f": ps.Factors(np.ones((2, M)), np.ones((2, N)))}, r"'f': expected a trainable parameter"),
            ({"w": ps.Factors(["x"], [2])}, r"'w': expected factors of shapes"),  # type: ignore[arg-type]
        ):
            with pytest.raises(ps.ConfigError, match=f"push of {text}"):
                client.push(grads)
            with pytest.raises(ps.ConfigError, match=f"push of {text}"):
                client.push_pull(grads)
        client.push({"w": ps.Factors(np.ones((2, M)), np.ones((2, N))), "b": b})
        client.tick()
        return float(client.pull()["w"][0, 0])

    assert run(seed, train, optimizer="sgd:lr=1") == [-2, -2]


def test_an_empty_batch_is_a_gradient_of_zeros() -> None:
    def train(client: ps.Client) -> tuple[Any, float]:
        client.register(ONE)
        set_machine(client)
        client.pull()
        k = 2 * client.rank
        future = client.push({"w": ps.Factors(np.ones((k, M)), np.ones((k, N)))}, weight=1)
        client.tick()
        client.pull()
        return future.result(), float(client.pull()["w"][0, 0])

    assert run(1, train, optimizer="sgd:lr=1") == [({"'w'": ps.Applied(1)}, -1.0)] * 2
