"""Push and pull between real processes over loopback, beside echoes of the same bytes by bare pyzmq and bare TCP.

One server process, and this process as its one worker. GB/s counts both directions.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import numpy as np
import zmq

from benchmarks.harness import Bench, checksum
from ps import kernels
from ps.config import RunConfig
from ps.control.service import ControlServer
from ps.key import Key, make_key, read_key
from ps.processes import join_worker, keep_freed_memory
from ps.types import Array
from ps.worker.client import Client

SLICE_BYTES = 4 << 20
IN_FLIGHT = 4  # echoed messages under way: more leave the cache and are slower
HEADER = bytes(60)
ZMQ_ECHO = """
import zmq
from ps.processes import keep_freed_memory
keep_freed_memory()
socket = zmq.Context().socket(zmq.ROUTER)
print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
while len(frames := socket.recv_multipart(copy=False)) > 2:
    socket.send_multipart(frames, copy=False)
"""
ADDER = """
import numpy as np, zmq
from ps import kernels
from ps.processes import keep_freed_memory
keep_freed_memory()
socket = zmq.Context().socket(zmq.ROUTER)
print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
values = []
while len(frames := socket.recv_multipart(copy=False)) > 2:
    grad = np.frombuffer(frames[2].buffer, np.float32)
    values = values or [np.zeros_like(grad), np.zeros_like(grad)]
    assert kernels.all_finite(grad)
    np.add(values[0], grad, out=values[1])
    values.reverse()
    socket.send_multipart([frames[0], frames[1], values[0].data], copy=False)
"""
TCP_ECHO = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
one = server.accept()[0]
buffer = memoryview(bytearray(1 << 20))
while (n := one.recv_into(buffer)) > 0:
    one.sendall(buffer[:n])
"""


