"""Noise on real images in training, and on nothing else."""

import pytest
import torch
from composing import composed
from image_runs import CPU, SHAPE, images, make_state
from torch import Tensor, nn
from update_batches import Recorder

from gantrain.assemble import build_dataset, build_objective
from gantrain.combinations import check_data
from gantrain.datasets.batches import make_batches, to_signed
from gantrain.errors import ConfigError
from gantrain.game import Objective
from gantrain.losses.relativistic import Relativistic
from gantrain.models.latent import Normal
from gantrain.regularizers.dequantization import Dequantization
from gantrain.schedules.base import Clock
from gantrain.train import TrainState, train

SCALE = 1 / 128


def test_noise_is_uniform_and_new_at_each_call() -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 3, 50, 50)
    noise = Dequantization(scale=SCALE).perturb_real(x, Clock(0.5, 0)) - x
    assert noise.min() >= -1e-7
    assert noise.max() <= SCALE
    torch.testing.assert_close(noise.mean().item(), SCALE / 2, atol=0, rtol=0.02)
    torch.testing.assert_close(noise.std().item(), SCALE / 12**0.5, atol=0, rtol=0.02)
    assert not torch.equal(noise, Dequantization(scale=SCALE).perturb_real(x, Clock(0.5, 0)) - x)


class Seen(Recorder):
    """A critic of images that keeps its inputs, with a weight to train."""

    def __init__(self) -> None:
        super().__init__(lambda x: x.flatten(1).mean(1) * self.weight)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, labels: None = None) -> Tensor:
        return super().forward(x, labels)


def test_only_real_images_in_updates_get_noise() -> None:
    """Also those in G's update, if its loss needs them; neither generated images nor the data that metrics read."""
    state, D = make_state(), Seen()
    generated: list[Tensor] = []
    state.G.register_forward_hook(lambda *call: generated.append(call[-1].detach()))
    state = TrainState(state.G, D, state.G_optimizer, torch.optim.SGD(D.parameters(), lr=0.1))
    dataset = images()
    batches = make_batches(dataset, batch_size=4, seed=0, device=CPU)
    objective = Objective(Relativistic(), {"dequantization": Dequantization(scale=SCALE)})
    train(state, batches, Normal(z_dim=8), objective, steps=2, n_critic=lambda _: 1, seed=0, device=CPU)

    pixels = to_signed(dataset.images).flatten(1)
    assert len(D.inputs) == len(generated) == 4
    for both, fake in zip(D.inputs, generated, strict=True):
        real, shown = both.split(4)
        assert torch.equal(shown, fake)
        noise = (real.flatten(1)[:, None] - pixels).flatten(2)
        nearest = noise.abs().amax(2).argmin(1)
        noise = noise[torch.arange(4), nearest]
        assert noise.min() >= -1e-6
        assert SCALE / 2 < noise.max() <= SCALE + 1e-6
    assert any(torch.equal(batches[0].x[0], image) for image in to_signed(dataset.images))
    assert batches[0].x.shape == (4, *SHAPE)


@pytest.mark.parametrize("scale", [0.0, -0.1, 1.5, float("nan")])
def test_scale_out_of_range_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=rf"scale={scale}: must be above 0 and at most 1; 0\.0078125"):
        Dequantization(scale=scale)


def test_vectors_are_refused() -> None:
    config = composed("dataset=gaussians_8", "regularizer=[dequantization]")
    message = r"regularizer=\[dequantization\] is for images, but the samples of gaussians_8 are vectors; leave it out"
    with pytest.raises(ConfigError, match=message):
        check_data(config, build_objective(config), build_dataset(config.dataset))
