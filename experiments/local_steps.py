"""What local steps save in bytes and cost in loss, synchronous and not: the tables of docs/results/local_steps_*.md.

    python experiments/local_steps.py --data ../shared/data                    # all tables, minutes on two cores
    python experiments/local_steps.py --data ../shared/data --only async

Letters of Shakespeare, the next from the eight before: embedding, one hidden layer, 26 k parameters. Four workers, one
server, virtual time: a figure repeats to the bit. Every arm is tuned on the same grid with the first seed: inner rate,
and where local steps have an outer optimizer, its momentum. Loss: of the servers' values on the test part, nats per
letter; settings are chosen by it, too, with the first seed, which makes that seed's losses a little too good. Bytes:
payload of pushes at the sockets of all workers, headers apart.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np

import ps
from ps.optim import optimizer, schedule
from ps.optim.base import Step

CONTEXT, WIDTH, HIDDEN, BATCH = 8, 16, 128, 32
WORKERS, SLOW_AND_FAST = 4, (1, 1, 2, 4)  # steps per virtual second of each worker
DECAYS = (0.9, 0.5)  # momentum of outer optimizers
Array = np.ndarray[Any, Any]
Values = dict[str, Array]


class Arm(NamedTuple):
    """One way to train. outer: the servers' optimizer; of `bsp`: adamw at the inner rate."""

    consistency: str
    outer: str
    rate: float
    split: str = "alike"  # each worker's examples: alike, by place, by class
    speeds: tuple[int, ...] = (1,) * WORKERS
    share: float = 1.0  # of `steps` times its speed, what each worker does


class Outcome(NamedTuple):
    """One run."""

    loss: float
    pushed: int
    seconds: float  # virtual


Measured = dict[str, tuple[Arm, list[Outcome]]]
Runs = Callable[[Sequence[tuple[Arm, int]]], Iterable[Outcome]]  # of arms with a seed each


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds tinyshakespeare/")
    parser.add_argument("--only", choices=["bytes", "async", "streaming"], help="one part")
    parser.add_argument("--steps", type=int, default=2000, help="of each worker, 2000")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0005, 0.0025, 0.01, 0.02])
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the processes to come: products repeat for a fixed number only
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:

        def runs(jobs: Sequence[tuple[Arm, int]]) -> Iterable[Outcome]:
            arms, seeds = zip(*jobs, strict=True)
            return pool.map(partial(run, options.data, options.steps), arms, seeds)

        if options.only in (None, "bytes"):
            bytes_tables(runs, options.rates, options.seeds, options.steps)
        if options.only in (None, "async"):
            async_tables(runs, options.rates, options.seeds)
        if options.only in (None, "streaming"):
            streaming_table(runs, options.rates, options.seeds)


# ---- tables ---------------------------------------------------------------------------------------------------------


def bytes_tables(runs: Runs, rates: Sequence[float], seeds: Sequence[int], steps: int) -> None:
    """DiLoCo with ever fewer exchanges beside synchronous training; then each with examples that are not alike."""
    grid = {"synchronous": [Arm("bsp", "", rate) for rate in rates]}
    for every in (1, 10, 50, 200, 500):
        rounds = f"DiLoCo, H = {every}, {steps / every:g} rounds"
        grid[rounds] = [diloco(f"local:every={every}", "nesterov", d, r) for d in DECAYS for r in rates]
    alike = tuned(runs, grid, seeds)
    show("The same examples for all", alike, alike["synchronous"][1])
    for split in ("by place", "by class"):
        again = {name: [arm._replace(split=split)] for name, (arm, _) in alike.items() if "H = 1," not in name}
        apart = tuned(runs, again, seeds)
        show(f"Each worker its own part, {split}; options as above", apart, apart["synchronous"][1])


def async_tables(runs: Runs, rates: Sequence[float], seeds: Sequence[int]) -> None:
    """One worker of double, one of fourfold speed, H = 50: with equal steps in all, then with equal time."""
    for decay in DECAYS:
        grid = {"synchronous": [diloco("local:every=50", "nesterov", decay, r, SLOW_AND_FAST) for r in rates]}
        kinds = {"Nesterov per arrival, rate a": "plain", "rate a / live": "nesterov", "delayed": "delayed_nesterov"}
        share = WORKERS / sum(SLOW_AND_FAST)
        for name, kind in kinds.items():
            grid[name] = [diloco("async_local:every=50", kind, decay, r, SLOW_AND_FAST, share) for r in rates]
        found = tuned(runs, grid, seeds)
        sync = found["synchronous"][1]
        show(f"Speeds 1 : 1 : 2 : 4, outer momentum {decay}, equal steps in all", found, sync)
        longer = {name: [arm._replace(share=1.0)] for name, (arm, _) in found.items() if name != "synchronous"}
        both = {"synchronous": found["synchronous"], **tuned(runs, longer, seeds)}
        show(f"Speeds 1 : 1 : 2 : 4, outer momentum {decay}, equal time; options as above", both, sync)


