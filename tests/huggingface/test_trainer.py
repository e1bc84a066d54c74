"""`transformers.Trainer` through ps: W workers against one process with all their batches, every kind of model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before it is imported: nothing here may ask a network

import pytest
import torch
import transformers
from torch.utils.data import Dataset, SequentialSampler

import ps
from ps.errors import ConfigError
from ps.huggingface import Trainer

transformers.logging.disable_progress_bar()  # its thread would outlive the tests

ROWS, LENGTH = 48, 16
Values = dict[str, torch.Tensor]


class Letters(Dataset[dict[str, torch.Tensor]]):
    """Rows of text; of some the loss counts only the last letters."""

    def __init__(self, text: bytes) -> None:
        self.rows = torch.tensor(list(text[: ROWS * LENGTH])).reshape(ROWS, LENGTH) % 64

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        labels = self.rows[i].clone()
        labels[: i % 12] = -100
        return {"input_ids": self.rows[i], "labels": labels}


@pytest.fixture(scope="module")
def letters(data_dir: Path) -> Letters:
    return Letters((data_dir / "tinyshakespeare" / "input.txt").read_bytes())


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=LENGTH, n_embd=32, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config)


def arguments(folder: Path, **options: Any) -> Any:
    given = dict(
        per_device_train_batch_size=4, num_train_epochs=3, learning_rate=1e-2, adam_epsilon=1e-4, weight_decay=0.1,
        warmup_steps=4, save_strategy="no", logging_steps=6, disable_tqdm=True, report_to="none", use_cpu=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    return transformers.TrainingArguments(output_dir=str(folder), **given | options)


def together(letters: Letters, folder: Path, workers: int, own: dict[str, Any], **options: Any) -> Any:
    """Of each worker: its values at the end, its losses. own: of TrainingArguments. options: of the cluster."""

    def train(client: ps.Client) -> tuple[Values, list[float]]:
        trainer = Trainer(gpt2(), arguments(folder, **own), train_dataset=letters, client=client)
        trainer.train()
        return {name: value.clone() for name, value in trainer.model.state_dict().items()}, losses_of(trainer)

    with ps.LocalCluster(workers=workers, seed=1, **options) as cluster:
        return cluster.run(train)


class Alone(transformers.Trainer):  # type: ignore[misc]
    """One process that takes the batches of all workers in each step."""

    def __init__(self, workers: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.workers = workers

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return InTurn(self.train_dataset, self.workers, self.args.per_device_train_batch_size // self.workers)


class InTurn(SequentialSampler):
    """A batch of each worker, then the next of each; the order is that of torch's DistributedSampler."""

    def __init__(self, rows: Any, workers: int, batch: int) -> None:
        super().__init__(rows)
        self.workers, self.batch, self.epoch = workers, batch, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(42 + self.epoch))
        yield from order.reshape(-1, self.batch, self.workers).transpose(1, 2).flatten().tolist()


def alone(letters: Letters, folder: Path, workers: int, own: dict[str, Any]) -> tuple[Values, list[float]]:
    """Its values at the end, its losses."""
    trainer = Alone(workers, gpt2(), arguments(folder, **own), train_dataset=letters)
    trainer.train()
    return trainer.model.state_dict(), losses_of(trainer)


def losses_of(trainer: transformers.Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def distance(one: Values, other: Values) -> float:
    """In the 2-norm over all parameters, relative."""
    off = sum(float((one[name] - other[name]).square().sum()) for name in other)
    return float((off / sum(float(value.square().sum()) for value in other.values())) ** 0.5)


def test_two_workers_under_bsp_equal_one_process(letters: Letters, tmp_path: Path) -> None:
    """AdamW, warm-up and decay of its rate, two groups, tied embeddings, a loss that is a mean over unequally many
    tokens. Without clipping: each worker clips its own gradient, one process that of all."""
    (first, _), (second, _) = together(letters, tmp_path, 2, {"max_grad_norm": 0.0})
    expected, _ = alone(letters, tmp_path, 2, {"max_grad_norm": 0.0, "per_device_train_batch_size": 8})
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert distance(gpt2().state_dict(), expected) > 0.1
    assert distance(first, expected) < 1e-6


def test_one_worker_clips_and_accumulates_as_ever(letters: Letters, tmp_path: Path) -> None:
    own = {"max_grad_norm": 0.1, "gradient_accumulation_steps": 5, "per_device_train_batch_size": 2}  # 24 = 4 x 5 + 4
    ((values, losses),) = together(letters, tmp_path, 1, own)
    expected, losses_expected = alone(letters, tmp_path, 1, own)
    assert distance(values, expected) < 1e-6
    assert losses == pytest.approx(losses_expected, abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"consistency": "ssp:staleness=3", "compression": "onebit"},
        {"consistency": "async"},
        {"consistency": "local:every=4", "optimizer": "nesterov:lr=0.7,decay=0.5"},
    ],
    ids=lambda options: options["consistency"],
)
def test_every_kind_of_model_learns(options: dict[str, Any], letters: Letters, tmp_path: Path) -> None:
    for _, losses in together(letters, tmp_path, 2, {"num_train_epochs": 6}, **options):
        assert losses[-1] < 0.85 * losses[0]


