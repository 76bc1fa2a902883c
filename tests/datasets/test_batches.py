import math
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from scipy import stats

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import (
    Batch,
    Batches,
    FreshBatches,
    ImageBatches,
    Prefetcher,
    joined_batches,
    make_batches,
    to_bytes,
    to_device,
    to_signed,
)
from gantrain.datasets.toys import gaussian, gaussians_8

CPU = torch.device("cpu")
# (images, batch size): divisible, not divisible, equal, and datasets smaller than a batch.
SIZES = [(12, 4), (10, 4), (7, 3), (5, 5), (5, 7), (3, 20), (1, 4)]


def numbered(num_images: int) -> ImageDataset:
    """Image i is filled with the number i."""
    images = torch.arange(num_images, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    return ImageDataset("numbered", images, labels=None, num_classes=None, fingerprint="f")


def batches_of(num_images: int, batch_size: int, *, seed: int = 0) -> ImageBatches:
    return ImageBatches(numbered(num_images), batch_size=batch_size, seed=seed, device=CPU)


@pytest.mark.parametrize(("num_images", "batch_size"), SIZES)
def test_every_image_is_seen_once_per_epoch(num_images: int, batch_size: int) -> None:
    batches = batches_of(num_images, batch_size)
    num_epochs = 6
    indices = torch.cat([batches.indices(i) for i in range(math.ceil(num_epochs * num_images / batch_size))])
    for epoch in indices[: num_epochs * num_images].view(num_epochs, num_images):
        assert sorted(epoch.tolist()) == list(range(num_images))


@pytest.mark.parametrize(("num_images", "batch_size"), SIZES)
def test_batch_i_does_not_depend_on_the_batches_read_before(num_images: int, batch_size: int) -> None:
    forwards = batches_of(num_images, batch_size)
    expected = {i: forwards[i] for i in range(20)}
    for i in (19, 0, 7, 7, 3, 18, 1):
        torch.testing.assert_close(batches_of(num_images, batch_size)[i], expected[i], atol=0, rtol=0)
    backwards = batches_of(num_images, batch_size)
    for i in reversed(range(20)):
        torch.testing.assert_close(backwards[i], expected[i], atol=0, rtol=0)


def test_batches_do_not_change_the_global_random_generator() -> None:
    torch.manual_seed(0)
    first = batches_of(50, 8)[3]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    torch.testing.assert_close(batches_of(50, 8)[3], first, atol=0, rtol=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_and_seed_has_its_own_order() -> None:
    batches = batches_of(50, 50)
    orders = [batches.indices(0), batches.indices(1), batches_of(50, 50, seed=1).indices(0)]
    for i, order in enumerate(orders):
        assert not torch.equal(order, torch.arange(50))
        assert not any(torch.equal(order, other) for other in orders[:i])


def test_every_image_is_equally_likely_at_every_position() -> None:
    first = torch.stack([batches_of(5, 5, seed=seed).indices(0) for seed in range(2000)])
    for position in first.T:
        counts = torch.bincount(position, minlength=5)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize(("num_images", "batch_size"), SIZES)
def test_batches_are_full_and_hold_the_images_of_their_indices(num_images: int, batch_size: int) -> None:
    batches = batches_of(num_images, batch_size)
    for i in range(10):
        batch = batches[i].x
        assert batch.shape == (batch_size, 1, 2, 2)
        expected = batches.indices(i).float()[:, None, None, None].expand(-1, 1, 2, 2) / 127.5 - 1
        torch.testing.assert_close(batch, expected)


def test_changing_a_batch_does_not_change_the_dataset() -> None:
    dataset = numbered(10)
    before = dataset.images.clone()
    batches = ImageBatches(dataset, batch_size=10, seed=0, device=CPU)
    batches[0].x.zero_()
    assert torch.equal(dataset.images, before)
    assert batches[0].x.unique().numel() == 10


def test_all_256_values_survive_the_round_trip() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    signed = to_signed(values)
    assert signed.dtype == torch.float32
    torch.testing.assert_close(signed.double(), torch.linspace(-1, 1, 256, dtype=torch.float64), atol=2e-7, rtol=0)
    assert torch.equal(to_bytes(signed), values)


def test_signed_images_span_exactly_minus_1_to_1() -> None:
    assert to_signed(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_bytes_are_rounded_to_the_nearest_and_clipped() -> None:
    images = torch.tensor([-7.0, -1.001, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 1 - 0.4 / 127.5, 1.001, 7.0])
    before = images.clone()
    assert to_bytes(images).tolist() == [0, 0, 0, 1, 255, 255, 255]
    assert torch.equal(images, before)


def drawn(num_images: int) -> ImageDataset:
    pixels = torch.randint(0, 256, (num_images, 3, 4, 6), generator=torch.Generator().manual_seed(0)).byte()
    return ImageDataset("noise", pixels, labels=None, num_classes=None, fingerprint="f")


@pytest.mark.parametrize(("num_images", "batch_size"), [(200, 64), (30, 64)])
def test_images_are_mirrored_with_probability_one_half(num_images: int, batch_size: int) -> None:
    dataset = drawn(num_images)
    plain = ImageBatches(dataset, batch_size=batch_size, seed=0, device=CPU)
    mirrored = ImageBatches(dataset, batch_size=batch_size, seed=0, device=CPU, mirror=True)
    flipped = []
    for i in range(40):
        for image, served in zip(plain[i].x.numpy(), mirrored[i].x.numpy(), strict=True):
            is_same = (image == served).all()
            assert is_same or (image[:, :, ::-1] == served).all()
            flipped.append(not is_same)
    assert stats.binomtest(sum(flipped), len(flipped)).pvalue > 1e-3
    epochs = [flipped[k * num_images : (k + 1) * num_images] for k in range(len(flipped) // num_images)]
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_mirrored_batches_do_not_depend_on_order_prefetching_or_sharding() -> None:
    def batches(**options: Any) -> ImageBatches:
        return ImageBatches(drawn(50), batch_size=8, device=CPU, mirror=True, **{"seed": 0} | options)

    expected = [batches()[i].x for i in range(20)]
    backwards, ahead = batches(), Prefetcher(batches())
    shares = [batches(rows=slice(0, 3)), batches(rows=slice(3, 8))]
    for i in reversed(range(20)):
        assert torch.equal(backwards[i].x, expected[i])
        assert torch.equal(ahead[i].x, expected[i])
        assert torch.equal(torch.cat([share[i].x for share in shares]), expected[i])
    assert not torch.equal(batches(seed=1)[0].x, expected[0])


def test_a_tensor_on_the_device_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only host memory can be pinned; with resident images the mirror flags are on the device as well."""
    pinned: list[torch.device] = []

    def pin(x: torch.Tensor) -> torch.Tensor:
        pinned.append(x.device)
        return x

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, **_: x)
    cuda = torch.device("cuda")
    x = torch.zeros(3, device="meta")
    assert to_device(x, cuda) is x
    assert to_device(torch.zeros(3), CPU).device == CPU
    assert not pinned
    to_device(torch.zeros(3), cuda)
    assert pinned == [CPU]


def test_fresh_batches_are_a_function_of_seed_and_number() -> None:
    def fresh(seed: int) -> FreshBatches:
        return FreshBatches(gaussians_8(radius=2.0, std=0.02, scale=1.414), batch_size=6, seed=seed, device=CPU)

    batch = fresh(0)[5].x
    assert batch.shape == (6, 2)
    assert batch.dtype == torch.float32
    torch.testing.assert_close(fresh(0)[5].x, batch, atol=0, rtol=0)
    assert not torch.equal(fresh(0)[6].x, batch)
    assert not torch.equal(fresh(1)[5].x, batch)


def test_fresh_batches_follow_the_distribution() -> None:
    batches = FreshBatches(gaussian(mean=3.0, std=2.0), batch_size=100, seed=0, device=CPU)
    samples = torch.cat([batches[i].x for i in range(50)])
    assert stats.kstest(samples.flatten().numpy(), "norm", (3.0, 2.0)).pvalue > 1e-3


def test_make_batches_chooses_the_type_by_dataset() -> None:
    images = make_batches(numbered(10), batch_size=4, seed=0, device=CPU)
    vectors = make_batches(gaussian(mean=0.0, std=1.0), batch_size=4, seed=0, device=CPU)
    assert isinstance(images, ImageBatches)
    assert isinstance(vectors, FreshBatches)
    for batches in (images, vectors):
        assert isinstance(batches, Batches)
        assert len(batches[0].x) == batches.batch_size == 4


def labelled(num_images: int) -> ImageDataset:
    """Image i is filled with the number i, which is also its label."""
    dataset = numbered(num_images)
    return ImageDataset("labelled", dataset.images, torch.arange(num_images), num_classes=num_images, fingerprint="f")


def all_of(batch: Batch) -> torch.Tensor:
    """Concatenate pixels and labels, to compare both at once."""
    assert batch.y is not None
    return torch.cat([batch.x.flatten(1), batch.y[:, None]], dim=1)


@pytest.mark.parametrize(("num_images", "batch_size"), SIZES)
def test_labels_stay_with_their_images(num_images: int, batch_size: int) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "seed": 0, "device": CPU, "mirror": True, "labels": True}
    batches = ImageBatches(labelled(num_images), **options)
    ahead, resident = Prefetcher(batches), ImageBatches(labelled(num_images), **options, resident=True)
    shares = [ImageBatches(labelled(num_images), **options, rows=rows) for rows in (slice(0, 1), slice(1, None))]
    for i in range(10):
        batch = batches[i]
        assert batch.y is not None
        assert batch.y.dtype == torch.int64
        assert torch.equal(to_bytes(batch.x)[:, 0, 0, 0].long(), batch.y)
        for other in (ahead[i], resident[i]):
            assert torch.equal(all_of(other), all_of(batch))
        assert torch.equal(torch.cat([all_of(share[i]) for share in shares]), all_of(batch))


def test_labels_are_left_out_unless_asked_for() -> None:
    batches = ImageBatches(labelled(5), batch_size=2, seed=0, device=CPU)
    for served in (
        batches,
        Prefetcher(batches),
        FreshBatches(gaussian(mean=0, std=1), batch_size=2, seed=0, device=CPU),
    ):
        assert served[0].y is None


def test_for_generator_gives_another_order() -> None:
    images = ImageBatches(labelled(50), batch_size=8, seed=0, device=CPU, mirror=True, labels=True)
    vectors = FreshBatches(gaussian(mean=0.0, std=1.0), batch_size=8, seed=0, device=CPU)
    served: tuple[Batches, ...] = (images, Prefetcher(images), vectors)
    for batches in served:
        before = [batches[i].x for i in range(8)]
        others, again = batches.for_generator(), batches.for_generator()
        assert others.batch_size == 8
        for i in reversed(range(8)):
            assert torch.equal(others[i].x, again[i].x)
            assert not any(torch.equal(others[i].x, x) for x in before)
            assert torch.equal(batches[i].x, before[i])
    # Its batches are also a permutation of all images.
    indices = torch.cat([images.for_generator().indices(i) for i in range(7)])[:50]
    assert sorted(indices.tolist()) == list(range(50))


def test_joined_batches_are_consecutive() -> None:
    batches = ImageBatches(labelled(50), batch_size=4, seed=0, device=CPU, labels=True)
    assert torch.equal(all_of(joined_batches(batches, 3, num=1)), all_of(batches[3]))
    expected = torch.cat([all_of(batches[i]) for i in (6, 7, 8)])
    assert torch.equal(all_of(joined_batches(batches, 2, num=3)), expected)
    vectors = FreshBatches(gaussian(mean=0.0, std=1.0), batch_size=4, seed=0, device=CPU)
    joined = joined_batches(vectors, 1, num=2)
    assert torch.equal(joined.x, torch.cat([vectors[2].x, vectors[3].x]))
    assert joined.y is None


def test_images_must_be_uint8() -> None:
    with pytest.raises(TypeCheckError):
        ImageDataset("floats", torch.rand(4, 1, 2, 2), labels=None, num_classes=None, fingerprint="f")
