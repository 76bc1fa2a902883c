"""Show samples from the same latents as the generator learns."""

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
from gantrain.models.calling import judged, takes_labels
from gantrain.seeding import generator
from gantrain.session.checkpoint import step_of
from gantrain.session.run import Run
from gantrain.train import TrainState


class Samples(Callback):
    """Before the first step, every `sample_every` steps and at the end, a picture of samples from fixed noise.

    Images as a grid, vectors as their distribution against that of the data; at the end the pictures as an animation.

    Args:
        num: how many images a grid shows.
        num_vectors: where the data are vectors, how many real and generated ones are drawn.
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
        # Drawn on the CPU, so that the latents are the same on every device.
        self.columns: int | None = None
        self.y: Tensor | None = None
        if takes_labels(run.state.G) and run.class_counts:
            num = self.arrange_by_class(len(run.class_counts), num)
        latents = run.latent(self.columns or num, device=torch.device("cpu"), generator=generator(seed, "fixed"))
        # In a grid by class, a column shows the same latent for each class.
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
        """Give each class a row of the grid; return how many images that makes."""
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
        """The pictures so far, in the order of their steps."""
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
        """Draw generated vectors against real ones, and publish the histogram of each coordinate."""
        for i, values in enumerate(x_fake.T):
            self.run.publish_histogram("samples/distribution" + (f"_{i}" if len(x_fake.T) > 1 else ""), values)

        def critic(points: Tensor) -> Tensor:
            with torch.no_grad(), evaluating(state.D):
                logits, _ = judged(state.D(points.to(self.run.device)))
            return logits.float().cpu()

        picture = plots.distribution(self.real, x_fake, critic, title=f"step {state.step:,}")
        gc.collect()  # a drawing is a megabyte of cycles, of which a hundred would pile up
        return picture
