"""Evidence is computed from fixed samples, and changes nothing in the training."""

import copy
import math

import numpy as np
import pytest
import torch
from making import CPU, images, make_evidence
from torch import Tensor, nn

from gantrain.augment.base import Augment
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import Batch
from gantrain.datasets.holdout import hold_out
from gantrain.datasets.toys import gaussian
from gantrain.engine.batch_norm import synchronize_batch_norm
from gantrain.models.dcgan import Discriminator
from gantrain.models.latent import Normal
from gantrain.models.packing import pack
from gantrain.schedules.base import Clock
from gantrain.seeding import own_rows
from gantrain.verdicts.reference import NUM_SAMPLES, Reference, thumbnails


def discriminator(norm: str = "batch", channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, stride=2),
        nn.BatchNorm2d(4) if norm == "batch" else nn.Identity(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(36, 1),
        nn.Flatten(0),
    )


def test_logits_are_those_of_training_without_dropout_and_change_nothing() -> None:
    D = discriminator()
    x = torch.randn(100, 1, 8, 8)
    D(x)  # running statistics that differ from those of the batch
    evidence = make_evidence(D=D)
    state, random = copy.deepcopy(D.state_dict()), torch.get_rng_state()
    logits = evidence.logits(Batch(x))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in D.state_dict().items())
    assert all(module.training for module in D.modules())
    assert all(parameter.grad is None for parameter in D.parameters())
    reference = copy.deepcopy(D)
    reference[2].p = 0.0
    torch.testing.assert_close(logits, torch.cat([reference(part) for part in x.split(50)]).detach())


class Shift(Augment):
    """Adds the number of images that the clock counts, and then a random number to each sample."""

    def __call__(self, x: Tensor, clock: Clock) -> Tensor:
        return x + clock.images + own_rows(torch.rand, [len(x)])[:, None]


class Double(Augment):
    def __call__(self, x: Tensor, clock: Clock) -> Tensor:
        return 2 * x


def test_samples_are_augmented_as_in_the_training() -> None:
    """In the order of the config, by the clock, with the same random numbers at every reading of a step."""
    D = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten(0))
    D[0].weight.data = torch.tensor([[1.0, 0.0]])
    x = torch.arange(20.0).view(10, 2)
    evidence = make_evidence(D=D, augment={"shift": Shift(), "double": Double()})
    random = torch.get_rng_state()
    logits = evidence.logits(Batch(x))
    noise = logits / 2 - 1000 - x[:, 0]
    assert 0 < noise.min() < noise.max() < 1
    assert len(noise.unique()) == 10
    torch.testing.assert_close(evidence.logits(Batch(x)), logits)
    assert torch.equal(torch.get_rng_state(), random)
    later = make_evidence(D=D, augment={"shift": Shift()}, step=5001).logits(Batch(x))
    assert not torch.isclose(later - 1000 - x[:, 0], noise, atol=1e-3).any()


def test_synchronized_batch_norm_does_not_communicate() -> None:
    """Only rank 0 computes evidence, so a collective operation would wait forever (or fail, without a group)."""
    D = discriminator()
    x = torch.randn(20, 1, 8, 8)
    before = make_evidence(D=D).logits(Batch(x))
    synchronize_batch_norm(D)
    torch.testing.assert_close(make_evidence(D=D).logits(Batch(x)), before)


def test_logits_of_packs() -> None:
    D = pack(lambda shape: discriminator("none", shape[0]), (1, 8, 8), 3)
    x = torch.randn(100, 1, 8, 8)
    D.eval()
    expected = D(x[:99]).detach()
    D.train()
    torch.testing.assert_close(make_evidence(D=D).logits(Batch(x)), expected)


def test_blocks_have_no_remainder_of_one_sample() -> None:
    D = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1), nn.Flatten(0))
    assert len(make_evidence(D=D).logits(Batch(torch.randn(65, 2)))) == 65