@contextmanager
def process(*argv: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A child that is gone afterwards."""
    with subprocess.Popen(argv, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
            child.wait(10.0)
        finally:
            child.kill()


@contextmanager
def cluster(consistency: str = "async", optimizer: str = "add", key: Key | None = None) -> Iterator[Client]:
    """The client of a cluster with one server process."""
    control = ControlServer(RunConfig.check({"consistency": consistency, "optimizer": optimizer}), key=key)
    named = {"PS_CONTROLLER": control.start(), "PS_JOB": control.job.hex(), "PS_RANK": "0"}
    named |= {} if key is None else {"PS_KEY": key.path}
    try:
        with process(sys.executable, "-m", "ps.launch.server", env=named):
            os.environ.update(named)
            try:
                client = join_worker()
            finally:
                for name in named:
                    del os.environ[name]
            with client:
                yield client
    finally:
        control.close()


def push_pull(bench: Bench, size: int, steps: int, key: Key | None = None) -> None:
    """`steps` clocks with one parameter of `size` elements, which the server adds to."""
    grads, out = {"w": np.ones(size, np.float32)}, {"w": np.empty(size, np.float32)}
    with cluster(key=key) as client:
        client.register({"w": np.zeros(size, np.float32)})
        client.pull(out=out)
        for _ in range(3):
            client.push_pull(grads, out=out)
        with bench.timed(bytes_moved=2 * out["w"].nbytes * steps):
            for _ in range(steps):
                client.push_pull(grads, out=out)
    bench.check(checksum(out["w"]))


def bench_push_pull_4mib(bench: Bench) -> None:
    push_pull(bench, bench.size(smoke=1 << 10, full=SLICE_BYTES // 4), steps=bench.size(smoke=2, full=50))


def bench_push_pull_64mb(bench: Bench) -> None:
    push_pull(bench, bench.size(smoke=1 << 10, full=16 << 20), steps=bench.size(smoke=2, full=8))


def bench_push_pull_64mb_with_a_key(bench: Bench) -> None:
    with TemporaryDirectory() as folder:
        make_key(path := f"{folder}/key")
        key = read_key(path)
        push_pull(bench, bench.size(smoke=1 << 10, full=16 << 20), steps=bench.size(smoke=2, full=8), key=key)


def bench_push_pull_64mb_beside_a_busy_loop(bench: Bench) -> None:
    """A thread of the worker's process computes all the time, with the interpreter's lock in Python's hands."""
    over = threading.Event()

    def compute() -> None:
        x = np.ones(1000)
        while not over.is_set():
            x = x * 0.5 + 1.0

    busy = threading.Thread(target=compute)
    busy.start()
    try:
        push_pull(bench, bench.size(smoke=1 << 10, full=16 << 20), steps=bench.size(smoke=2, full=8))
    finally:
        over.set()
        busy.join()


def bench_push_pull_of_1000_values_of_64_bytes(bench: Bench) -> None:
    count, steps = bench.size(smoke=10, full=1000), bench.size(smoke=2, full=200)
    grads = {f"w{i}": np.ones(16, np.float32) for i in range(count)}
    with cluster() as client:
        client.register({name: 0 * grad for name, grad in grads.items()})
        out = client.pull()
        with bench.timed(events=count * steps):
            for _ in range(steps):
                client.push_pull(grads, out=out)
    bench.check(checksum(*out.values()))


def bench_pull_64_bytes(bench: Bench) -> None:
    """One small request at a time: the time of each is 1 / rate."""
    pulls = bench.size(smoke=2, full=1000)
    with cluster() as client:
        client.register({"w": np.zeros(16, np.float32)})
        out = client.pull()
        with bench.timed(events=pulls):
            for _ in range(pulls):
                client.pull(out=out)
    bench.check(checksum(out["w"]))


def bench_pyzmq_echo(bench: Bench) -> None:
    """The same frames through two bare sockets: what ZeroMQ leaves us."""
    pyzmq_echo(bench, IN_FLIGHT)


def bench_pyzmq_echo_one_at_a_time(bench: Bench) -> None:
    """The like for a parameter that is one slice: it comes back before the next one leaves."""
    pyzmq_echo(bench, 1)


def bench_pyzmq_adder_one_at_a_time(bench: Bench) -> None:
    """A bare server of one slice: what is pushed is checked and added, and comes back into an array of the caller's.

    No protocol, no consistency, no second worker: the least that a push and a pull of one slice can cost here.
    """
    keep_freed_memory()
    size, count = bench.size(smoke=1 << 8, full=SLICE_BYTES // 4), bench.size(smoke=2, full=64)
    grad, copied, out = (np.ones(size, np.float32) for _ in range(3))
    with process(sys.executable, "-c", ADDER) as child:
        assert child.stdout is not None
        with zmq.Context() as context, context.socket(zmq.DEALER) as one:
            one.connect(f"tcp://127.0.0.1:{int(child.stdout.readline())}")

            def push_pull() -> None:
                assert kernels.all_finite(grad)
                np.copyto(copied, grad)  # `push` returns at once: the caller may write on
                one.send_multipart([HEADER, copied.data], copy=False)
                np.copyto(out, np.frombuffer(one.recv_multipart(copy=False)[-1].buffer, np.float32))

            push_pull()
            with bench.timed(bytes_moved=2 * out.nbytes * count):
                for _ in range(count):
                    push_pull()
            bench.check(checksum(out))
            one.send(b"over")


def bench_pyzmq_ping(bench: Bench) -> None:
    """64 bytes there and back through two bare sockets, one at a time."""
    count = bench.size(smoke=2, full=1000)
    with process(sys.executable, "-c", ZMQ_ECHO) as child:
        assert child.stdout is not None
        with zmq.Context() as context, context.socket(zmq.DEALER) as one:
            one.connect(f"tcp://127.0.0.1:{int(child.stdout.readline())}")
            with bench.timed(events=count):
                for _ in range(count):
                    one.send_multipart([HEADER, bytes(64)])
                    last = one.recv_multipart()
            bench.check(checksum(last[-1]))
            one.send(b"over")


def pyzmq_echo(bench: Bench, in_flight: int) -> None:
    """Messages of one slice there and back, so many under way."""
    keep_freed_memory()
    size, count = bench.size(smoke=1 << 10, full=SLICE_BYTES), bench.size(smoke=2, full=64)
    with process(sys.executable, "-c", ZMQ_ECHO) as child:
        assert child.stdout is not None
        with zmq.Context() as context, context.socket(zmq.DEALER) as one:
            one.connect(f"tcp://127.0.0.1:{int(child.stdout.readline())}")
            parts = [np.full(size, number, np.uint8) for number in range(in_flight)]

            def send(number: int) -> None:
                one.send_multipart([HEADER, parts[number % in_flight].data], copy=False)

            def receive() -> Array:
                return np.frombuffer(one.recv_multipart(copy=False)[-1].buffer, np.uint8)

            _exchanged(in_flight, in_flight, send, receive)
            with bench.timed(bytes_moved=2 * size * count):
                last = _exchanged(count, in_flight, send, receive)
            bench.check(checksum(last))
            one.send(b"over")


def bench_tcp_echo(bench: Bench) -> None:
    """The same bytes through one bare socket."""
    size, count = bench.size(smoke=1 << 10, full=SLICE_BYTES), bench.size(smoke=2, full=64)
    with process(sys.executable, "-c", TCP_ECHO) as child:
        assert child.stdout is not None
        with socket.create_connection(("127.0.0.1", int(child.stdout.readline()))) as one:
            sent, received = np.ones(size, np.uint8), np.zeros(size, np.uint8)

            def send() -> None:
                for _ in range(count):
                    one.sendall(sent.data)

            sender = threading.Thread(target=send)
            with bench.timed(bytes_moved=2 * size * count):
                sender.start()
                for _ in range(count):
                    left = received.data
                    while len(left):
                        left = left[one.recv_into(left) :]
            sender.join()
            bench.check(checksum(received))


def _exchanged(count: int, ahead: int, send: Callable[[int], None], receive: Callable[[], Array]) -> Array:
    """Sends `count` messages, never more than `ahead` before what has come back; the last one that came."""
    for number in range(min(ahead, count)):
        send(number)
    for number in range(ahead, count):
        receive()
        send(number)
    for _ in range(min(ahead, count) - 1):
        receive()
    return receive()
