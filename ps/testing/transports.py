"""What every transport must do, as named checks: `check_transport(lambda: MemoryNetwork().open)`.

Only what the seam promises of all is asked. A transport may take messages and deliver them later, so
- OutboxFull comes at the latest `SLACK_BYTES` beyond the bound, and may linger after the reader has drained;
- Unreachable comes on some send after the peer is gone, perhaps not the first; what was taken before is released;
- `release` follows reception on its own time.
Hence waits with a deadline, and retries where the seam has nothing to wait on; nothing here measures time.
"server:..." peers are opened first and only answer; the others open the conversation.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np

from ps.testing.peers import (
    DEADLINE_S,
    SERVER,
    SLACK_BYTES,
    WORKER,
    OpenNetwork,
    Releases,
    attempts,
    bytes_of,
    is_taken,
    number_of,
    numbered,
    opened,
    payload,
    receive,
    receive_numbers,
    receive_or_none,
    refusal,
    send,
    send_numbers,
    send_until_unreachable,
)
from ps.transport.base import Transport
from ps.types import Array

Check = Callable[[OpenNetwork], None]


def check_transport(open_network: OpenNetwork) -> None:
    """Runs all checks, each in a fresh network. Raises: AssertionError from the first that fails."""
    for check in CHECKS.values():
        check(open_network)


# Order, at most once, exact bytes


def order_of_several_senders(open_network: OpenNetwork) -> None:
    senders, count = 4, 500
    with opened(open_network) as open_peer, ThreadPoolExecutor(senders) as pool:
        server = open_peer(SERVER)
        workers = [open_peer(f"worker:{rank}") for rank in range(senders)]
        sent = [pool.submit(send_numbers, worker, SERVER, range(count)) for worker in workers]
        received = receive_numbers(server, senders * count)
        for future in sent:
            future.result(DEADLINE_S)
        assert received == {worker.address: list(range(count)) for worker in workers}
        assert server.recv(0.0) is None, "expected nothing more, got a message twice"


def order_of_threads_that_share_a_sender(open_network: OpenNetwork) -> None:
    threads, count = 4, 500
    with opened(open_network) as open_peer, ThreadPoolExecutor(threads) as pool:
        server, worker = open_peer(SERVER), open_peer(WORKER)
        parts = [range(first, first + count) for first in range(0, threads * count, count)]
        sent = [pool.submit(send_numbers, worker, SERVER, part) for part in parts]
        received = receive_numbers(server, threads * count)[WORKER]
        for future in sent:
            future.result(DEADLINE_S)
        for part in parts:
            assert [number for number in received if number in part] == list(part)


def many_small_messages(open_network: OpenNetwork) -> None:
    count = 50_000  # from each of two senders
    with opened(open_network, queued_bytes_max=1 << 16) as open_peer, ThreadPoolExecutor(2) as pool:
        server = open_peer(SERVER)
        workers = [open_peer("worker:0"), open_peer("worker:1")]
        sent = [pool.submit(send_numbers, worker, SERVER, range(count)) for worker in workers]
        received = receive_numbers(server, 2 * count)
        for future in sent:
            future.result(DEADLINE_S)
        assert received == {worker.address: list(range(count)) for worker in workers}


def both_directions(open_network: OpenNetwork) -> None:
    with opened(open_network) as open_peer:
        server = open_peer(SERVER)
        workers = [open_peer("worker:0"), open_peer("worker:1")]
        for number in range(200):
            for worker in workers:
                send(worker, SERVER, numbered(number))
            for _ in workers:
                sender, question = receive(server)
                send(server, sender, question)
            for worker in workers:
                sender, answer = receive(worker)
                assert (sender, number_of(answer)) == (SERVER, number)


def message_without_buffers(open_network: OpenNetwork) -> None:
    check_round_trip(open_network, [])


def empty_buffers(open_network: OpenNetwork) -> None:
    check_round_trip(open_network, [np.zeros(0, np.float32), np.arange(5), np.zeros((3, 0)), np.zeros(0, np.uint8)])


def buffers_of_all_kinds(open_network: OpenNetwork) -> None:
    dtypes = (np.float16, np.float32, np.float64, np.int8, np.uint32, np.int64, np.bool_)
    check_round_trip(open_network, [np.arange(60).astype(dtype).reshape(3, 4, 5) for dtype in dtypes])


def read_only_buffers(open_network: OpenNetwork) -> None:
    buffers: list[Array] = [np.arange(1000, dtype=np.float32), np.frombuffer(b"immutable", np.uint8)]
    for buffer in buffers:
        buffer.flags.writeable = False
    check_round_trip(open_network, buffers)


def many_buffers(open_network: OpenNetwork) -> None:
    check_round_trip(open_network, [np.full(size % 7, size, np.int32) for size in range(1000)])


def big_buffer(open_network: OpenNetwork) -> None:
    check_round_trip(open_network, [np.arange(8 << 20, dtype=np.int64)])  # 64 MiB


def large_buffers_among_small_ones(open_network: OpenNetwork) -> None:
    check_round_trip(open_network, [np.arange(size, dtype=np.float32) for size in (3, 1 << 20, 0, 70_000, 5, 16_384)])


def held_messages_stay_whole(open_network: OpenNetwork) -> None:
    """What was received is the receiver's until it releases it, whatever follows, and whoever leaves."""
    with opened(open_network) as open_peer:
        server, worker = open_peer(SERVER), open_peer(WORKER)
        held = []
        for number in range(20):
            send(worker, SERVER, numbered(number, [payload(number)]))
            held.append(receive(server)[1])
        worker.close()
        for number, message in enumerate(held):
            assert bytes_of(message.buffers) == [payload(number).tobytes()]
            message.release()


