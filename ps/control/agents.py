"""An agent's side of the control plane: one stream to the controller, used from a plain thread."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Iterator

from ps import __version__
from ps.control import control_pb2 as pb
from ps.control.commands import check_address, fetch_status
from ps.control.hello import Refusal
from ps.control.other_key import KEY_S, check_key
from ps.control.rpc import SERVICE, channel, grpc
from ps.errors import ConfigError, DeadlineError, PeerError, StoppedError
from ps.key import Key
from ps.wire import WIRE_VERSION

CLOSE_S = 2.0  # `close` waits so long for the controller to take what was said


class AgentLink:
    """Dials the controller until it is there; returns once it has admitted this agent.

    Raises: ConfigError when the controller refuses, OtherKey when it has another key; StoppedError when its job is
    over; DeadlineError naming the address when it does not answer in `timeout_s`.
    """

    def __init__(self, address: str, job: bytes, directory: str, timeout_s: float, key: Key | None = None) -> None:
        self.address, self._key = check_address("--controller", address), key
        self.gone = ""  # why the stream has ended; set once all frames before that were taken
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._in: queue.SimpleQueue[pb.ToAgent | str] = queue.SimpleQueue()  # last the reason of the end
        hello = pb.AgentHello(
            job=job,
            wire_version_min=WIRE_VERSION,
            wire_version_max=WIRE_VERSION,
            host=socket.gethostname(),
            pid=os.getpid(),
            directory=directory,
            release=__version__,
        )
        self._say(pb.FromAgent(hello=hello))
        self._channel = channel(address, key)
        dial = self._channel.stream_stream(f"/{SERVICE}/Agent")
        self._call = dial(iter(self._out.get, None), wait_for_ready=True)
        self._reader = threading.Thread(target=self._read, name="ps agent", daemon=True)
        self._reader.start()
        try:
            self.job = self._admitted(timeout_s)
        except BaseException:
            self.close()
            raise

    def take(self, timeout: float) -> pb.ToAgent | None:
        """The next frame; None after so many seconds, or when the controller is `gone`."""
        try:
            found = None if self.gone else self._in.get(timeout > 0, timeout)
        except queue.Empty:
            return None
        if isinstance(found, str):
            self.gone, found = found, None
        return found

    def exited(self, end: pb.Exited) -> None:
        """Says what has become of the worker. Never waits."""
        self._say(pb.FromAgent(exited=end))

    def close(self) -> None:
        """Ends the stream once the controller has what was said, after at most 2 s."""
        self._out.put(None)
        self._reader.join(CLOSE_S)
        self._call.cancel()
        self._channel.close()

    def _say(self, frame: pb.FromAgent) -> None:
        self._out.put(frame.SerializeToString())

    def _admitted(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while (frame := self.take(min(KEY_S, deadline - time.monotonic()))) is None:
            if self.gone:
                raise ConfigError(f"controller: {self.gone}")
            check_key(self.address, self._key)
            if time.monotonic() >= deadline:
                raise DeadlineError(
                    f"no controller answers at {self.address} in {timeout_s:g} s; start it, or check the address"
                )
        if frame.HasField("refusal"):
            raise ConfigError(str(refusal_of(frame.refusal)))
        if frame.HasField("goodbye"):
            raise StoppedError(f"the job of the controller at {self.address} is over: {frame.goodbye.reason}")
        return bytes(frame.admitted.job)

    def _read(self) -> None:
        try:
            for raw in self._call:
                self._in.put(pb.ToAgent.FromString(raw))
            why = "it has ended without a goodbye"
        except grpc.RpcError as error:
            why = str(error.code().name)
        except Exception as error:  # frames of something else
            why = f"{type(error).__name__}: {error}"
        self._in.put(f"the controller at {self.address} is gone ({why})")


def submit(address: str, script: str, args: list[str], key: Key | None = None) -> Iterator[pb.SubmitReply]:
    """Submits a job and gives what the controller says of it, up to its end.

    Raises: DeadlineError when no controller answers; ConfigError when it refuses, or has another key; PeerError when it
    is lost on the way.
    """
    fetch_status(address, key=key)  # with a deadline; from here on the connection's own signs of life tell
    request = pb.SubmitRequest(script=script, args=args, host=socket.gethostname(), pid=os.getpid())
    with channel(address, key) as way:
        call = way.unary_stream(f"/{SERVICE}/Submit")(request.SerializeToString())
        try:
            for raw in call:
                reply = pb.SubmitReply.FromString(raw)
                if reply.HasField("refusal"):
                    raise ConfigError(str(refusal_of(reply.refusal)))
                yield reply
                if reply.HasField("ended"):
                    return
            why = "it has hung up"
        except grpc.RpcError as error:
            why = error.code().name
        finally:
            call.cancel()
        raise PeerError(f"the controller at {address} is gone ({why}): how the job ends is not known here")


def refusal_of(packed: pb.Refusal) -> Refusal:
    """As every error is worded."""
    return Refusal(packed.field, packed.expected, packed.got, packed.remedy)
