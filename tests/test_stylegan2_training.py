"""StyleGAN2's training steps match golden numbers, and do not depend on how they are executed."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import stylegan2_golden as golden_networks
import torch
from oracles import load, oracle_files, texts
from torch import Tensor

from gantrain.datasets.batches import Batch
from gantrain.ema import EMA
from gantrain.game import Objective
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.regularizers.path_length import PathLength
from gantrain.regularizers.r1 import R1
from gantrain.train import TrainState, train

CPU = torch.device("cpu")
GROUP = 4
"""Size of the groups of the minibatch standard deviation, which the files of training steps do not hold."""


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


class GoldenBatches:
    """The real samples of a golden file."""

    def __init__(self, x: Tensor):
        self.x, self.batch_size = x, x.shape[1]

    def __getitem__(self, i: int) -> Batch:
        return Batch(self.x[i])

    def for_generator(self) -> "GoldenBatches":
        raise AssertionError("the updates of G need no real samples")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("path", oracle_files("sg2_training_steps_*.npz"), ids=lambda path: path.stem)
def test_training_makes_the_golden_steps(path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    golden, tolerance = load(path, dtype), {torch.float64: 1e-6, torch.float32: 5e-4}[dtype]
    G, D = golden_networks.generator(golden), golden_networks.discriminator(golden, GROUP)
    hyper = golden["hyper.lr_gamma_plweight_giv_div_emakimg_ramp"].double().tolist()
    lr, gamma, weight, of_G, of_D, kimg, rampup = (round(value, 7) for value in hyper)
    optimizers = [torch.optim.Adam(net.parameters(), lr=lr, betas=(0.0, 0.99), eps=1e-8) for net in (G, D)]
    state = TrainState(G, D, *optimizers, deepcopy(G).requires_grad_(False))
    noise, z = golden["in.path_noise_unscaled"], golden["in.z"]
    num_steps, shrink = len(z), z.shape[2] // noise.shape[1]
    path_length = PathLength(weight=weight, decay=0.01, batch_shrink=shrink, every=int(of_G))
    path_length.mean = path_length.mean.to(dtype)
    objective = Objective(NonSaturating(), {"r1": R1(gamma=gamma, every=int(of_D)), "path_length": path_length})

    def latents() -> Iterator[Tensor]:
        for i in range(num_steps):
            yield z[i, 0]
            if i % of_G == 0:
                yield z[i, 1]
            yield z[i, 2]

    drawn = latents()
    monkeypatch.setattr("gantrain.regularizers.path_length.own_rows", lambda _, shape: noise[state.step])
    prefixes = {"g": "g", "d": "d", "ema": "g"}
    names = {key: texts(path, f"{key}.parameter_names") for key in "gd"}
    sizes = golden_networks.sizes_of(golden, "g.synth")

    def tensors(key: str) -> dict[str, Tensor]:
        if key == "d":
            return golden_networks.discriminator_tensors(state.D, sizes)
        return golden_networks.generator_tensors(state.G_ema if key == "ema" else state.G, sizes)

    def compare(state: TrainState, logs: Any) -> None:
        i = state.step - 1
        close(logs["loss/generator"], golden["out.g_main_loss"][i], tolerance)
        close(logs["loss/discriminator"], golden["out.d_main_loss"][i], tolerance)
        if i % of_D == 0:
            close(logs["penalty/r1"], gamma / 2 * golden["out.r1_mean_or_minus1"][i], tolerance)
        if i % of_G == 0:
            penalty = golden["out.path_penalty_mean_or_minus1"][i]
            close(logs["penalty/path_length_generator"], weight * penalty, tolerance)
        close(path_length.mean, golden["out.path_mean_after_step"][i], tolerance)
        close(state.G.w_avg, golden["out.w_avg_after_step"][i], tolerance)
        for key, prefix in prefixes.items():
            norms = torch.stack([tensors(key)[name].detach().norm() for name in names[prefix]])
            close(norms, golden[f"out.{key}_parameter_norms_after_step"][i], tolerance)

    train(
        *(state, GoldenBatches(golden["in.real"]), lambda n, device: next(drawn)[:n], objective),
        steps=num_steps,
        n_critic=lambda _: 1,
        seed=0,
        device=CPU,
        first="generator",
        ema=EMA(halflife_images=1000 * kimg, rampup=rampup),
        callbacks=[compare],
    )
    assert next(drawn, None) is None
    assert {golden["out.r1_mean_or_minus1"][i].item() == -1 for i in range(num_steps)} == {True, False}
    assert state.G_ema is not None
    close(state.G(z[0, 0]), golden["out.final_image"], tolerance)
    close(state.G_ema(z[0, 0]), golden["out.final_ema_image"], tolerance)
    close(state.D(golden["in.real"][0]), golden["out.final_logit_of_first_real"], tolerance)
