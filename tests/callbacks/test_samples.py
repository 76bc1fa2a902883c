from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy import ndarray
from PIL import Image
from torch import Tensor, nn

from gantrain.callbacks.base import Callback, Callbacks
from gantrain.callbacks.samples import Samples
from gantrain.datasets.batches import to_signed
from gantrain.datasets.toys import gaussian, gaussians_8
from gantrain.evaluation import grids, plots
from gantrain.models.packing import pack
from gantrain.seeding import generator
from gantrain.session.run import Run
from gantrain.train import TrainState

MakeRun = Callable[..., tuple[Run, Callbacks]]
Complete = Callable[..., None]


class Listener(Callback):
    def __init__(self) -> None:
        self.images: list[tuple[int, str, ndarray]] = []
        self.histograms: list[tuple[int, str, Tensor]] = []

    def image(self, state: TrainState, tag: str, image: ndarray) -> None:
        self.images.append((state.step, tag, image))

    def histogram(self, state: TrainState, tag: str, values: Tensor) -> None:
        self.histograms.append((state.step, tag, values))


def pixels(path: Path) -> ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def samples(every: int = 5) -> Samples:
    return Samples(every=every, num=16, num_vectors=100)


def test_grids_of_fixed_latents_are_saved_at_start_interval_and_end(make_run: MakeRun, complete: Complete) -> None:
    listener = Listener()
    run, callbacks = make_run(samples(every=5), listener, steps=12)
    complete(run, callbacks)
    files = sorted((run.folder / "samples").glob("step_*.png"))
    assert [f.name for f in files] == [f"step_{step:08d}.png" for step in (0, 5, 10, 12)]
    published = [(step, tag) for step, tag, _ in listener.images]
    assert published == [(0, "samples/real"), *((step, "samples/fixed") for step in (0, 5, 10, 12))]
    for file, (_, _, image) in zip(files, listener.images[1:], strict=True):
        np.testing.assert_array_equal(pixels(file), image)
    with Image.open(run.folder / "samples.gif") as gif:
        assert gif.n_frames == 4  # type: ignore[attr-defined]

    # Compute the last grid independently: fixed latents, evaluation mode.
    z = torch.randn(16, 4, generator=generator(0, "fixed"))
    assert run.state.G.training
    with torch.no_grad():
        expected = grids.grid(run.state.G.eval()(z))
    np.testing.assert_array_equal(pixels(files[-1]), expected)


def test_the_grid_of_real_images_shows_the_dataset(make_run: MakeRun) -> None:
    listener = Listener()
    run, callbacks = make_run(samples(), listener)
    callbacks.start()
    chosen = torch.randperm(100, generator=generator(0, "real"))[:16]
    expected = grids.grid(to_signed(run.dataset.images[chosen]))  # type: ignore[union-attr]
    np.testing.assert_array_equal(pixels(run.folder / "samples" / "real.png"), expected)


def test_samples_come_from_the_ema_generator_if_present(make_run: MakeRun) -> None:
    run, callbacks = make_run(samples(), ema=True)
    with torch.no_grad():
        for parameter in run.state.G_ema.parameters():  # type: ignore[union-attr]
            parameter.zero_()
    callbacks.start()
    middle_gray = {128, 255}
    assert set(np.unique(pixels(run.folder / "samples" / "step_00000000.png"))) == middle_gray


def test_sampling_does_not_change_the_training(make_run: MakeRun, complete: Complete) -> None:
    run, callbacks = make_run(samples(every=1), steps=6, folder="sampled")
    complete(run, callbacks)
    plain, none = make_run(steps=6, folder="plain")
    complete(plain, none)
    for a, b in zip(run.state.G.state_dict().values(), plain.state.G.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("dataset", "tags"),
    [
        (gaussian(mean=3.0, std=1.0), ["samples/distribution"]),
        (gaussians_8(radius=2.0, std=0.02, scale=1.414), ["samples/distribution_0", "samples/distribution_1"]),
    ],
)
def test_vectors_are_published_as_histograms(
    make_run: MakeRun, complete: Complete, dataset: object, tags: list[str]
) -> None:
    listener = Listener()
    run, callbacks = make_run(samples(every=5), listener, dataset=dataset, steps=5)
    complete(run, callbacks)
    assert [tag for step, tag, _ in listener.histograms if step == 5] == tags
    assert all(values.shape == (100,) for _, _, values in listener.histograms)
    names = {path.name for path in (run.folder / "samples").iterdir()}
    assert names == {"real.png", "step_00000000.png", "step_00000005.png"}
    assert (run.folder / "samples.gif").is_file()
    assert run.state.D.training


