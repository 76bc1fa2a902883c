"""The reconstruction loss, of images and of quarters of them."""

import pytest
import torch
from torch import Tensor
from update_batches import batch_of

from gantrain.regularizers.base import Auxiliary
from gantrain.regularizers.reconstruction import Reconstruction


def test_reconstructions_are_compared_with_the_nearest_pixels_of_the_images() -> None:
    real = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    made = torch.rand(3, 1, 8, 8, dtype=torch.float64)  # larger than the image
    part = torch.rand(3, 1, 1, 1, dtype=torch.float64)  # smaller than the quarter
    quarter = torch.tensor([0, 3, 1])

    def penalty(**outputs: Tensor) -> float:
        batch = batch_of(real, real, aux_of=lambda logits: Auxiliary(outputs))
        return float(Reconstruction(weight=0.5).discriminator_penalty(lambda x, y: x, batch))

    doubled = real.repeat_interleave(2, 2).repeat_interleave(2, 3)
    whole = float((made - doubled).square().mean())
    assert penalty(reconstruction=made) == pytest.approx(0.5 * whole)
    assert penalty(reconstruction=doubled) == 0
    corners = torch.stack([real[0, 0, 0, 0], real[1, 0, 2, 2], real[2, 0, 0, 2]])
    of_part = float((part.flatten() - corners).square().mean())
    assert penalty(reconstruction=made, part=part, quarter=quarter) == pytest.approx(0.5 * (whole + of_part))


def test_only_the_reconstructions_of_real_images_have_a_gradient() -> None:
    real, fake = torch.rand(2, 3, 1, 4, 4).unbind()
    outputs = {float(x.sum()): torch.rand(3, 1, 4, 4, requires_grad=True) for x in (real, fake)}
    batch = batch_of(
        real,
        fake,
        lambda x, labels: x.flatten(1).sum(1),
        aux_of=lambda logits: {"reconstruction": min(outputs.items(), key=lambda kv: abs(kv[0] - logits.sum()))[1]},
    )
    Reconstruction(weight=1.0).discriminator_penalty(lambda x, y: x, batch).backward()
    of_real, of_fake = outputs.values()
    torch.testing.assert_close(of_real.grad, 2 * (of_real.detach() - real) / real.numel())
    assert of_fake.grad is None


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight=-1.0.*at least 0"):
        Reconstruction(weight=-1.0)
