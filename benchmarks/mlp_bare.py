"""The exchange of mlp_torch.py without `ps`: the same network, kernels and frames over bare ZeroMQ, workers in step.

No exactly-once, no deadlines, no placement, nothing checked but numbers: what this machine leaves for those.

    python -m benchmarks.mlp_bare server tcp://127.0.0.1:7272 --workers 2 &
    python -m benchmarks.mlp_bare worker tcp://127.0.0.1:7272                    # as often as there are workers
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
import numpy as np
import torch
import zmq

from benchmarks.mlp_torch import BATCH, LR, WARM_UP, cpu_s, network
from ps import kernels
from ps.buffers import Pool
from ps.compression.base import Memory
from ps.compression.frame import HEADER_BYTES
from ps.compression.onebit import OneBit

Array = np.ndarray[Any, Any]
CODEC = OneBit()
RAW_BELOW = 1024  # elements


class Values:
    """One parameter on the server."""

    def __init__(self, size: int) -> None:
        self.w, self.view, self.mean = (np.zeros(size, np.float32) for _ in range(3))
        self.memory, self.frames = Memory(1, size, None), list[Array]()

    def commit(self, pool: Pool) -> bytes:
        """One step with the mean of the frames; what takes the workers' copies there."""
        frames, self.frames = self.frames, []
        if self.w.size < RAW_BELOW:
            self.w -= np.float32(LR) * np.mean([frame.view(np.float32) for frame in frames], axis=0, dtype=np.float32)
            return self.w.tobytes()
        assert all(kernels.onebit_finite(frame[HEADER_BYTES:], CODEC.group) for frame in frames)
        CODEC.mean(frames, [1.0] * len(frames), float(len(frames)), self.mean)
        kernels.sgd(self.w, self.mean, self.w, LR, 0.0)
        frame = np.empty(CODEC.bytes_max(1, self.w.size), np.uint8)
        CODEC.move(self.w, self.view, self.memory, frame, pool)
        return frame.tobytes()


def serve(endpoint: str, workers: int) -> None:
    """Messages are (layer, frame of its matrix, of its bias); so are answers, once all have sent theirs."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    pool, peers = Pool(), set[bytes]()
    linear = [module for module in network() if isinstance(module, torch.nn.Linear)]
    values = [[Values(module.weight.numel()), Values(module.bias.numel())] for module in linear]
    began, working = 0.0, workers
    while working:
        peer, layer, *frames = socket.recv_multipart(copy=False)
        if not frames:
            working -= 1
            continue
        began = began or cpu_s()
        peers.add(peer.bytes)
        pair = values[int(layer.bytes)]
        for one, frame in zip(pair, frames, strict=True):
            one.frames.append(np.frombuffer(frame.buffer, np.uint8))
        if len(pair[0].frames) == workers:
            answer = [one.commit(pool) for one in pair]
            for to in peers:
                socket.send_multipart([to, layer.bytes, *answer])
    print(json.dumps({"server_cpu_s": cpu_s() - began}), flush=True)


class Exchange:
    """One worker's connection: a layer's gradients leave once both are there, its values come before it computes."""

    def __init__(self, model: torch.nn.Sequential, endpoint: str) -> None:
        self.socket = zmq.Context().socket(zmq.DEALER)
        self.socket.connect(endpoint)
        linear = [module for module in model if isinstance(module, torch.nn.Linear)]
        self.layers = [[module.weight, module.bias] for module in linear]
        self.memory = [[Memory(1, p.numel(), np.zeros(p.numel(), np.float32)) for p in layer] for layer in self.layers]
        self.ready, self.pending = [0] * len(self.layers), set[int]()
        for number, module in enumerate(linear):
            module.register_forward_pre_hook(self._wait(number))
            for parameter in self.layers[number]:
                parameter.register_post_accumulate_grad_hook(self._computed(number))

    def take(self) -> None:
        """Adds one answer to the values."""
        layer, *frames = self.socket.recv_multipart(copy=False)
        for parameter, frame in zip(self.layers[int(layer.bytes)], frames, strict=True):
            values, data = parameter.data.numpy().reshape(-1), np.frombuffer(frame.buffer, np.uint8)
            if values.size < RAW_BELOW:
                values[:] = data.view(np.float32)
            else:
                assert kernels.onebit_finite(data[HEADER_BYTES:], CODEC.group)
                CODEC.decode_add(data, values, 1.0)
        self.pending.discard(int(layer.bytes))

    def _wait(self, number: int) -> Callable[..., None]:
        def wait(*_: Any) -> None:
            while number in self.pending:
                self.take()

        return wait

    def _computed(self, number: int) -> Callable[[torch.Tensor], None]:
        def computed(_: torch.Tensor) -> None:
            self.ready[number] += 1
            if self.ready[number] % 2 == 0:
                self.pending.add(number)
                frames = [self._frame(p, m) for p, m in zip(self.layers[number], self.memory[number], strict=True)]
                self.socket.send_multipart([str(number).encode(), *frames])

        return computed

    def _frame(self, parameter: torch.Tensor, memory: Memory) -> bytes:
        assert parameter.grad is not None
        grad = parameter.grad.numpy().reshape(-1)
        assert kernels.all_finite(grad)
        if grad.size < RAW_BELOW:
            return grad.tobytes()
        frame = np.empty(CODEC.bytes_max(1, grad.size), np.uint8)
        return frame[: CODEC.encode(grad, memory, frame)].tobytes()


def work(endpoint: str, steps: int) -> None:
    """The steps of mlp_torch.py."""
    model = network()
    exchange = Exchange(model, endpoint)
    x, y = torch.randn(BATCH, 784), torch.randint(0, 10, (BATCH,))
    began = used = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            began, used = time.perf_counter(), cpu_s()
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
    while exchange.pending:
        exchange.take()
    seconds, used = time.perf_counter() - began, cpu_s() - used
    print(json.dumps({"images_per_s": BATCH * steps / seconds, "cpu_ms_per_step": 1e3 * used / steps}), flush=True)
    exchange.socket.send(b"over")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=("server", "worker"))
    parser.add_argument("endpoint", help="tcp://host:port")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    if options.role == "server":
        serve(options.endpoint, options.workers)
    else:
        work(options.endpoint, options.steps)


if __name__ == "__main__":
    main()
