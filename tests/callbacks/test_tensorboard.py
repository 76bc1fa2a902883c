import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.api_pb2 import (
    STATUS_FAILURE,
    STATUS_SUCCESS,
    STATUS_UNKNOWN,
    ListSessionGroupsRequest,
)
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

from gantrain.callbacks.base import Callbacks
from gantrain.callbacks.log import Log
from gantrain.callbacks.samples import Samples
from gantrain.callbacks.tensorboard import TensorBoard
from gantrain.datasets.toys import gaussian
from gantrain.session.run import Run

MakeRun = Callable[..., tuple[Run, Callbacks]]
Complete = Callable[..., None]


def accumulate(run: Run) -> Any:
    events = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"tensors": 0})
    return events.Reload()


def test_scalars_images_and_the_config_are_read_back(make_run: MakeRun, complete: Complete) -> None:
    samples = Samples(every=2, num=4, num_vectors=64)
    run, callbacks = make_run(Log(every=1), samples, TensorBoard(), steps=4, output="above.png")
    complete(run, callbacks)
    events = accumulate(run)
    assert {"loss/generator", "loss/discriminator", "logits/gap", "logits/real"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("loss/generator")] == [1, 2, 3, 4]
    assert [e.step for e in events.Images("samples/fixed")] == [0, 2, 4]
    assert [e.step for e in events.Images("samples/real")] == [0]
    png = (run.folder / "samples" / "step_00000004.png").read_bytes()
    assert decode(events.Images("samples/fixed")[-1].encoded_image_string).tolist() == decode(png).tolist()
    (config,) = events.Tensors("config/text_summary")
    assert "output: above.png" in config.tensor_proto.string_val[0].decode()
    assert len(list((run.folder / "tensorboard").iterdir())) == 1


def decode(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_scalars_have_their_values(make_run: MakeRun) -> None:
    run, callbacks = make_run(TensorBoard())
    callbacks.start()
    run.state.step = 7
    run.publish_scalars({"loss/generator": 0.125, "metric/fid": 40.5})
    callbacks.finish("finished")
    events = accumulate(run)
    assert [(e.step, e.value) for e in events.Scalars("loss/generator")] == [(7, 0.125)]
    assert [(e.step, e.value) for e in events.Scalars("metric/fid")] == [(7, 40.5)]


def test_histograms_hold_the_finite_values(make_run: MakeRun) -> None:
    samples = Samples(every=5, num=4, num_vectors=64)
    run, callbacks = make_run(samples, TensorBoard(), dataset=gaussian(mean=3.0, std=1.0), steps=1)
    callbacks.start()
    run.publish_histogram("values", torch.tensor([1.0, 2.0, 3.0, float("nan")]))
    run.publish_histogram("nothing", torch.full((3,), float("nan")))
    callbacks.finish("finished")
    events = accumulate(run)
    value = events.Histograms("values")[0].histogram_value
    assert (value.min, value.max, value.num, value.sum) == (1, 3, 3, 6)
    assert events.Histograms("samples/distribution")[0].histogram_value.num == 64
    assert "nothing" not in events.Tags()["histograms"]


def list_sessions(folder: Path) -> dict[str, Any]:
    """Return the session groups of the HParams tab by run."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder))))
    statuses = [STATUS_UNKNOWN, STATUS_SUCCESS, STATUS_FAILURE]
    request = ListSessionGroupsRequest(slice_size=100, allowed_statuses=statuses)
    response = Handler(RequestContext(), context, "", request).run()
    return {session.name: group for group in response.session_groups for session in group.sessions}


def test_the_hparams_tab_compares_the_runs_of_a_sweep(make_run: MakeRun) -> None:
    for number, (loss, status) in enumerate([("lsgan", "finished"), ("wasserstein", "failed"), ("hinge", "stopped")]):
        parameters = {"loss": loss, "optimizer.lr": 0.1 * number, "ema": number == 1}
        if number == 1:
            parameters["n_critic"] = 5.0
        run, callbacks = make_run(TensorBoard(), folder=f"sweep/{number}", hyperparameters=parameters)
        callbacks.start()
        run.state.step = 3
        run.publish_scalars({"loss/generator": 0.5 + number} | ({"metric/fid": 9.0} if number == 1 else {}))
        callbacks.finish(status)

    sessions = list_sessions(run.folder.parent)
    assert set(sessions) == {"0/tensorboard", "1/tensorboard", "2/tensorboard"}
    first, second, third = (sessions[f"{number}/tensorboard"] for number in range(3))
    assert first.hparams["loss"].string_value == "lsgan"
    assert second.hparams["optimizer.lr"].number_value == pytest.approx(0.1)
    assert second.hparams["n_critic"].number_value == 5
    assert second.hparams["ema"].bool_value is True
    results = {m.name.tag: (m.value, m.training_step) for m in second.metric_values}
    assert results == {"loss/generator": (1.5, 3), "metric/fid": (9.0, 3)}
    assert [g.sessions[0].status for g in (first, second, third)] == [STATUS_SUCCESS, STATUS_FAILURE, STATUS_UNKNOWN]
