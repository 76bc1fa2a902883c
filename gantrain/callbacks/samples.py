"""Write pictures of samples from fixed latents."""

import gc
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from gantrain.callbacks.base import Callback
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import to_signed
from gantrain.engine.memory import require_memory
from gantrain.evaluation import grids, plots
from gantrain.evaluation.sampling import evaluating, forward
from gantrain.models.interface import split_output, takes_labels
from gantrain.models.layers import couples_samples_in_evaluation
from gantrain.seeding import generator
from gantrain.session.checkpoint import step_of
from gantrain.session.run import Run
from gantrain.train import TrainState


class Samples(Callback):
    """Write a picture of samples from fixed latents before the first step, every `sample_every` steps and at the end.

    Images are shown as a grid, vectors as their distribution and that of the data. At the end, the pictures are also
    written as an animation.

    Args:
        num: number of images in a grid.
        num_vectors: for vector data, number of real vectors and of generated vectors in a plot.
    """

    tags = ("samples/",)

    def __init__(self, *, every: int, num: int, num_vectors: int):
        if min(num, num_vectors) < 1:
            raise ValueError(f"num={num}, num_vectors={num_vectors}: a picture needs at least 1 sample.")
        self.every, self.num, self.num_vectors = every, num, num_vectors

    @override
    def check(self, run: Run) -> None:
        is_image = isinstance(run.dataset, ImageDataset)
        name, num = ("num", self.num) if is_image else ("num_vectors", self.num_vectors)
        require_memory(f"callback.samples.{name}", num, [run.dataset.image_shape, (run.latent.z_dim,)], run.device)

    @override
    def start(self, run: Run) -> None:
        self.folder = run.folder / "samples"
        self.folder.mkdir(exist_ok=True)
        self.shown_at: int | None = None
        seed = run.config.seed
        num = self.num if isinstance(run.dataset, ImageDataset) else self.num_vectors
        self.columns: int | None = None
        self.y: Tensor | None = None
        if takes_labels(run.state.G) and run.class_counts:
            num = self.arrange_by_class(len(run.class_counts), num)
        # Drawn on the CPU, so that the latents are the same on every device.
        latents = run.latent(self.columns or num, device=torch.device("cpu"), generator=generator(seed, "fixed"))
        # In a grid by class, the images of a column have the same latent.
        self.z = latents.repeat(num // len(latents), 1).to(run.device)

        if isinstance(run.dataset, ImageDataset):
            chosen = torch.randperm(run.dataset.num_images, generator=generator(seed, "real"))[:num]
            real = grids.grid(to_signed(run.dataset.gather(chosen)), self.columns)
        else:
            self.real = run.dataset.sample(num, generator(seed, "real"))
            real = plots.distribution(self.real, None, None, title=run.dataset.name)
        if run.previous is None:
            grids.save_png(self.folder / "real.png", real)
        self.real_picture = real

    def arrange_by_class(self, num_classes: int, num: int) -> int:
        """Set the labels and columns of a grid with a row for each class.

        If there are more classes than `num`, `num` evenly spaced classes get a row of one image.

        Returns:
            the number of images in the grid, at most `num`.
        """
        rows = min(num_classes, num)
        self.columns = max(1, num // rows)
        classes = torch.arange(rows) * num_classes // rows
        self.y = classes.repeat_interleave(self.columns).to(self.run.device)
        return rows * self.columns

    @override
    def begin(self, state: TrainState) -> None:
        self.run.publish_image("samples/real", self.real_picture)
        self.show(state)

    @override
    def rewind(self, state: TrainState) -> None:
        self.shown_at = None
        for path in self.frames():
            if not self.run.survives_rewind(step_of(path), "samples/fixed"):
                path.unlink()
            elif step_of(path) == state.step:
                self.shown_at = state.step

    @override
    def __call__(self, state: TrainState, logs: object) -> None:
        if self.is_due(state.step):
            self.show(state)

    @override
    def finish(self, state: TrainState, status: str) -> None:
        if status in ("finished", "stopped") and state.step != self.shown_at:
            self.show(state)
        if frames := self.frames():
            grids.animation(self.run.folder / "samples.gif", frames)

    def frames(self) -> list[Path]:
        """Return the paths of the pictures so far, in the order of their steps."""
        found = (path for path in self.folder.glob("step_*.png") if path.stem.removeprefix("step_").isdecimal())
        return sorted(found, key=step_of)

    def show(self, state: TrainState) -> None:
        """Write and publish the picture of this step."""
        G = state.G if state.G_ema is None else state.G_ema
        x_fake = forward(G, self.z, self.y)
        picture = grids.grid(x_fake, self.columns) if x_fake.dim() == 4 else self.compare(state, x_fake)
        grids.save_png(self.folder / f"step_{state.step:08d}.png", picture)
        self.run.publish_image("samples/fixed", picture)
        self.shown_at = state.step

    def compare(self, state: TrainState, x_fake: Float[Tensor, "n d"]) -> grids.Picture:
        """Draw generated and real vectors, and publish a histogram of each coordinate.

        Points in the plane are drawn over the level sets of D, except if D couples samples (for example with packing):
        then it has no value at a single point. Its value for a pack of equal points would mislead, because a pack of
        similar samples is what D learns to recognize as generated.
        """
        for i, values in enumerate(x_fake.T):
            self.run.publish_histogram("samples/distribution" + (f"_{i}" if len(x_fake.T) > 1 else ""), values)

        def critic(points: Tensor) -> Tensor:
            with torch.no_grad(), evaluating(state.D):
                logits, _ = split_output(state.D(points.to(self.run.device)))
            return logits.float().cpu()

        shown = None if couples_samples_in_evaluation(state.D) else critic
        picture = plots.distribution(self.real, x_fake, shown, title=f"step {state.step:,}")
        gc.collect()  # a figure is a megabyte in reference cycles; a hundred could accumulate before a collection
        return picture