def test_what_the_trainer_logs_reaches_the_run(letters: Letters, tmp_path: Path) -> None:
    def train(client: ps.Client) -> None:
        own = arguments(tmp_path, max_steps=12, eval_strategy="steps", eval_steps=6)
        Trainer(gpt2(), own, train_dataset=letters, eval_dataset=letters, client=client).train()

    with ps.LocalCluster(workers=2, seed=1) as cluster:
        cluster.run(train)
        logged = [worker["logged"] for worker in cluster.status()["workers"]]
    assert all({"loss", "grad_norm", "learning_rate", "epoch", "eval_loss"} <= one.keys() for one in logged)
    assert logged[0]["eval_loss"] == logged[1]["eval_loss"]  # of all rows, by the same values
    assert logged[0]["loss"] != logged[1]["loss"]  # each of its own part


class Stops(transformers.TrainerCallback):  # type: ignore[misc]
    """Rank 0 stops the job before this step."""

    def __init__(self, client: ps.Client, step: int) -> None:
        self.client, self.step = client, step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step and self.client.rank == 0:
            self.client.stop("enough")


@pytest.mark.parametrize("strategy", ["steps", "epoch", "best"])
def test_rank_0_alone_saves(strategy: str, letters: Letters, tmp_path: Path) -> None:
    """In a folder that all share."""
    writers = set[int]()
    saves = dict(save_strategy=strategy, save_steps=6, eval_strategy="epoch", metric_for_best_model="loss")

    class Noted(Trainer):
        def _save(self, *args: Any, **kwargs: Any) -> None:
            writers.add(self.client.rank)
            super()._save(*args, **kwargs)

    def train(client: ps.Client) -> None:
        own = arguments(tmp_path, max_steps=12, **saves)
        Noted(gpt2(), own, train_dataset=letters, eval_dataset=letters, client=client).train()

    with ps.LocalCluster(workers=2, seed=1) as cluster:
        cluster.run(train)
    assert writers == {0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-12", "checkpoint-6"]


def test_the_best_values_are_those_of_rank_0_in_a_job_that_was_stopped_too(letters: Letters, tmp_path: Path) -> None:
    """Then values are still under way when the best ones are loaded. Best is here what is worst: the first."""
    best = dict(save_strategy="steps", save_steps=3, eval_strategy="steps", eval_steps=3, load_best_model_at_end=True)

    def train(client: ps.Client) -> Any:
        own = arguments(tmp_path, metric_for_best_model="loss", greater_is_better=True, **best)
        callbacks = [Stops(client, 7)]
        trainer = Trainer(gpt2(), own, train_dataset=letters, eval_dataset=letters, client=client, callbacks=callbacks)
        trainer.train()
        return trainer.state.best_model_checkpoint, trainer.model.state_dict()

    with ps.LocalCluster(workers=2, seed=1) as cluster:
        (folder, values), (none, others) = cluster.run(train)
    saved = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "checkpoint-3").state_dict()
    assert folder == str(tmp_path / "checkpoint-3") and none is None
    assert distance(values, saved) == 0 and distance(others, saved) > 0.01


def test_a_job_that_was_stopped_ends_the_training(letters: Letters, tmp_path: Path) -> None:
    def train(client: ps.Client) -> int:
        callbacks = [Stops(client, 3)]
        trainer = Trainer(gpt2(), arguments(tmp_path), train_dataset=letters, client=client, callbacks=callbacks)
        trainer.train()
        return int(trainer.state.global_step)

    with ps.LocalCluster(workers=1, seed=1) as cluster:
        assert 4 <= cluster.run(train)[0] < 10


@pytest.mark.parametrize(
    ("own", "devices", "why"),
    [
        ({"optim": "adafactor"}, 0, "expected one of torch.optim.SGD, Adam, .* got Adafactor"),
        ({"train_sampling_strategy": "sequential"}, 0, "train_sampling_strategy: expected random, got sequential"),
        ({}, 2, "expected one process with at most one device, .* got 1 processes with 2 devices each"),
    ],
)
def test_what_does_not_go_is_said(
    own: dict[str, Any], devices: int, why: str, letters: Letters, tmp_path: Path
) -> None:
    given = arguments(tmp_path, **own)
    given._n_gpu = devices

    def train(client: ps.Client) -> None:
        with pytest.raises(ConfigError, match=why):
            Trainer(gpt2(), given, train_dataset=letters, client=client).train()

    with ps.LocalCluster(seed=1) as cluster:
        cluster.run(train)
