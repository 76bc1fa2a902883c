"""Write everything that is published to TensorBoard."""

import time
from textwrap import indent
from typing import Any

from numpy import ndarray
from omegaconf import OmegaConf
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import metadata  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import (  # type: ignore[import-untyped]
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.run import Run
from gantrain.train import TrainState


class TensorBoard(Callback):
    """Scalars, pictures, histograms, the resolved config, and what the HParams tab compares the runs of a sweep by.

    TensorBoard finds out by itself which hyperparameters and results the runs below its folder have, as long as no run
    claims to describe the whole experiment; torch's add_hparams does that, and so hides what later runs have more.
    """

    @override
    def start(self, run: Run) -> None:
        # A resumed run replaces what an earlier one wrote after the step that it continues from.
        purge_step = run.state.step + 1 if run.state.step else None
        self.writer: Any = SummaryWriter(run.folder / "tensorboard", purge_step=purge_step, flush_secs=30)
        self.writer.add_text("config", indent(OmegaConf.to_yaml(run.config), "    "), run.state.step)
        info = SessionStartInfo(start_time_secs=run.started)
        for name, value in run.hyperparameters.items():
            kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
            setattr(info.hparams[name], kind, value)
        self.write(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))

    @override
    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        for tag, value in scalars.items():
            self.writer.add_scalar(tag, value, state.step)

    @override
    def image(self, state: TrainState, tag: str, image: ndarray) -> None:
        self.writer.add_image(tag, image, state.step, dataformats="HWC")

    @override
    def histogram(self, state: TrainState, tag: str, values: Tensor) -> None:
        finite = values[values.isfinite()]
        if len(finite):
            self.writer.add_histogram(tag, finite, state.step)

    @override
    def finish(self, state: TrainState, status: str) -> None:
        # A stopped run can be resumed: its session has no end yet.
        if status != "stopped":
            outcome = STATUS_SUCCESS if status == "finished" else STATUS_FAILURE
            info = SessionEndInfo(status=outcome, end_time_secs=time.time())
            self.write(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))
        self.writer.close()

    def write(self, tag: str, data: HParamsPluginData) -> None:
        """Put one of the HParams plugin's messages into the run's own event file."""
        about = metadata.create_summary_metadata(data)
        message = Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])
        self.writer._get_file_writer().add_summary(message)
