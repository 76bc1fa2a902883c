"""Write scalars, pictures and histograms for TensorBoard."""

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
from gantrain.config import to_dict
from gantrain.evaluation.grids import png
from gantrain.files import append, atomic_write, sync
from gantrain.session.run import Run
from gantrain.train import TrainState

summary: Any = torch_summary  # without types
FILE_VERSION = "brain.Event:2"
SECONDS_BETWEEN_FLUSHES = 5.0
NUM_BINS = 64


class TensorBoard(Callback):
    """Write scalars, pictures, histograms, the resolved config, and the hyperparameters for the HParams tab.

    Each run writes only its own hyperparameters, and TensorBoard collects those of all runs below its folder. torch's
    add_hparams instead writes a description of the whole experiment, which hides hyperparameters that only later runs
    have.
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
            self.rewrite(path)
        self.open(purge_step=state.step + 1)

    def open(self, purge_step: int | None = None) -> None:
        """Start an event file with the config and the hyperparameters of the run.

        Args:
            purge_step: a running TensorBoard discards what it has already read of this step and later ones.
        """
        self.file = EventFile(self.folder, after=self.paths()[-1:])
        if purge_step is not None:
            self.file.add(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        config = OmegaConf.to_yaml(OmegaConf.create(to_dict(self.run.config)))
        self.add(0, summary.text("config", indent(config, "    ")))
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
    def markdown(self, state: TrainState, tag: str, text: str) -> None:
        self.add(state.step, summary.text(tag, text))

    @override
    def flush(self) -> None:
        self.file.flush()
        sync(self.file.path)

    @override
    def finish(self, state: TrainState, status: str) -> None:
        # A stopped run can be resumed, so its session has not ended.
        if status != "stopped":
            outcome = STATUS_SUCCESS if status == "finished" else STATUS_FAILURE
            info = SessionEndInfo(status=outcome, end_time_secs=time.time())
            self.add_session(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))
        self.file.flush()

    def add(self, step: int, content: Any) -> None:
        """Write a summary."""
        self.file.add(Event(step=step, summary=content))

    def add_session(self, tag: str, data: HParamsPluginData) -> None:
        """Write a message of the HParams plugin."""
        about = metadata.create_summary_metadata(data)
        self.add(0, Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)]))

    def paths(self) -> list[Path]:
        """Return the event files of the run, in the order in which TensorBoard reads them."""
        return sorted(self.folder.glob("events.out.tfevents.*"))

    def rewrite(self, path: Path) -> None:
        """Rewrite an event file without the values that a rewind removes, and without a truncated last record."""
        is_empty = True
        with atomic_write(path) as file:
            records = RecordWriter(file)
            for record, event in read_records(path):
                kept = [value for value in event.summary.value if self.survives(event.step, value)]
                if len(kept) == len(event.summary.value):
                    file.write(record)  # unchanged, because computing its checksum in Python is slow
                elif kept:
                    del event.summary.value[:]
                    event.summary.value.extend(kept)
                    records.write(event.SerializeToString())
                is_empty = is_empty and not kept
        if is_empty:  # no values are left
            path.unlink()

    def survives(self, step: int, value: Any) -> bool:
        """Return whether a value of an event file is kept when the run is resumed at its current step."""
        if value.tag.split("/")[0] in ("config", "_hparams_"):
            return False  # open() writes them again
        return self.run.survives_rewind(step, value.tag, is_scalar=value.HasField("simple_value"))


class EventFile:
    """An event file of TensorBoard, to which complete records are appended every few seconds.

    Args:
        after: the previous file, if there is one. The name of the new file is sorted after it, because TensorBoard
            reads files in the order of their names.
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
        """Add an event, and write all pending events to the file if the last flush was a few seconds ago."""
        event.wall_time = time.time()
        with self.lock:
            self.records.write(event.SerializeToString())
        if time.monotonic() - self.flushed > SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        """Write the pending events to the file; may be called from any thread.

        Raises:
            OSError: they could not be written; the file is unchanged.
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
    """Yield each record of an event file as bytes and as an event; stop at the end, or at a damaged record."""
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
            except Exception:  # the type depends on the implementation of protobuf
                return
            yield header + rest, event


_HEADER = struct.Struct("<QI")  # the length of a record, and the checksum of the length
_CHECKSUM_BYTES = 4