@pytest.mark.parametrize("packing", [1, 2])
def test_level_sets_are_drawn_if_d_takes_single_points(
    make_run: MakeRun, packing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    critics = []
    picture = np.zeros((4, 4, 3), np.uint8)

    def scatter(real: Tensor, fake: Tensor | None, critic: plots.Critic | None, *, title: str) -> grids.Picture:
        critics.append(critic)
        return picture

    monkeypatch.setattr(plots, "scatter", scatter)
    run, callbacks = make_run(samples(), dataset=gaussians_8(radius=2.0, std=0.02, scale=1.414))
    run.state.D = pack(lambda shape: nn.Sequential(nn.Linear(*shape, 1), nn.Flatten(0)), (2,), packing)
    callbacks.start()
    callbacks.finish("finished")
    of_data, of_first, *_ = critics
    assert of_data is None
    assert (of_first is None) == (packing == 2)
    if of_first is not None:
        x = torch.randn(5, 2)
        torch.testing.assert_close(of_first(x), run.state.D(x).detach())


class ShowsInputs(nn.Module):
    """Its image shows the label in the upper half and the latent in the lower half."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        halves = torch.stack([y / self.num_classes, z[:, 0].tanh()], dim=1)
        return halves[:, None, :, None].repeat_interleave(4, dim=2).expand(-1, 1, 8, 8)


@pytest.mark.parametrize(
    ("num", "num_classes", "rows", "columns"),
    [
        (16, 3, [0, 1, 2], 5),
        (16, 16, range(16), 1),
        (5, 4, [0, 1, 2, 3], 1),
        (4, 10, [0, 2, 5, 7], 1),  # evenly spaced classes
        (3, 10, [0, 3, 6], 1),
    ],
)
def test_a_row_of_the_grid_is_a_class_and_a_column_a_latent(
    make_run: MakeRun, num: int, num_classes: int, rows: Sequence[int], columns: int
) -> None:
    run, _ = make_run()
    run.state.G = ShowsInputs(num_classes)
    run = replace(run, class_counts=[10] * num_classes)
    Callbacks(run, [Samples(every=5, num=num, num_vectors=100)]).start()
    picture = pixels(run.folder / "samples/step_00000000.png")
    # Images of 8 pixels are enlarged by a whole factor; between them are lines of 2 pixels.
    side = 8 * -(-256 // (8 * columns))
    expected = np.full((len(rows) * (side + 2) + 2, columns * (side + 2) + 2), 255)
    latents = torch.randn(columns, 4, generator=generator(0, "fixed"))[:, 0].tanh()
    for i, label in enumerate(rows):
        for j, latent in enumerate(latents.tolist()):
            top, left = 2 + i * (side + 2), 2 + j * (side + 2)
            expected[top : top + side // 2, left : left + side] = round((label / num_classes + 1) * 127.5)
            expected[top + side // 2 : top + side, left : left + side] = round((latent + 1) * 127.5)
    assert picture.shape == (*expected.shape, 3)
    assert np.abs(picture - expected[..., None]).max() <= 1  # rounding
    assert pixels(run.folder / "samples/real.png").shape == picture.shape


def test_the_frames_before_a_divergence_are_animated(make_run: MakeRun, complete: Complete) -> None:
    run, callbacks = make_run(samples(every=4), steps=10)
    complete(run, callbacks, status="diverged", steps=6)
    with Image.open(run.folder / "samples.gif") as gif:
        assert gif.n_frames == 2  # type: ignore[attr-defined]
