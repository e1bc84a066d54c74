"""Hugging Face: `ps.huggingface.Trainer` is `transformers.Trainer` that trains with all workers of a run."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers
from torch.utils.data import DistributedSampler
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import has_length

from ps.errors import ConfigError
from ps.torch import DistributedOptimizer
from ps.worker.client import Client


class Trainer(transformers.Trainer):  # type: ignore[misc]
    """`transformers.Trainer` with one more argument: client, that of `ps.connect()`.

    Each worker trains on its own part of `train_dataset`, in an order fixed by data_seed (or seed) and epoch; an
    iterable one is not split. `per_device_train_batch_size`, accumulation and `max_grad_norm` are those of a worker;
    max_steps are clocks. The optimizer that the arguments name is wrapped in `ps.torch.DistributedOptimizer`: servers
    step by it, under `local` this worker does. Gradients are weighted by what the loss is a mean of: tokens, where
    the model counts them, else rows. Logged numbers go to `client.log`; a job that was stopped ends the training;
    rank 0 alone saves checkpoints.

    Raises: ConfigError for several devices or processes, and, when training begins, for an optimizer without a twin.
    """

    def __init__(self, *args: Any, client: Client, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.world_size > 1 or self.args.n_gpu > 1:
            raise ConfigError(
                f"args: expected one process with at most one device, which is one worker, got {self.args.world_size} "
                f"processes with {self.args.n_gpu} devices each; start as many workers, one CUDA_VISIBLE_DEVICES each"
            )
        self.client = client
        self.distributed: DistributedOptimizer | None = None  # once training has begun
        self.add_callback(Follow(client))

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """As ever, and wrapped. Gradients leave in `step`: until then transformers scales, clips and accumulates."""
        own = super().create_optimizer(model)
        if self.distributed is None:
            self.optimizer = self.distributed = DistributedOptimizer(own, self.model, self.client, clip_norm=math.inf)
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The batches of one step; what the loss is a mean of weighs its gradient."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        if self.distributed is not None:
            counted = sum(find_batch_size(batch) or 1 for batch in batches) if items is None else int(items)
            self.distributed.examples = max(counted, 1)
        return batches, items

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self.client.rank == 0:
            super()._save_checkpoint(*args, **kwargs)

    def _load_best_model(self) -> None:
        if self.distributed is not None:
            self.distributed.synchronize()  # values that are still under way would arrive over the best ones
        super()._load_best_model()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if dataset is None or not has_length(dataset):
            return None
        if self.args.train_sampling_strategy != "random":
            raise ConfigError(
                f"args: train_sampling_strategy: expected random, got {self.args.train_sampling_strategy}, which knows "
                f"nothing of other workers"
            )
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return DistributedSampler(dataset, self.client.size, self.client.rank, seed=seed)


class Follow(transformers.TrainerCallback):  # type: ignore[misc]
    """What the run wants to know of the training, and the training of the run."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        self.client.log(**{name: value for name, value in (logs or {}).items() if isinstance(value, int | float)})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= self.client.should_stop

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not control.should_training_stop:
            self.client.epoch_done(round(state.epoch) - 1)
