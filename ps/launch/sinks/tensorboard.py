"""TensorBoard event files in the run's log folder, a run for each worker: `tensorboard --logdir ps-logs`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ps.launch.rules import RUN, Report
from ps.launch.sinks.base import Sink, Started


class TensorBoard(Sink):
    """Scalars (float32) by clock, under `worker_0`, ... and `run`; config and outcome are texts of `run`."""

    package = "tensorboard"

    def start(self, run: Started) -> None:
        if run.folder is None:
            raise OSError("there is no log folder to write to")
        self._folder, self._began = run.folder / "tensorboard", run.began
        self._files: dict[int, Any] = {}  # rank -> EventFileWriter
        self._text("config", run.config, 0.0)

    def submitted(self, script: str, args: tuple[str, ...], by: str) -> None:
        self._text("submitted", {"script": script, "args": args, "by": by}, 0.0)

    def logged(self, reports: Iterable[Report]) -> None:
        for seconds, rank, clock, name, value in reports:
            self._add(rank, clock, seconds, tag=name, simple_value=value)
        for file in self._files.values():
            file.flush()

    def end(self, outcome: Mapping[str, Any]) -> None:
        self._text("outcome", outcome, outcome["seconds"])
        for file in self._files.values():
            file.close()

    def _text(self, tag: str, told: Mapping[str, Any], seconds: float) -> None:
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.plugins.text.metadata import create_summary_metadata

        markdown = "\n".join(f"    {line}" for line in json.dumps(dict(told), indent=1).splitlines())
        tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()])
        self._add(RUN, 0, seconds, tag=tag, metadata=create_summary_metadata(tag, ""), tensor=tensor)
        self._files[RUN].flush()

    def _add(self, rank: int, clock: int, seconds: float, **value: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if rank not in self._files:
            self._files[rank] = EventFileWriter(str(self._folder / ("run" if rank == RUN else f"worker_{rank}")))
        summary = Summary(value=[Summary.Value(**value)])
        self._files[rank].add_event(Event(wall_time=self._began + seconds, step=clock, summary=summary))