def test_power_iteration_of_spectral_norm_is_not_advanced() -> None:
    options = {"activation": "leaky_relu", "slope": 0.2, "bias": "all", "init": "dcgan"}
    D = Discriminator((1, 16, 16), width=4, norm="spectral", **options)
    before = copy.deepcopy(D.state_dict())
    make_evidence(D=D).logits(Batch(torch.randn(70, 1, 16, 16)))
    assert all(torch.equal(value, before[name]) for name, value in D.state_dict().items())


def test_samples_are_always_the_same() -> None:
    first, second = (Reference(images(300), Normal(z_dim=2), seed=3, device=CPU) for _ in range(2))
    G = nn.Linear(2, 5)
    assert torch.equal(first.generated(G).x, second.generated(G).x)
    assert len(first.generated(G).x) == NUM_SAMPLES
    assert torch.equal(first.real.x, second.real.x)
    assert first.held_out is None


def test_real_samples_are_training_and_held_out_images() -> None:
    data = hold_out(images(300), 0.5)
    assert isinstance(data, ImageDataset)
    assert data.held_out is not None
    reference = Reference(data, Normal(z_dim=2), seed=0, device=CPU)
    assert reference.held_out is not None
    for samples, part in ((reference.real, data), (reference.held_out, data.held_out)):
        pixels = ((samples.x + 1) * 127.5).round().byte().flatten(1)
        distances = torch.cdist(pixels.float(), part.images.flatten(1).float())
        assert distances.min(1).values.max() == 0
        assert len(pixels) == NUM_SAMPLES


def test_labels_have_the_frequencies_of_the_data() -> None:
    data = images(50)
    data.labels = torch.arange(50) % 3
    reference = Reference(data, Normal(z_dim=2), seed=0, device=CPU, class_counts=[0, 5, 0])
    assert reference.labels is not None
    assert (reference.labels == 1).all()
    assert reference.real.y is not None
    pixels = ((reference.real.x + 1) * 127.5).round().byte()
    for image, label in zip(pixels, reference.real.y, strict=True):
        assert label in data.labels[(data.images == image).flatten(1).all(1)]


def test_thumbnails_are_means_over_areas() -> None:
    x = torch.randn(3, 2, 64, 32)
    expected = np.stack([x.numpy()[:, :, i::4, j::2] for i in range(4) for j in range(2)]).mean(0)
    np.testing.assert_allclose(thumbnails(x), expected.reshape(3, -1), rtol=1e-5, atol=1e-6)
    small, vectors = torch.randn(3, 1, 8, 8), torch.randn(3, 2)
    assert torch.equal(thumbnails(small), small.flatten(1))
    assert torch.equal(thumbnails(vectors), vectors)


@pytest.mark.parametrize("mirrored", [False, True])
def test_neighbors_are_those_of_a_search_in_float64(mirrored: bool) -> None:
    data = images(50, channels=3)
    reference = Reference(data, Normal(z_dim=2), seed=0, device=CPU, mirrored=mirrored)
    all_images = data.images.double() / 127.5 - 1
    bank = torch.cat([all_images, all_images.flip(-1)] if mirrored else [all_images]).flatten(1)

    def nearest(queries: Tensor, *, without: float) -> Tensor:
        differences = (queries[:, None] - bank[None]).square().sum(2).sqrt()
        differences[differences <= without] = math.inf
        return differences.sort(1).values[:, :2]

    own = reference.neighbors_of_training
    assert own is not None
    expected = nearest(bank, without=0.0)
    for i, found in enumerate(own):
        torch.testing.assert_close(found.sort().values, expected[:, i].float().sort().values, rtol=1e-3, atol=1e-3)
    queries = torch.randn(5, 192)
    other = reference.neighbors(queries)
    assert other is not None
    torch.testing.assert_close(torch.stack(other, 1).double(), nearest(queries.double(), without=-1), rtol=1e-4, atol=0)


def test_neighbors_need_three_images() -> None:
    for data in (images(2), gaussian(mean=0.0, std=1.0)):
        reference = Reference(data, Normal(z_dim=2), seed=0, device=CPU)
        assert reference.neighbors_of_training is None
        assert reference.neighbors(torch.zeros(1, 64)) is None
