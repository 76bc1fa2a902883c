"""The estimated memory of a training step against what a real step allocates on the CPU."""

from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from composing import composed
from torch.profiler import ProfilerActivity, profile

from gantrain.assemble import build_discriminator, build_generator, build_latent, build_objective, build_optimizer
from gantrain.config import Config
from gantrain.datasets.batches import Batch
from gantrain.engine.meta import LiveBytes
from gantrain.engine.runtime import Runtime
from gantrain.session.step_memory import MARGIN, StepMemory, step_memory
from gantrain.session.trials import RepeatedBatch
from gantrain.train import TrainState, train
from gantrain.updates import allocate_gradients

CPU = torch.device("cpu")
SHAPE = (3, 32, 32)
SMALL = ("dataset.image_size=32", "model.generator.width=16", "model.discriminator.width=16")
RECIPES = {
    "lightweight": (
        *("experiment=lightweight_folder", "accumulate=1", "model.generator.num_heads=1", "model.generator.head_dim=8"),
        *("model.discriminator.num_heads=1", "model.discriminator.head_dim=8"),
    ),
    "stylegan2_ada": ("experiment=stylegan2_ada_folder",),
    "r3gan": ("experiment=r3gan_folder",),
}


def config_of(recipe: str, *overrides: str) -> Config:
    return composed(*RECIPES[recipe], *SMALL, "dataset.root=photos", *overrides)


def allocated(config: Config, precision: str) -> int:
    """Make a step on the CPU, and return the largest number of bytes that it had allocated at a time."""
    torch.manual_seed(0)
    latent = build_latent(config.latent)
    G = build_generator(config.model["generator"], SHAPE, latent, None)
    D = build_discriminator(config.model["discriminator"], SHAPE, None)
    optimizers = [build_optimizer("optimizer", config.optimizer, network) for network in (G, D)]
    for optimizer in optimizers:  # after this they have their moments, as in all steps but the first
        allocate_gradients(optimizer)
        optimizer.step()
    state = TrainState(G, D, *optimizers)
    batches = RepeatedBatch(Batch(torch.zeros(config.batch_size, *SHAPE), None), config.batch_size)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train(
            *(state, batches, latent, build_objective(config)),
            steps=1,
            n_critic=lambda _: 1,
            seed=0,
            device=CPU,
            first=config.first,  # type: ignore[arg-type]
            accumulate=config.accumulate,
            precision=Runtime(device=CPU, precision=precision).run,  # type: ignore[arg-type]
        )
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(change for _, change in changes))


@pytest.mark.parametrize(
    ("recipe", "precision", "overrides"),
    [
        ("lightweight", "bf16", ("batch_size=2",)),
        ("stylegan2_ada", "bf16", ("batch_size=4",)),
        ("stylegan2_ada", "float32", ("batch_size=4", "accumulate=2")),
        ("r3gan", "float32", ("batch_size=2",)),
        ("r3gan", "bf16", ("batch_size=2",)),
    ],
)
def test_a_real_step_needs_what_is_estimated(recipe: str, precision: str, overrides: tuple[str, ...]) -> None:
    config = config_of(recipe, *overrides, f"runtime.precision={precision}")
    estimate, measured = max(step_memory(config, 3, CPU, 1).updates), allocated(config, precision)
    assert measured <= estimate <= 1.7 * measured  # with so few channels, the margin for copies of weights is large


def test_augmentation_precision_and_the_draws_of_other_micro_batches_count() -> None:
    def updates(*overrides: str) -> list[int]:
        return step_memory(config_of("stylegan2_ada", *overrides), 3, CPU, 1).updates

    G, path_length, D, r1 = updates("batch_size=4")
    plain = updates("batch_size=4", "augment=[]")
    assert plain[0] < G
    assert plain[1] == pytest.approx(path_length, rel=0.01)  # without D
    assert plain[2] < D
    assert plain[3] < r1
    low = updates("batch_size=4", "runtime.precision=bf16")
    assert low[0] < 0.9 * G
    assert [low[1], low[3]] == pytest.approx([path_length, r1], rel=0.01)  # penalties are in float32
    # The noise of both convolutions of each image size is drawn for all 16 images of a batch.
    divided = updates("batch_size=16", "accumulate=4")
    num_pixels = sum(size**2 for size in (4, 8, 8, 16, 16, 32, 32))
    assert divided[0] - G == pytest.approx(MARGIN * 4 * 12 * num_pixels, rel=0.2)


def test_captured_graphs_keep_the_memory_of_every_update_and_micro_batch() -> None:
    memory = StepMemory(state=100, updates=[7, 9], num_graphs=0, group=1)
    assert memory.total == 109
    assert replace(memory, num_graphs=3).total == 100 + 3 * 16


def test_state_is_weights_gradients_moments_and_average() -> None:
    config = config_of("r3gan", "batch_size=2")
    latent = build_latent(config.latent)
    G, D = (
        sum(parameter.numel() for parameter in network.parameters())
        for network in (
            build_generator(config.model["generator"], SHAPE, latent, None),
            build_discriminator(config.model["discriminator"], SHAPE, None),
        )
    )
    state = step_memory(config, 3, CPU, 1).state
    assert 0 <= state - (20 * G + 16 * D) < 2_000  # constant buffers
    assert state - step_memory(replace(config, ema_halflife_images=None), 3, CPU, 1).state == 4 * G


def test_estimating_changes_no_random_numbers() -> None:
    torch.manual_seed(3)
    step_memory(config_of("r3gan", "batch_size=2"), 3, CPU, 1)
    drawn = torch.rand(())
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(()))


def test_live_bytes_are_those_of_storages_until_they_are_freed() -> None:
    with LiveBytes() as memory:
        x = torch.zeros(10, 4, device="meta")
        y = x[:, 1:].T
        assert memory.now == 160
        z = torch.split(x * 2, 2)
        assert memory.now == 320
        del y, z
        assert (memory.now, memory.peak) == (160, 320)
        assert memory.restart() == 160
        x.add_(1)
        del x
        assert (memory.now, memory.peak) == (0, 160)