def streaming_table(runs: Runs, rates: Sequence[float], seeds: Sequence[int]) -> None:
    """One fragment beside four, which are the four slices of these values, and beside steps during the exchange."""
    grid = {}
    for name, options in (
        ("one fragment", ""),
        ("four fragments", ",fragments=4"),
        ("four fragments, overlap 5", ",fragments=4,overlap=5"),
        ("one fragment, overlap 5", ",overlap=5"),
    ):
        grid[name] = [diloco(f"local:every=100{options}", "nesterov", d, r) for d in DECAYS for r in rates]
    found = tuned(runs, grid, seeds)
    show("Fragments, H = 100, compared with one", found, found["one fragment"][1])


def diloco(
    model: str, kind: str, decay: float, rate: float, speeds: tuple[int, ...] = (1,) * WORKERS, share: float = 1.0
) -> Arm:
    """An outer step of a = 0.7; `plain`: Nesterov that takes all of a at each arrival, as the model divides by live."""
    outer = {
        "nesterov": f"nesterov:lr=0.7,decay={decay}",
        "plain": f"nesterov:lr={0.7 * WORKERS:g},decay={decay}",
        "delayed_nesterov": f"delayed_nesterov:lr=0.7,decay={decay},period={WORKERS}",
    }
    return Arm(model, outer[kind], rate, speeds=speeds, share=share)


def tuned(runs: Runs, grid: dict[str, list[Arm]], seeds: Sequence[int]) -> Measured:
    """The best arm of each line by the test loss of the first seed, and its outcomes with all seeds, that one too: no
    data is held out to choose by. A line with more arms had more to choose from."""
    first = iter(runs([(arm, seeds[0]) for arms in grid.values() for arm in arms]))
    tried = {name: [(arm, next(first)) for arm in arms] for name, arms in grid.items()}
    best = {name: min(pairs, key=lambda pair: _worst_last(pair[1].loss)) for name, pairs in tried.items()}
    jobs = [(arm, seed) for arm, _ in best.values() for seed in seeds[1:]]
    more = iter(runs(jobs) if jobs else ())
    return {name: (arm, [one, *(next(more) for _ in seeds[1:])]) for name, (arm, one) in best.items()}


