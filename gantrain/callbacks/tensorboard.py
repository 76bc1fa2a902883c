"""Write everything that is published to TensorBoard."""

import io
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

from numpy import ndarray
from omegaconf import OmegaConf
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import metadata  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import (  # type: ignore[import-untyped]
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils.tensorboard import summary as torch_summary
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.config import plain
from gantrain.evaluation.grids import png
from gantrain.files import append, atomic_write, sync
from gantrain.session.run import Run
from gantrain.train import TrainState

summary: Any = torch_summary  # without types
FILE_VERSION = "brain.Event:2"
SECONDS_BETWEEN_FLUSHES = 5.0
NUM_BINS = 64


class TensorBoard(Callback):
    """Scalars, pictures, histograms, the resolved config, and what the HParams tab compares the runs of a sweep by.

    TensorBoard finds out by itself which hyperparameters and results the runs below its folder have, as long as no run
    claims to describe the whole experiment; torch's add_hparams does that, and so hides what later runs have more.
    """

    @override
    def start(self, run: Run) -> None:
        self.folder = run.folder / "tensorboard"
        self.folder.mkdir(exist_ok=True)
        if run.previous is None:
            self.open()

    @override
    def rewind(self, state: TrainState) -> None:
        for path in self.paths():
            self.take_back(path)
        self.open(purge_step=state.step + 1)

    def open(self, purge_step: int | None = None) -> None:
        """Begin an event file, with what says which run it is of.

        Args:
            purge_step: a TensorBoard that is looking on forgets what it has seen of this step and later ones.
        """
        self.file = EventFile(self.folder, after=self.paths()[-1:])
        if purge_step is not None:
            self.file.add(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self.add(0, summary.text("config", indent(OmegaConf.to_yaml(OmegaConf.create(plain(self.run.config))), "    ")))
        info = SessionStartInfo(start_time_secs=self.run.started)
        for name, value in self.run.hyperparameters.items():
            kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
            setattr(info.hparams[name], kind, value)
        self.add_session(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))
        self.file.flush()

    @override
    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        values = [value for tag, number in scalars.items() for value in summary.scalar(tag, number).value]
        self.add(state.step, Summary(value=values))

    @override
    def image(self, state: TrainState, tag: str, image: ndarray) -> None:
        height, width, channels = image.shape
        encoded = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png(image))
        self.add(state.step, Summary(value=[Summary.Value(tag=tag, image=encoded)]))

    @override
    def histogram(self, state: TrainState, tag: str, values: Tensor) -> None:
        finite = values[values.isfinite()]
        if len(finite):
            self.add(state.step, summary.histogram(tag, finite.numpy(), NUM_BINS))

    @override
    def flush(self) -> None:
        self.file.flush()
        sync(self.file.path)

    @override
    def finish(self, state: TrainState, status: str) -> None:
        # A stopped run can be resumed: its session has no end yet.
        if status != "stopped":
            outcome = STATUS_SUCCESS if status == "finished" else STATUS_FAILURE
            info = SessionEndInfo(status=outcome, end_time_secs=time.time())
            self.add_session(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))
        self.file.flush()

    def add(self, step: int, content: Any) -> None:
        """Write a summary."""
        self.file.add(Event(step=step, summary=content))

    def add_session(self, tag: str, data: HParamsPluginData) -> None:
        """Write one of the HParams plugin's messages."""
        about = metadata.create_summary_metadata(data)
        self.add(0, Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)]))

    def paths(self) -> list[Path]:
        """The run's event files, in the order in which TensorBoard reads them."""
        return sorted(self.folder.glob("events.out.tfevents.*"))

    def take_back(self, path: Path) -> None:
        """Write an event file anew, without what does not stand and without an end that was cut off."""
        is_empty = True
        with atomic_write(path) as file:
            records = RecordWriter(file)
            for record, event in read_records(path):
                kept = [value for value in event.summary.value if self.survives(event.step, value)]
                if len(kept) == len(event.summary.value):
                    file.write(record)  # as it is: its checksum takes TensorBoard's Python long
                elif kept:
                    del event.summary.value[:]
                    event.summary.value.extend(kept)
                    records.write(event.SerializeToString())
                is_empty = is_empty and not kept
        if is_empty:  # nothing but the version
            path.unlink()

    def survives(self, step: int, value: Any) -> bool:
        """Tell whether a value of an event file survives resuming at the run's step."""
        if value.tag.split("/")[0] in ("config", "_hparams_"):
            return False  # the description of the run is written again
        return self.run.survives_rewind(step, value.tag, is_scalar=value.HasField("simple_value"))


class EventFile:
    """A file of TensorBoard's that is written to now and then, each time by whole records.

    Args:
        after: the file before it, if there is one; TensorBoard reads them in the order of their names.
    """

    def __init__(self, folder: Path, *, after: list[Path]):
        second = max([int(time.time()), *(_second(path) + 1 for path in after)])
        self.path = folder / f"events.out.tfevents.{second:010d}.{socket.gethostname()}.0"
        self.path.touch(exist_ok=False)
        self.pending = io.BytesIO()
        self.records = RecordWriter(self.pending)
        self.lock = threading.Lock()
        self.flushed = time.monotonic()
        self.add(Event(file_version=FILE_VERSION))
        self.flush()

    def add(self, event: Event) -> None:
        """Take in an event; it is in the file soon."""
        event.wall_time = time.time()
        with self.lock:
            self.records.write(event.SerializeToString())
        if time.monotonic() - self.flushed > SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        """Put into the file what was taken in; may be called from another thread.

        Raises:
            OSError: the file is as it was.
        """
        with self.lock:
            append(self.path, self.pending.getvalue())
            self.pending.seek(0)
            self.pending.truncate()
            self.flushed = time.monotonic()


def _second(path: Path) -> int:
    second = path.name.split(".")[3]
    return int(second) if second.isdecimal() else 0


def read_records(path: Path) -> Iterator[tuple[bytes, Event]]:
    """Read the records of an event file and what they hold, until it ends, or ends within one, or is damaged."""
    with path.open("rb") as file:
        num_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            if checksum != masked_crc32c(header[:8]) or length + _CHECKSUM_BYTES > num_bytes - file.tell():
                return
            rest = file.read(length + _CHECKSUM_BYTES)
            try:
                event = Event.FromString(rest[:length])
            except Exception:  # of the protobuf implementation in use
                return
            yield header + rest, event


_HEADER = struct.Struct("<QI")  # a record's length, and a checksum of that
_CHECKSUM_BYTES = 4
