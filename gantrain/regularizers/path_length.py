"""StyleGAN2's path length regularization, which makes a step in W change the image by a fixed amount."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.losses.base import Scalar
from gantrain.models.interface import takes_labels
from gantrain.regularizers.base import Draw, Regularizer, UpdateBatch, check_every
from gantrain.regularizers.input_gradient import TwiceDifferentiable
from gantrain.schedules.base import Number
from gantrain.seeding import own_rows, whole_batch


class PathLength(Regularizer):
    """Pull the length of G's Jacobian with respect to the styles, in a random direction of the image, to its mean.

    The mean is an exponential moving average, over the batches of all processes.

    Source: Karras 2020 (StyleGAN2), section 3.2, equation 4; the numbers: appendix B and released code. As there, the
        penalty is also differentiated through the mean.

    Args:
        weight: weight of the penalty.
        decay: weight of the current batch in the mean, in (0, 1].
        batch_shrink: the penalty is computed on this fraction of a batch, to save memory.
        every: see Regularizer.

    Attributes:
        mean: the mean path length.

    Raises:
        ValueError: an option is out of its range.
    """

    couples_samples: ClassVar[bool] = True
    schedulable: ClassVar[tuple[str, ...]] = ("weight",)
    needs_images: ClassVar[bool] = True
    needs_styles: ClassVar[bool] = True

    def __init__(self, *, weight: float, decay: float, batch_shrink: int, every: int):
        if weight < 0:
            raise ValueError(f"weight={weight}: the weight of the path length must be at least 0 (2 is usual).")
        if not 0 < decay <= 1:
            raise ValueError(f"decay={decay}: the weight of a batch in the mean must be in (0, 1] (0.01 is usual).")
        if batch_shrink < 1:
            raise ValueError(f"batch_shrink={batch_shrink}: must be at least 1 (2: half of the batch).")
        self.weight: Number = weight
        self.decay, self.batch_shrink = decay, batch_shrink
        self.every = check_every(every)
        self.mean = torch.zeros(())

    def generator_penalty(self, G: Callable[..., Tensor], draw: Draw, batch: UpdateBatch) -> Scalar:
        """Return weight * E[(length - mean)^2]."""
        z, y = draw(max(1, batch.num_fake // self.batch_shrink))
        network = cast(Any, G)
        styles = network.styles(z, y) if takes_labels(G) else network.styles(z)
        lengths = path_lengths(network.synthesize, styles)
        self.mean = self.mean.to(lengths)  # moves it to the device in the first update, which is not captured
        mean = self.mean.lerp(whole_batch(lengths).mean(), self.decay)
        self.mean.copy_(mean.detach())
        return self.weight * (lengths - mean).square().mean()

    def state_dict(self) -> dict[str, Any]:
        """Return the mean."""
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the mean in place; an empty state, from a run without this regularizer, is ignored."""
        if state:
            self.mean.copy_(state["mean"])


def path_lengths(
    synthesize: Callable[[Tensor], Float[Tensor, "n c h w"]], styles: Float[Tensor, "n num_styles w_dim"]
) -> Float[Tensor, " n"]:
    """Return the norm of the gradient of <image, noise> with respect to each image's styles, as a root mean over them.

    The noise is normal, divided by the root of the number of pixels, so that lengths do not depend on the image size.
    """
    with TwiceDifferentiable() as operations:
        images = synthesize(styles)
        draw = partial(torch.randn, dtype=images.dtype, device=images.device)
        noise = own_rows(draw, images.shape) / math.sqrt(images.shape[2] * images.shape[3])
        total = (images * noise).sum()
    with operations.inputs_only():
        (gradient,) = torch.autograd.grad(total, styles, create_graph=True)
    lengths: Tensor = gradient.square().sum(2).mean(1).sqrt()
    return lengths