def _worst_last(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def show(title: str, measured: Measured, base: list[Outcome]) -> None:
    """One table. base: what losses and bytes are compared with."""
    print(f"\n{title}\n\n| arm | inner rate, outer | test loss | against synchronous | bytes pushed | virtual s |")
    print("|---|---|---|---|---|---|")
    for name, (arm, outcomes) in measured.items():
        change = mean(one.loss / other.loss - 1 for one, other in zip(outcomes, base, strict=True))
        cells = [
            f"{arm.rate:g}" + (f", `{arm.outer}`" if arm.outer else ""),
            " ".join(f"{one.loss:.3f}" for one in outcomes),
            f"{100 * change:+.1f} %",
            f"{outcomes[0].pushed:,} (1/{base[0].pushed / outcomes[0].pushed:.3g})",
            f"{outcomes[0].seconds:,.0f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


# ---- one run --------------------------------------------------------------------------------------------------------


def run(folder: Path, steps: int, arm: Arm, seed: int) -> Outcome:
    """Trains four workers in virtual time. Where workers step themselves each has Adam's moments for itself."""
    text = Text.of(folder)

    def train(client: ps.Client) -> None:
        values, dice = text.initial(seed), np.random.default_rng([seed, client.rank])
        client.register(values)
        places, speed = text.part(arm.split, client.rank), arm.speeds[client.rank]
        count = round(steps * arm.share * (speed if arm.consistency.startswith("async") else 1))
        adam, rates = optimizer(f"adamw:lr={arm.rate}"), schedule(f"cosine:clocks={count}")
        moments = {name: [np.zeros(value.size, np.float32) for _ in adam.state] for name, value in values.items()}
        for number in range(count):
            values = client.pull()
            grads = text.gradients(values, dice.choice(places, BATCH))
            if arm.outer:
                step = Step(arm.rate * rates.factor(number), number=number + 1)
                for name, value in values.items():
                    flat = value.reshape(-1)
                    adam.update(flat, np.ascontiguousarray(grads[name]).reshape(-1), moments[name], flat, step)
                client.step_to(values)
            else:
                client.push(grads)
            client.spend(1 / speed)
            client.tick()
        client.barrier()

    outer: dict[str, Any] = {"optimizer": arm.outer or f"adamw:lr={arm.rate}", "consistency": arm.consistency}
    outer |= {} if arm.outer else {"schedule": f"cosine:clocks={steps}"}
    with ps.LocalCluster(servers=1, workers=WORKERS, seed=seed, timeout_s=1e6, **outer) as cluster:
        cluster.run(train)
        workers = [snapshot for peer, snapshot in cluster.metrics() if peer.startswith("worker")]
        pushed = sum(one.counters["push_bytes", (("direction", "sent"),)] for one in workers)
        return Outcome(text.loss(cluster.pull()), int(pushed), cluster.status()["virtual_seconds"])


class Text:
    """The letters as numbers, nine tenths of them to train on; a place is where CONTEXT letters begin."""

    def __init__(self, folder: Path) -> None:
        raw = np.frombuffer((folder / "tinyshakespeare" / "input.txt").read_bytes(), np.uint8)
        self.letters, numbers = np.unique(raw, return_inverse=True)
        self.train, self.test = np.split(numbers.astype(np.int64), [len(raw) * 9 // 10])
        by_place = np.arange(len(self.train) - CONTEXT)
        by_class = np.argsort(self.train[CONTEXT:], kind="stable")  # by the letter to be found
        self.parts = {
            "alike": [by_place] * WORKERS,
            "by place": np.array_split(by_place, WORKERS),
            "by class": np.array_split(by_class, WORKERS),
        }

    @staticmethod
    @cache
    def of(folder: Path) -> Text:
        """Read once per process."""
        return Text(folder)

    def part(self, split: str, rank: int) -> Array:
        """The places that a worker draws its examples from."""
        return self.parts[split][rank]

    def initial(self, seed: int) -> Values:
        """float32 values by name."""
        rng, count = np.random.default_rng(seed), len(self.letters)
        scales = {
            "letter": ((count, WIDTH), 1.0),
            "w1": ((CONTEXT * WIDTH, HIDDEN), (CONTEXT * WIDTH) ** -0.5),
            "b1": ((HIDDEN,), 0.0),
            "w2": ((HIDDEN, count), 0.5 * HIDDEN**-0.5),
            "b2": ((count,), 0.0),
        }
        return {
            name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, (shape, scale) in scales.items()
        }

    def _forward(self, p: Values, text: Array, places: Array) -> tuple[Array, Array, Array, Array]:
        """Letters before, inputs and outputs of the hidden layer, scores less their maximum."""
        before = text[places[:, None] + np.arange(CONTEXT)]
        x = p["letter"][before].reshape(len(places), -1)
        hidden = np.tanh(x @ p["w1"] + p["b1"])
        scores = hidden @ p["w2"] + p["b2"]
        return before, x, hidden, scores - scores.max(axis=1, keepdims=True)

    def gradients(self, p: Values, places: Array) -> Values:
        """Of the mean loss at these places of the training part."""
        before, x, hidden, scores = self._forward(p, self.train, places)
        back = np.exp(scores)
        back /= back.sum(axis=1, keepdims=True)
        back[np.arange(len(places)), self.train[places + CONTEXT]] -= 1
        back /= np.float32(len(places))
        below = (back @ p["w2"].T) * (1 - hidden**2)
        letter = np.zeros_like(p["letter"])
        np.add.at(letter, before.reshape(-1), (below @ p["w1"].T).reshape(-1, WIDTH))
        return {"letter": letter, "w1": x.T @ below, "b1": below.sum(0), "w2": hidden.T @ back, "b2": back.sum(0)}

    def loss(self, p: Values) -> float:
        """Nats per letter of the test part."""
        places = np.arange(len(self.test) - CONTEXT)
        *_, scores = self._forward(p, self.test, places)
        right = scores[np.arange(len(places)), self.test[places + CONTEXT]]
        return float((np.log(np.exp(scores).sum(axis=1)) - right).mean())


if __name__ == "__main__":
    main()