# Back-pressure


def outbox_full_leaves_the_message(open_network: OpenNetwork) -> None:
    """The bound is reached; what was refused is unharmed, and is taken after the reader has drained."""
    queued_bytes_max = 1 << 20
    with opened(open_network, queued_bytes_max) as open_peer:
        server, worker = open_peer(SERVER), open_peer(WORKER)
        releases = Releases()
        taken = 0
        while is_taken(worker, SERVER, refused := releases.message()):
            taken += 1
            assert taken * refused.nbytes <= queued_bytes_max + SLACK_BYTES, "expected OutboxFull by now, got none"
        assert releases.times[taken] == 0, "expected a refused message to stay the caller's, got it released"
        assert receive_numbers(server, taken) == {WORKER: list(range(taken))}
        send(worker, SERVER, refused)
        message = receive(server)[1]
        assert (number_of(message), bytes_of(message.buffers)) == (taken, [payload(taken).tobytes()])
        message.release()
        releases.wait_for_one_each()


def outbox_counts_buffers_of_any_size(open_network: OpenNetwork) -> None:
    """Many buffers, none of them large, reach the bound as one large one does."""
    with opened(open_network, queued_bytes_max=4 << 20) as open_peer:
        _, worker = open_peer(SERVER), open_peer(WORKER)
        buffers, sent = [np.zeros(50_000, np.uint8)] * 15, 0
        while is_taken(worker, SERVER, numbered(sent, buffers)):
            sent += 1
            assert sent * 15 * 50_000 <= (4 << 20) + SLACK_BYTES, "expected OutboxFull by now, got none"


def oversize_message(open_network: OpenNetwork) -> None:
    """A message above the bound is taken whenever nothing else is under way."""
    with opened(open_network, queued_bytes_max=1 << 10) as open_peer:
        server, worker = open_peer(SERVER), open_peer(WORKER)
        for number in range(3):
            send(worker, SERVER, numbered(number, [payload(number)]))
            message = receive(server)[1]
            assert (number_of(message), bytes_of(message.buffers)) == (number, [payload(number).tobytes()])
            message.release()


def slow_reader(open_network: OpenNetwork) -> None:
    """The reader takes one message each time the sender is refused: the bound loses and reorders nothing."""
    count = 300
    with opened(open_network, queued_bytes_max=1 << 18) as open_peer:
        server, worker = open_peer(SERVER), open_peer(WORKER)
        received = []
        for number in range(count):
            message = numbered(number, [payload(number)])
            for _ in attempts("the message is taken"):
                if is_taken(worker, SERVER, message):
                    break
                if arrived := server.recv(0.0):
                    received.append(number_of(arrived[1]))
                    arrived[1].release()
        rest = receive_numbers(server, count - len(received)).get(WORKER, [])
        assert received + rest == list(range(count))


# Release


def released_once_after_reading(open_network: OpenNetwork) -> None:
    releases = Releases()
    with opened(open_network) as open_peer:
        server, worker = open_peer(SERVER), open_peer(WORKER)
        for _ in range(50):
            send(worker, SERVER, releases.message())
        for _ in range(50):
            message = receive(server)[1]
            message.release()
            message.release()  # does nothing
        releases.wait_for_one_each()
    releases.wait_for_one_each()  # closing releases nothing again


