import pytest
import torch
from torch import Tensor, nn

from gantrain.evaluation.sampling import BLOCK_SIZE, evaluating, sample, sample_blocks
from gantrain.models.latent import Normal

CPU = torch.device("cpu")


class Recorder(nn.Module):
    """A generator that couples samples in training mode, and records its batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.sizes: list[int] = []

    def forward(self, z: Tensor) -> Tensor:
        assert not self.net[1].training
        assert not torch.is_grad_enabled()
        self.sizes.append(len(z))
        samples: Tensor = self.net(z)
        return samples


@pytest.fixture
def G() -> Recorder:
    torch.manual_seed(0)
    return Recorder()


def draw(G: nn.Module, num: int, seed: int = 0) -> Tensor:
    return sample(G, Normal(z_dim=4), num, device=CPU, key=(seed, "sample"))


def test_sample_i_depends_only_on_the_seed_and_i(G: Recorder) -> None:
    many = draw(G, 200)
    torch.manual_seed(99)
    for num in (1, 63, 64, 65, 200):
        torch.testing.assert_close(draw(G, num), many[:num], rtol=0, atol=0)
    assert not torch.equal(draw(G, 64, seed=1), many[:64])
    assert not torch.equal(many[:64], many[64:128])
    assert set(G.sizes) == {BLOCK_SIZE}


def test_blocks_are_generated_lazily(G: Recorder) -> None:
    blocks = sample_blocks(G, Normal(z_dim=4), 130, device=CPU, key=(0, "sample"))
    assert len(next(blocks)) == 64
    assert len(G.sizes) == 1
    assert G.training  # between blocks, the mode of the generator is restored
    assert [len(block) for block in blocks] == [64, 2]


def test_evaluating_restores_each_modules_own_mode(G: Recorder) -> None:
    G.net[1].eval()
    with evaluating(G):
        assert not any(m.training for m in G.modules())
    assert [m.training for m in (G, G.net, G.net[0], G.net[1], G.net[2])] == [True, True, True, False, True]
