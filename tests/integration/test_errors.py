"""Mistakes in a training loop: each is refused where it is made, in words that help, and leaves the job alive."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ps
from tests.integration.helpers import DEADLINE_S, assert_equal, cluster, run

Mistake = Callable[[Any], Any]
shard: Any = ps.data.shard
READ_ONLY = np.zeros((3, 4), np.float32)
READ_ONLY.flags.writeable = False


def values() -> dict[str, Any]:
    """`w` and `b` travel in one bundle; `ids` cannot be trained, `still` may not be."""
    return {
        "w": np.ones((3, 4), np.float32),
        "b": np.zeros(5, np.float32),
        "big": np.zeros((100, 50), np.float32),
        "ids": np.arange(4),
        "still": np.ones(2, np.float32),
    }


def grads(**changed: Any) -> dict[str, Any]:
    """A right gradient, then changed; None leaves a name out."""
    made = {name: np.ones(values()[name].shape, np.float32) for name in ("w", "b", "big")} | changed
    return {name: grad for name, grad in made.items() if grad is not None}


def out(**arrays: Any) -> Mistake:
    return lambda client: client.pull(out=arrays)


def push(**changed: Any) -> Mistake:
    return lambda client: client.push(grads(**changed))


MISTAKES: dict[str, tuple[Mistake, str]] = {
    "register the same name again": (
        lambda c: c.register({"b": np.zeros(5, np.float32)}),
        "parameter 'b': expected a new name, got one that is registered",
    ),
    "register nothing": (lambda c: c.register({}), "register: expected at least one parameter, got none"),
    "register an array": (lambda c: c.register(np.zeros(3)), "register: expected a dict name -> array, got ndarray"),
    "register a number as name": (lambda c: c.register({3: np.zeros(3)}), "register: expected names as str, got 3"),
    "register an empty name": (
        lambda c: c.register({"": np.zeros(3)}),
        "parameter name: expected 1 to 512 bytes, got ''",
    ),
    "register complex numbers": (
        lambda c: c.register({"z": np.zeros(3, np.complex64)}),
        "parameter 'z': expected dtype float16, bfloat16, float32, float64 or an integer, got complex64; cast",
    ),
    "register text": (
        lambda c: c.register({"z": np.array(["a"])}),
        "parameter 'z': expected dtype float16, .*, got str32; cast",
    ),
    "register objects": (
        lambda c: c.register({"z": np.array([None])}),
        "parameter 'z': expected dtype .*, got object; cast",
    ),
    "register more than fits": (
        lambda c: c.register({"z": np.broadcast_to(np.float32(0), (1 << 20, 1 << 20, 2))}),
        f"parameter 'z': expected at most {1 << 40} elements, got shape \\(1048576, 1048576, 2\\)",
    ),
    "options for an unknown name": (
        lambda c: c.register({"z": np.zeros(3)}, options={"y": ps.Options()}),
        "register: options: expected names among z, got 'y'",
    ),
    "option out of range": (
        lambda c: ps.Options(lr_scale=-1),
        "options.lr_scale: expected a finite number >= 0, got -1",
    ),
    "pull an unknown name": (
        lambda c: c.pull(["weights"]),
        r"parameter 'weights': expected a registered name \(b, big, ids, still, w\), got an unknown one",
    ),
    "pull a string": (
        lambda c: c.pull("big"),
        r"names: expected a list of names, got the string 'big'; write \['big'\]",
    ),
    "pull with timeout 0": (
        lambda c: c.pull(timeout=0),
        "timeout: expected seconds > 0, got 0; None means the run's timeout_s",
    ),
    "pull with timeout -1": (lambda c: c.pull(timeout=-1.5), "timeout: expected seconds > 0, got -1.5"),
    "pull with timeout NaN": (lambda c: c.pull(timeout=float("nan")), "timeout: expected seconds > 0, got nan"),
    "pull with a textual timeout": (lambda c: c.pull(timeout="5 s"), "timeout: expected a number, got '5 s'"),
    "out of another shape": (
        out(w=np.zeros((4, 3), np.float32)),
        r"pull: out\['w'\]: expected shape \(3, 4\) float32, got \(4, 3\) float32",
    ),
    "out of another dtype": (
        out(w=np.zeros((3, 4))),
        r"pull: out\['w'\]: expected shape \(3, 4\) float32, got \(3, 4\) float64",
    ),
    "out in Fortran order": (
        out(w=np.zeros((3, 4), np.float32, order="F")),
        r"pull: out\['w'\]: expected a writeable C-contiguous array, got strides \(4, 12\)",
    ),
    "out that is read-only": (
        out(w=READ_ONLY),
        r"pull: out\['w'\]: expected a writeable C-contiguous array, got a read-only one",
    ),
    "out that is a list": (out(b=[0.0] * 5), r"pull: out\['b'\]: expected a numpy array, got list"),
    "out for an unknown name": (out(v=np.zeros(5)), "pull: out: expected names among the pulled ones, got 'v'"),
    "out that is an array": (
        lambda c: c.pull(["b"], out=np.zeros(5, np.float32)),
        "pull: out: expected a dict name -> array, got ndarray",
    ),
    "push an unknown name": (
        push(v=np.zeros(3)),
        r"parameter 'v': expected a registered name \(.*\), got an unknown one",
    ),
    "push an array": (lambda c: c.push(np.ones(3)), "push: expected a dict name -> array, got ndarray"),
    "push a wrong shape": (push(w=np.zeros(12)), r"push of 'w': expected shape \(3, 4\), got \(12,\)"),
    "push a scalar": (push(b=1.0), r"push of 'b': expected shape \(5,\), got \(\)"),
    "push complex numbers": (
        push(b=np.zeros(5, complex)),
        "push of 'b': expected an array of real numbers, got dtype complex128",
    ),
    "push text": (push(b=np.array(["0"] * 5)), "push of 'b': expected an array of real numbers, got dtype <U1"),
    "push None": (push(b=np.array([None] * 5)), "push of 'b': expected an array of real numbers, got dtype object"),
    "push booleans": (push(b=np.ones(5, bool)), "push of 'b': expected an array of real numbers, got dtype bool"),
    "push a frozen parameter": (
        push(still=np.zeros(2)),
        "push of 'still': expected a trainable parameter, got one that is frozen, which is .*; leave it out",
    ),
    "push an integer buffer": (
        push(ids=np.zeros(4)),
        "push of 'ids': expected a trainable parameter, got one that has dtype int64, .*; leave it out",
    ),
    "push a part of a bundle": (
        push(b=None),
        r"push of 'w': it travels in one slice with 'b'; push them together \(zeros where there is no gradient\)",
    ),
    "weight 0": (
        lambda c: c.push(grads(), weight=0),
        "push: weight: expected a number of examples > 0 .*, got 0; a clock without",
    ),
    "weight NaN": (
        lambda c: c.push(grads(), weight=float("nan")),
        "push: weight: expected a number of examples > 0 .*, got nan",
    ),
    "weight -1": (lambda c: c.push(grads(), weight=-1), "push: weight: expected a number of examples > 0 .*, got -1"),
    "weight beyond float32": (lambda c: c.push(grads(), weight=1e39), r"push: weight: .*at most 1e\+12\), got 1e\+39"),
    "weight of another kind": (lambda c: c.push(grads(), weight="8"), "push: weight: expected a number, got '8'"),
    "push with timeout 0": (lambda c: c.push(grads(), timeout=0), "timeout: expected seconds > 0, got 0"),
    "push_pull with timeout 0": (lambda c: c.push_pull(grads(), timeout=0), "timeout: expected seconds > 0, got 0"),
    "barrier with timeout 0": (lambda c: c.barrier(timeout=0), "timeout: expected seconds > 0, got 0"),
    "result with timeout 0": (
        lambda c: c.push({}).result(timeout=0),
        r"timeout: expected seconds > 0, got 0; `verdicts\(\)` looks without waiting",
    ),
    "log text": (lambda c: c.log(loss="low"), "log: loss: expected a number, got 'low'"),
    "log an array": (lambda c: c.log(loss=np.zeros(2)), r"log: loss: expected a number, got array\(\[0., 0.\]\)"),
    "set_lr to NaN": (lambda c: c.set_lr(float("nan")), "set_lr: lr: expected a finite number >= 0, got nan"),
    "set_lr below 0": (lambda c: c.set_lr(-0.1), "set_lr: lr: expected a finite number >= 0, got -0.1"),
    "set_lr before the start": (
        lambda c: c.set_lr(0.1, at_clock=-1),
        "set_lr: at_clock: expected a clock >= 0, got -1",
    ),
    "shard one array": (
        lambda c: shard(np.zeros((9, 2)), c, batch=1, epochs=1),
        r"data.shard: arrays: expected a tuple of arrays, got one array; write \(array,\)",
    ),
    "shard lists": (
        lambda c: shard(([1, 2], [3, 4]), c, batch=1, epochs=1),
        "data.shard: arrays: expected arrays with examples as rows, got list",
    ),
    "shard unequal arrays": (
        lambda c: shard((np.zeros(3), np.zeros(4)), c, batch=1, epochs=1),
        r"data.shard: arrays: expected one or more, equally long, got lengths \[3, 4\]",
    ),
    "shard nothing": (lambda c: shard((), c, batch=1, epochs=1), "data.shard: arrays: expected one or more, .*"),
    "shard in batches of 0": (
        lambda c: shard((np.zeros(3),), c, batch=0, epochs=1),
        "data.shard: batch: expected >= 1 examples per worker and clock, got 0",
    ),
    "shard for epochs < 0": (
        lambda c: shard((np.zeros(3),), c, batch=1, epochs=-1),
        "data.shard: epochs: expected >= 0, got -1",
    ),
    "shard fewer examples than workers": (
        lambda c: shard((np.zeros(1),), c, batch=1, epochs=1),
        "data.shard: arrays: expected at least one example for each of 2 workers, got 1; run fewer workers",
    ),
}


@pytest.mark.parametrize("consistency", ["bsp", "local:every=2,local_lr=0.5"])
def test_no_mistake_that_is_caught_disturbs_the_run(seed: int | None, consistency: str) -> None:
    def train(client: ps.Client, make_mistakes: bool) -> tuple[list[str], dict[str, Any]]:
        told = []

        def err() -> None:
            for name, (mistake, _) in MISTAKES.items() if make_mistakes else ():
                with pytest.raises(ps.ConfigError) as raised:
                    pytest.fail(f"{name}: {mistake(client)}")
                told.append(str(raised.value))

        client.register(values(), options={"still": ps.Options(frozen=True)})
        for clock in range(4):
            client.pull()
            if client.rank == clock % 2:
                err()
            client.push(grads(), weight=client.rank + 1)
            client.tick()
        client.barrier()
        return told, client.pull()

    options: dict[str, Any] = {"consistency": consistency, "optimizer": "momentum:lr=0.1,decay=0.9", "servers": 2}
    (_, expected), _ = run(seed, lambda client: train(client, False), **options)
    results = run(seed, lambda client: train(client, True), **options)
    for told, last in results:
        assert_equal(last, expected)
        for (name, (_, text)), message in zip(MISTAKES.items(), told[: len(MISTAKES)], strict=True):
            assert re.match(text, message), f"{name}: {message}"


def test_mistakes_before_register(seed: int | None) -> None:
    def train(client: ps.Client) -> str:
        for call in (client.pull, client.tick, lambda: client.push({"w": np.zeros(3)})):
            with pytest.raises(ps.ConfigError, match=r"no parameters yet; call client.register\({name: array}\) first"):
                call()
        client.register({"w": np.zeros(3)})
        return client.push_pull({"w": np.ones(3)})["w"].dtype.name

    assert run(seed, train) == ["float64", "float64"]


def test_calls_on_a_closed_client_say_so(seed: int | None) -> None:
    def train(client: ps.Client) -> None:
        client.register({"w": np.zeros(3)})
        client.close()
        client.close()
        calls: list[Callable[[], Any]] = [
            client.pull,
            client.tick,
            client.barrier,
            lambda: client.register({"v": np.zeros(3)}),
            lambda: client.push({"w": np.zeros(3)}),
            lambda: client.push_pull({"w": np.zeros(3)}),
            lambda: client.log(loss=1),
            lambda: client.stop("over"),
            lambda: client.set_lr(0.1),
        ]
        for call in calls:
            with pytest.raises(ps.ConfigError, match="this client is closed"):
                call()
        assert client.should_stop in (False, True) and client.rank < client.size and client.clock == 0

    run(seed, train)


# ---- what workers must have in common -------------------------------------------------------------------------------

COMMON = [
    (
        {"w": (3, 4)},
        {"w": (4, 3)},
        r"parameter 'w': expected shape \(\d, \d\) float32 like the other workers, got shape \(\d",
    ),
    ({"w": (3, 4)}, {"v": (3, 4)}, "parameter 0: expected '[wv]' like the other workers, got '[wv]'"),
    (
        {"w": (3,), "b": (1,)},
        {"w": (3,)},
        "batch: expected [12] parameters like the other workers, got (1, 'b' is missing|2, 'b' is one too many)",
    ),
]


@pytest.mark.parametrize(("one_set", "other_set", "text"), COMMON, ids=["shape", "name", "count"])
def test_workers_that_register_unlike_parameters_are_told_both(
    seed: int | None, one_set: Any, other_set: Any, text: str
) -> None:
    def arrays(shapes: Any) -> dict[str, Any]:
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def train(client: ps.Client) -> str:
        said = ""
        try:
            client.register(arrays(other_set if client.rank else one_set))
        except ps.ConfigError as error:  # whoever comes second
            said = str(error)
            client.register(arrays(one_set if client.rank else other_set))  # the job is alive
        client.push_pull({name: array + 1 for name, array in client.pull().items()})
        return said

    said = sorted(run(seed, train))
    assert said[0] == "" and re.search(text, said[1]), said
    assert re.match("worker [01]: register: ", said[1]) and "register the same" in said[1]


def test_workers_with_unlike_dtypes_and_options_are_told_both(seed: int | None) -> None:
    def train(client: ps.Client) -> list[str]:
        said = []
        attempts: list[tuple[Any, Any]] = [(np.float64, {}), (np.float32, {"w": ps.Options(lr_scale=0.5)})]
        client.register({"v": np.zeros(2)})  # the first batch is registered together
        if client.rank == 0:
            client.register({"w": np.zeros(3, np.float32)})
        client.barrier()
        for dtype, options in attempts if client.rank else ():
            with pytest.raises(ps.ConfigError) as raised:
                client.register({"w": np.zeros(3, dtype)}, options=options)
            said.append(str(raised.value))
        if client.rank:
            client.register({"w": np.zeros(3, np.float32)})
        client.pull()
        return said

    _, (dtype, options) = run(seed, train)
    assert "'w': expected shape (3,) float32 like the other workers, got shape (3,) float64" in dtype
    assert "'w': options: expected lr_scale=1.0 like the other workers, got lr_scale=0.5; register" in options


def test_initial_values_that_never_come_are_missed_by_name(seed: int | None) -> None:
    def train(client: ps.Client) -> str:
        if client.rank == 0:
            client.barrier()  # it ought to register
            return ""
        with pytest.raises(ps.DeadlineError) as raised:
            client.register({"w": np.zeros(3)}, timeout=1.5)
        client.barrier()
        return str(raised.value)

    _, text = run(seed, train, resend_s=0.1)
    start = "after 1.5 s: register: batch 0 waits for worker 0, at clock 0, last heard "
    assert text.startswith(start), text


def test_pull_that_runs_out_of_time_names_whom_it_waits_for(seed: int | None) -> None:
    def train(client: ps.Client) -> str:
        client.register({"w": np.zeros(3)})
        client.pull()
        client.barrier()
        text = ""
        if client.rank == 0:
            client.push({"w": np.ones(3)})
            client.tick()
            with pytest.raises(ps.DeadlineError) as raised:
                client.pull(timeout=1.0)
            text = str(raised.value)
        client.barrier()
        client.tick() if client.rank else None
        client.pull()  # caught: the run goes on
        return text

    text, _ = run(seed, train, resend_s=0.1)
    expected = r"after 1 s: pull of 'w' at clock 1: server 0 waits for worker 1, at clock 0, last heard \d+\.\d s ago"
    assert re.fullmatch(expected, text), text


def test_verdict_that_runs_out_of_time_names_server_and_push(seed: int | None) -> None:
    def train(client: ps.Client) -> str:
        client.register({"w": np.zeros(3)})
        client.pull()
        client.barrier()
        text = ""
        if client.rank == 0:
            future = client.push({"w": np.ones(3)})
            client.tick()
            with pytest.raises(ps.DeadlineError) as raised:
                future.result(timeout=1.0)
            text = str(raised.value)
        client.barrier()
        client.tick() if client.rank else None
        client.pull()
        return text

    text, _ = run(seed, train)
    expected = r"after 1 s: push: push 1 of 'w' at clock 0: gathered, its commit waits .*, server 0 \(last heard .*"
    assert re.fullmatch(expected, text), text


def test_push_that_would_run_too_far_ahead_waits_and_names_the_push(seed: int | None) -> None:
    def train(client: ps.Client) -> str:
        client.register({"w": np.zeros(3)})
        client.pull()
        client.barrier()
        text = ""
        if client.rank == 0:
            for _ in range(2):
                client.push({"w": np.ones(3)})
                client.tick()
            with pytest.raises(ps.DeadlineError) as raised:
                client.push({"w": np.ones(3)}, timeout=1.0)
            text = str(raised.value)
        client.barrier()
        for _ in range(0 if client.rank == 0 else 2):
            client.push_pull({"w": np.ones(3)})
        client.push({"w": np.ones(3)})
        client.tick()
        assert (client.pull()["w"] == -3).all()
        return text

    text, _ = run(seed, train, inflight_clocks=2, optimizer="sgd:lr=1")
    assert "push 1 of 'w' at clock 0: gathered, its commit waits for other workers" in text


def test_deadline_without_servers_names_them(seed: int | None) -> None:
    with cluster(seed, servers=2, timeout_s=1.0) as one:

        def train(client: ps.Client) -> None:
            client.register({"w": np.zeros(3)})
            one.kill("server:1")  # holds nothing: the only slice is on server 0; the job ends all the same
            client.barrier()

        with pytest.raises(ps.StoppedError, match=r"server 1 was lost .*before it held any values"):
            one.run(train, timeout=DEADLINE_S)


def test_all_errors_have_one_root() -> None:
    for kind in (ps.ConfigError, ps.PeerError, ps.DeadlineError, ps.StoppedError, ps.FrameError, ps.OutboxFull):
        assert issubclass(kind, ps.Error)
    assert issubclass(ps.ConfigError, ValueError) and issubclass(ps.DeadlineError, TimeoutError)
