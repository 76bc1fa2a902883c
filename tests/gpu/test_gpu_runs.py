"""What must hold on a GPU too; skipped where there is none."""

import statistics
import time
from pathlib import Path

import pytest
import torch

from gantrain.callbacks.checkpoint import Checkpoint
from gantrain.callbacks.log import Log
from gantrain.checkpoint import find, restore, tensors
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import Batches, make_batches
from gantrain.losses.wasserstein import Wasserstein
from gantrain.models.dcgan import Discriminator, Generator
from gantrain.models.latent import Normal
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.run import Run
from gantrain.runtime import Runtime
from gantrain.train import TrainState, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda")
SHAPE = (3, 64, 64)


def make_run(folder: Path, *, width: int, every: int) -> Run:
    torch.manual_seed(0)
    torch.backends.cudnn.deterministic = True
    images = torch.randint(0, 256, (512, *SHAPE), dtype=torch.uint8)
    common = {"width": width, "init": "dcgan", "bias": "ends", "slope": 0.2}
    G = Generator(SHAPE, 128, activation="relu", norm="batch", **common).to(CUDA)
    D = Discriminator(SHAPE, activation="leaky_relu", norm="none", **common).to(CUDA)
    folder.mkdir()
    return Run(
        name="gpu",
        folder=folder,
        config={
            "seed": 0,
            "batch_size": 64,
            "log_every": 50,
            "sample_every": 1000,
            "evaluate_every": 1000,
            "checkpoint": {"every": every, "keep": 2, "keep_every": None, "best": None},
            "on_divergence": "stop",
        },
        state=TrainState(
            G,
            D,
            torch.optim.Adam(G.parameters(), lr=1e-4, betas=(0.0, 0.9), fused=True),
            torch.optim.Adam(D.parameters(), lr=1e-4, betas=(0.0, 0.9), fused=True),
        ),
        dataset=ImageDataset("noise", images, labels=None, num_classes=None, fingerprint="f"),
        latent=Normal(z_dim=128),
        runtime=Runtime(device=CUDA),
        steps=10**6,
        metrics={},
        hyperparameters={},
        callbacks=[Log(), Checkpoint()],
    )


class OnDevice:
    """The same batch again and again, without a way from the host."""

    batch_size = 64

    def __init__(self) -> None:
        self.x = torch.rand(64, *SHAPE, device=CUDA) * 2 - 1

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.x


def advance(run: Run, steps: int, batches: Batches | None = None) -> None:
    batches = batches or make_batches(run.dataset, batch_size=64, seed=0, device=CUDA)
    train(
        run.state, batches, run.latent, Wasserstein(), {"gradient_penalty": GradientPenalty(weight=10.0)},
        steps=steps, n_critic=lambda _: 5, seed=0, device=CUDA, callbacks=run.callbacks,
    )  # fmt: skip


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    straight, parts = make_run(tmp_path / "a", width=16, every=10), make_run(tmp_path / "b", width=16, every=10)
    straight.start()
    advance(straight, 20)
    straight.finish("stopped")
    parts.start()
    advance(parts, 10)
    parts.finish("stopped")
    again = make_run(tmp_path / "c", width=16, every=10)
    path, content = find(parts.folder)
    restore(again, content, path)
    again.start()
    advance(again, 20)
    again.finish("stopped")
    one, other = (dict(tensors(find(run.folder)[1])) for run in (straight, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_saving_stalls_the_training_by_less_than_a_step(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", width=64, every=10**6)
    run.start()
    advance(run, 10)
    checkpoint = run.callbacks[-1]
    assert isinstance(checkpoint, Checkpoint)

    def seconds(save: bool) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        if save:
            checkpoint.save(run.state)
        advance(run, run.state.step + 1)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    plain, saving = [], []
    for _ in range(10):
        plain.append(seconds(save=False))
        saving.append(seconds(save=True))
        checkpoint.wait()
    stall = statistics.median(saving) - statistics.median(plain)
    print(f"step {1e3 * statistics.median(plain):.1f} ms, stall of a checkpoint {1e3 * stall:.1f} ms")
    assert stall < statistics.median(plain)


def test_a_step_waits_for_the_device_only_where_it_logs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", width=16, every=10**6)
    run.start()
    batches = OnDevice()
    advance(run, 60, batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        advance(run, 90, batches)  # none of these is logged
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.state.step == 90