def released_once_after_close(open_network: OpenNetwork) -> None:
    """Read and released, read and held, never read: each is released once when both ends are closed."""
    releases = Releases()
    with opened(open_network) as open_peer:
        server, worker = open_peer(SERVER), open_peer(WORKER)
        for _ in range(50):
            send(worker, SERVER, releases.message())
        receive(server)[1].release()
        held = receive(server)[1]
        server.close()
        worker.close()
        assert bytes_of(held.buffers) == [payload(1).tobytes()]
        held.release()
        releases.wait_for_one_each()


# Peers that come and go


def closed_peer_is_unreachable(open_network: OpenNetwork) -> None:
    """In the end a send raises, naming the peer; what was taken until then is lost, and released."""
    releases = Releases()
    with opened(open_network) as open_peer:
        server, worker = open_peer(SERVER), open_peer(WORKER)
        send(worker, SERVER, releases.message())
        receive(server)[1].release()
        send(worker, SERVER, releases.message())
        server.close()
        send_until_unreachable(worker, releases)
        worker.close()
        releases.wait_for_one_each()


def absent_peer_is_unreachable(open_network: OpenNetwork) -> None:
    releases = Releases()
    with opened(open_network) as open_peer:
        worker = open_peer(WORKER)
        send_until_unreachable(worker, releases)
        worker.close()
        releases.wait_for_one_each()


def restarted_server_is_reachable(open_network: OpenNetwork) -> None:
    with opened(open_network) as open_peer:
        server, worker = open_peer(SERVER), open_peer(WORKER)
        for restarts in range(4):
            check_reaches(worker, server, restarts)
            server.close()
            server = open_peer(SERVER)


def restarted_worker_reaches_the_server(open_network: OpenNetwork) -> None:
    with opened(open_network) as open_peer:
        server = open_peer(SERVER)
        for restarts in range(4):
            worker = open_peer(WORKER)
            check_reaches(worker, server, restarts)
            worker.close()


def close_wakes_recv(open_network: OpenNetwork) -> None:
    with opened(open_network) as open_peer, ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            server, about_to_wait = open_peer(SERVER), Event()
            waiting = pool.submit(receive_or_none, server, about_to_wait)
            assert about_to_wait.wait(DEADLINE_S)
            server.close()
            assert waiting.result(DEADLINE_S) is None
            assert server.recv(10 * DEADLINE_S) is None, "expected a closed transport to give None at once"
            server.close()  # does nothing


def recv_times_out(open_network: OpenNetwork) -> None:
    with opened(open_network) as open_peer:
        server, worker = open_peer(SERVER), open_peer(WORKER)
        assert server.recv(0.0) is None
        assert server.recv(0.01) is None
        send(worker, SERVER, numbered(7))
        assert number_of(receive(server)[1]) == 7
        assert server.recv(0.01) is None


# What several checks ask


def check_round_trip(open_network: OpenNetwork, buffers: list[Array]) -> None:
    """The same bytes arrive as so many buffers, twice in a row."""
    with opened(open_network) as open_peer:
        server, worker = open_peer(SERVER), open_peer(WORKER)
        expected = bytes_of(buffers)
        for number in range(2):
            send(worker, SERVER, numbered(number, buffers))
            sender, message = receive(server)
            assert (sender, number_of(message)) == (WORKER, number)
            assert bytes_of(message.buffers) == expected
            message.release()


def check_reaches(worker: Transport, server: Transport, restarts: int) -> None:
    """What is sent after so many restarts arrives in the end: perhaps not all, but in order and not twice.

    Messages from before the last restart may still come, in between.
    """
    first = restarts << 24
    received: list[int] = []
    for number, _ in enumerate(attempts("messages arrive"), first):
        refusal(worker, SERVER, numbered(number))
        arrived = server.recv(0.0)
        if arrived is not None and number_of(arrived[1]) >= first:
            received.append(number_of(arrived[1]))
        if len(received) == 3:  # the way is open again, not only for one that had been waiting
            break
    assert received == sorted(set(received)), f"expected rising numbers, got {received}"


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        order_of_several_senders,
        order_of_threads_that_share_a_sender,
        many_small_messages,
        both_directions,
        message_without_buffers,
        empty_buffers,
        buffers_of_all_kinds,
        read_only_buffers,
        many_buffers,
        big_buffer,
        large_buffers_among_small_ones,
        held_messages_stay_whole,
        outbox_full_leaves_the_message,
        outbox_counts_buffers_of_any_size,
        oversize_message,
        slow_reader,
        released_once_after_reading,
        released_once_after_close,
        closed_peer_is_unreachable,
        absent_peer_is_unreachable,
        restarted_server_is_reachable,
        restarted_worker_reaches_the_server,
        close_wakes_recv,
        recv_times_out,
    )
}
