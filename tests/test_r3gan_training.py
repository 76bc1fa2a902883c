"""R3GAN's updates, training steps and schedules match golden numbers."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import composed
from oracles import load, oracle_files, texts
from r3gan_golden import networks, parameters, stage_sizes
from torch import Tensor, nn

from gantrain.augment.base import Augment
from gantrain.datasets.batches import Batch
from gantrain.ema import EMA
from gantrain.game import Game, Objective
from gantrain.instantiate import make_all
from gantrain.losses.relativistic import Relativistic
from gantrain.regularizers.input_gradient import input_gradient
from gantrain.regularizers.r1 import R1
from gantrain.regularizers.r2 import R2
from gantrain.schedules.base import Clock, Schedule
from gantrain.train import TrainState, train
from gantrain.updates import add_penalties, frozen

CPU = torch.device("cpu")
CLOCK = Clock(0.0, 0)
STEP_FILES = [*oracle_files("r3gan_uncond_*.npz"), *oracle_files("r3gan_cond_*.npz")]
each_file = pytest.mark.parametrize("path", STEP_FILES, ids=lambda path: path.stem)
each_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
VALUES = {torch.float64: 2e-7, torch.float32: 2e-5}
GRADIENTS = {torch.float64: 2e-7, torch.float32: 2e-4}


class Affine(Augment):
    """The stand-in augmentation of the golden files."""

    def __call__(self, x: Tensor, clock: Clock) -> Tensor:
        return 0.5 * x + 0.125


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def penalties(gamma: float) -> dict[str, Any]:
    return {"r1": R1(gamma=gamma, every=1), "r2": R2(gamma=gamma, every=1)}


def norms(network: nn.Module, prefix: str, golden: dict[str, Tensor], names: list[str], *, of: str) -> Tensor:
    """Return the norms of parameters, or with of="grad" of their gradients, in the order of the names."""
    found = parameters(network, prefix, stage_sizes(golden))
    tensors = [found[name][0] if of == "value" else found[name][0].grad for name in names]
    return torch.stack([tensor.detach().norm() for tensor in tensors])


@each_precision
@each_file
@pytest.mark.parametrize("augmented", [False, True], ids=["plain", "augmented"])
@pytest.mark.parametrize("shares_pass", [True, False], ids=["one_pass", "own_passes"])
def test_losses_penalties_and_gradients_are_the_golden_ones(
    path: Path, dtype: torch.dtype, shares_pass: bool, augmented: bool
) -> None:
    golden = load(path, dtype)
    G, D = networks(golden)
    suffix, labels = "_affine" if augmented else "", golden.get("in.label")
    gamma, n = float(golden["hyper.gamma"]), len(golden["in.z"])
    objective = Objective(Relativistic(), penalties(gamma), {"affine": Affine()} if augmented else {})
    game = Game(
        *(G, D, objective),
        generator_rows=n,
        precision=lambda network: network,
        latent=lambda n, device: golden["in.z"],
        fake_labels=None if labels is None else lambda n, y: y,
        device=CPU,
    )
    real = Batch(golden["in.real"], labels)

    assert game.shares_pass
    game.shares_pass = shares_pass
    batch = game.critic_batch(real, CLOCK)
    adversarial = game.discriminator_loss(batch)
    added = game.discriminator_penalties(batch)
    add_penalties(adversarial, added).backward()
    of_d, of_g, value, gradient = f"d_step{suffix}", f"g_step{suffix}", VALUES[dtype], GRADIENTS[dtype]
    close(batch.real_logits - batch.fake_logits, golden[f"{of_d}.relativistic_logit"], value)
    close(adversarial, golden[f"{of_d}.adv_loss"].mean(), value)
    close(add_penalties(adversarial, added), golden[f"{of_d}.loss"], gradient)
    for name, samples in (("r1", batch.real), ("r2", batch.fake)):
        close(added[name], gamma / 2 * golden[f"{of_d}.{name}"].mean(), gradient)
        squares = input_gradient(game.critic(CLOCK), samples, labels).square().sum((1, 2, 3))
        close(squares, golden[f"{of_d}.{name}"], gradient)
    if not augmented:
        names = texts(path, "d.parameter_names")
        close(norms(D, "d", golden, names, of="grad"), golden["d_step.grad_norms"], gradient)
        (key,) = [name.removeprefix("d_step.grad.") for name in golden if name.startswith("d_step.grad.")]
        close(parameters(D, "d", stage_sizes(golden))[key][0].grad, golden[f"d_step.grad.{key}"], gradient)

    with frozen(D):
        loss = game.generator_loss(game.generator_batch(real, CLOCK))
    loss.backward()
    close(loss, golden[f"{of_g}.loss"], value)
    if not augmented:
        names = texts(path, "g.parameter_names")
        close(norms(G, "g", golden, names, of="grad"), golden["g_step.grad_norms"], gradient)
        (key,) = [name.removeprefix("g_step.grad.") for name in golden if name.startswith("g_step.grad.")]
        close(parameters(G, "g", stage_sizes(golden))[key][0].grad, golden[f"g_step.grad.{key}"], gradient)


class GoldenBatches:
    """The real samples of a golden file."""

    def __init__(self, golden: dict[str, Tensor], player: str = "d"):
        self.golden, self.x, self.batch_size = golden, golden[f"in.real_for_{player}"], golden["in.z_for_d"].shape[1]

    def __getitem__(self, i: int) -> Batch:
        return Batch(self.x[i])

    def for_generator(self) -> "GoldenBatches":
        return GoldenBatches(self.golden, "g")


@each_precision
@pytest.mark.parametrize("path", oracle_files("r3gan_training_steps_*.npz"), ids=lambda path: path.stem)
def test_training_makes_the_golden_steps(path: Path, dtype: torch.dtype) -> None:
    golden = load(path, dtype)
    (G, D), tolerance = networks(golden), {torch.float64: 1e-6, torch.float32: 2e-4}[dtype]
    hyper = {name: golden[f"hyper.{name}"].tolist() for name in ("lr", "beta2", "gamma", "ema_half_life_images")}
    optimizers = [torch.optim.Adam(net.parameters(), lr=hyper["lr"][0], betas=(0.0, 0.9), eps=1e-8) for net in (G, D)]
    state = TrainState(G, D, *optimizers, deepcopy(G).requires_grad_(False))
    objective, ema = Objective(Relativistic(), penalties(1.0)), EMA(halflife_images=1.0, rampup=None)
    num_steps = len(golden["in.z_for_d"])
    latents: Iterator[Tensor] = iter([golden[f"in.z_for_{player}"][i] for i in range(num_steps) for player in "dg"])

    def set_golden(_: Clock) -> None:
        i = state.step
        for optimizer in optimizers:
            optimizer.param_groups[0].update(lr=hyper["lr"][i], betas=(0.0, hyper["beta2"][i]))
        for regularizer in objective.regularizers.values():
            regularizer.gamma = hyper["gamma"][i]
        ema.halflife_images = hyper["ema_half_life_images"][i]

    names = {key: texts(path, f"{key}.parameter_names") for key in "gd"}

    def compare(state: TrainState, logs: Any) -> None:
        i = state.step - 1
        adversarial, r1, r2 = golden["out.d_adv_r1_r2_means_per_step"][i]
        half = hyper["gamma"][i] / 2
        close(logs["loss/discriminator"], adversarial, tolerance)
        close(logs["penalty/r1"], half * r1, tolerance)
        close(logs["penalty/r2"], half * r2, tolerance)
        close(logs["loss/generator"], golden["out.g_loss_per_step"][i], tolerance)
        for name, prefix, network in (("g", "g", state.G), ("d", "d", state.D), ("ema", "g", state.G_ema)):
            assert network is not None
            found = norms(network, prefix, golden, names[prefix], of="value")
            close(found, golden[f"out.{name}_parameter_norms_after_step"][i], tolerance)

    train(
        *(state, GoldenBatches(golden), lambda n, device: next(latents), objective),
        steps=num_steps,
        n_critic=lambda _: 1,
        seed=0,
        device=CPU,
        schedules=set_golden,
        ema=ema,
        callbacks=[compare],
    )
    assert state.step == num_steps
    assert next(latents, None) is None
    assert state.G_ema is not None
    sizes, z = stage_sizes(golden), golden["in.z_for_g"][0]
    close(state.G(z), golden["out.final_image"], tolerance)
    close(state.G_ema(z), golden["out.final_ema_image"], tolerance)
    close(state.D(golden["in.real_for_d"][0]), golden["out.final_logit_of_first_real"], tolerance)
    close(parameters(state.G, "g", sizes)["g.to_rgb.weight"][0], golden["out.final_g_to_rgb"], tolerance)
    close(parameters(state.D, "d", sizes)["d.from_rgb.weight"][0], golden["out.final_d_from_rgb"], tolerance)


@pytest.mark.parametrize("path", oracle_files("r3gan_schedules_cifar10*.npz"), ids=lambda path: path.stem)
def test_schedules_of_the_preset_have_the_golden_values(path: Path) -> None:
    golden, config = load(path), composed("experiment=r3gan_cifar10")
    schedules: dict[str, Schedule] = make_all("schedule", config.schedule, Schedule)
    by_key = {key: schedule for schedule in schedules.values() for key in schedule.of}
    images = golden["in.images_seen"].tolist()

    def values(key: str, configured: float) -> Tensor:
        return torch.tensor([configured * by_key[key](Clock(0.0, round(n))) for n in images], dtype=torch.float64)

    assert config.ema_halflife_images is not None
    halflife = values("ema_halflife_images", config.ema_halflife_images)

    def same(actual: Tensor, expected: Tensor) -> None:
        close(actual, expected, 1e-13)

    for player in ("optimizer", "discriminator_optimizer"):
        same(values(f"{player}.lr", config.optimizer["lr"]), golden["out.lr"])
        same(values(f"{player}.beta2", 1.0), golden["out.beta2"])
    for name in ("r1", "r2"):
        same(values(f"regularizer.{name}.gamma", config.regularizer[name]["gamma"]), golden["out.gamma"])
    same(halflife, golden["out.ema_half_life_images"])
    same(values("augment.strength", config.augment["ada"]["strength"]), golden["out.augment_p"])
    assert (config.ema_rampup, config.batch_size) == (None, 512)
    one, zero = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for value, beta in zip(halflife.tolist(), golden["out.ema_beta_batch512"].tolist(), strict=True):
        nn.init.ones_(one.weight), nn.init.zeros_(zero.weight)
        EMA(halflife_images=value, rampup=None).update(one, zero, num_images=512, images_seen=0)
        assert float(one.weight.detach()) == pytest.approx(beta, rel=1e-6, abs=1e-7)
