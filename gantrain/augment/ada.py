"""The adaptive discriminator augmentation of StyleGAN2-ADA: random geometric and color operations."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from gantrain.augment import ada_filter
from gantrain.augment import ada_operations as operations_of
from gantrain.augment.ada_operations import COLOR, CORRUPTION, GEOMETRY, NORMAL, UNIFORM, Draws, Open
from gantrain.augment.base import Augment
from gantrain.losses.base import Logits
from gantrain.schedules.base import Clock, Number
from gantrain.seeding import own_rows

OPERATIONS = (*GEOMETRY, *COLOR, "filter", *CORRUPTION)
RANGES = tuple(name for name in OPERATIONS if name not in ("xflip", "rotate90", "lumaflip"))
"""Operations with a range; the others choose among a few fixed changes."""

ADDED = ("filter",)
"""Operations that earlier versions did not have: in a config without them they are off."""

GATES = {
    name: ("rotate_pre", "rotate_post") if name == "rotate" else (name,) for name in OPERATIONS if name not in ADDED
}
"""For each operation, those that are turned on independently: it rotates before and after the anisotropic scaling."""


class ADA(Augment):
    """Apply each of many operations to each image with the probability p: flips, rotations, translations, colors.

    p is either fixed, and a schedule may change it (R3GAN), or adaptive: after every `interval` updates of D it rises
    by a small step if the mean of sign(D(x)) over the real images since the last step, r_t, is above the target, which
    means that D overfits, and falls otherwise. It stays at least 0; above 1 it is not limited, as in the released code.

    Source: Karras 2020 (StyleGAN2-ADA), sections 2.2 and 3, appendix B.

    Args:
        strength: p; if it is adaptive, p at the start.
        target: of r_t (0.6 in the paper); null: p is not adaptive.
        interval: number of updates of D between two steps of p.
        images_to_one: number of images in which p can rise from 0 to 1; a step is that of the images since the last.
        operations: for each operation, its probability as a multiple of p; 0 turns it off. bgc: all of xflip, rotate90,
            xint (translation by whole pixels), scale, rotate, aniso (anisotropic scaling), xfrac (translation by
            fractions), brightness, contrast, lumaflip, hue and saturation; others: filter (changes the gain of each of
            four frequency bands, each with this probability), noise, cutout.
        ranges: how much each operation changes; see conf/augment/ada.yaml.

    Raises:
        ValueError: an option is out of its range, or an operation is unknown or missing.
    """

    needs_images: ClassVar[bool] = True

    def __init__(
        self,
        *,
        strength: float,
        target: float | None,
        interval: int,
        images_to_one: float,
        operations: dict[str, float],
        ranges: dict[str, float],
    ):
        if not 0 <= strength <= 1:
            raise ValueError(f"strength={strength}: this is p, a probability in [0, 1] (0 is usual with a target).")
        if target is not None and not -1 < target < 1:
            raise ValueError(f"target={target}: the mean of a sign must be in (-1, 1) (0.6 in the paper), or null.")
        if interval < 1:
            raise ValueError(f"interval={interval}: must be at least 1 update of D (4 in the paper).")
        if not images_to_one > 0:
            raise ValueError(f"images_to_one={images_to_one}: must be above 0 images (500,000 in the paper).")
        off = tuple(name for name in ADDED if not operations.get(name))
        check_numbers("operations", operations, OPERATIONS, optional=off)
        check_numbers("ranges", ranges, RANGES, optional=off)
        self.target, self.interval, self.images_to_one = target, interval, float(images_to_one)
        self.operations, self.ranges = dict.fromkeys(ADDED, 0.0) | operations, dict(ranges)
        self.adapts = self.reads_signs = target is not None
        self.strength: Number = torch.tensor(float(strength)) if self.adapts else float(strength)
        # Since the last step of p: the sum of the signs, the number of logits, and that of the updates of D.
        self.counts = torch.zeros(3)
        self.sign = torch.zeros(())
        """r_t at the last step of p."""

    def __call__(self, x: Float[Tensor, "n *shape"], clock: Clock) -> Float[Tensor, "n *shape"]:
        """Return the augmented images [n, c, h, w] with 1 or 3 channels.

        Raises:
            ValueError: the samples are not such images, or too small.
        """
        self.check_shape(x.shape[1:])
        self.to(x.device)
        return self.apply(x, *self.draw(x))

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(
                f"augment=[ada] needs images [c, h, w] with 1 or 3 channels, but the samples have the shape "
                f"{list(shape)}; leave it out (augment=[]), or take augment=[diffaugment]."
            )
        if self.uses(("filter",)) and min(shape[1:]) < ada_filter.MIN_SIZE:
            raise ValueError(
                f"augment.ada.operations.filter={self.operations['filter']} needs images of at least "
                f"{ada_filter.MIN_SIZE} x {ada_filter.MIN_SIZE} pixels, because it reflects {ada_filter.MIN_SIZE - 1} "
                f"of them at each edge, but the images have {shape[1]} x {shape[2]}; take larger ones (where the "
                "dataset resizes them: dataset.image_size=32), or augment.ada.operations.filter=0."
            )

    def draw(self, x: Tensor) -> tuple[Draws, Open]:
        """Draw the random numbers of all operations, and to which images they apply."""
        uniform, normal = (
            partial(torch.rand, dtype=x.dtype, device=x.device),
            partial(torch.randn, dtype=x.dtype, device=x.device),
        )
        draws = split(own_rows(uniform, [len(x), sum(UNIFORM.values())]), UNIFORM)
        draws |= split(own_rows(normal, [len(x), sum(NORMAL.values())]), NORMAL)
        names = {gate: name for name, gates in GATES.items() for gate in gates}
        u = own_rows(uniform, [len(x), len(names)])
        p = {name: self.probability(name) for name in OPERATIONS}
        is_open = {gate: u[:, i] < p[name] for i, (gate, name) in enumerate(names.items())}
        if self.uses(("filter",)):
            # After all others: without it, the draws are those of the versions that did not have it.
            draws["filter"] = own_rows(normal, [len(x), ada_filter.NUM_BANDS])
            is_open["filter"] = own_rows(uniform, [len(x), ada_filter.NUM_BANDS]) < p["filter"]
        return draws, is_open

    def probability(self, name: str) -> Number:
        """Return the probability with which an operation is applied at one of its places.

        The two rotations together have the probability p, so each has 1 - sqrt(1 - p).
        """
        p = self.strength * self.operations[name]
        if name != "rotate":
            return p
        return 1 - (1 - p).clamp(min=0) ** 0.5 if isinstance(p, Tensor) else 1 - max(1 - p, 0.0) ** 0.5

    def apply(self, x: Float[Tensor, "n c h w"], draws: Draws, is_open: Open) -> Float[Tensor, "n c h w"]:
        """Apply the operations with given random numbers; a kind of operation that is turned off costs nothing."""
        if self.uses(GEOMETRY):
            x = operations_of.change_geometry(x, draws, is_open, self.ranges)
        if self.uses(COLOR):
            x = operations_of.change_color(x, draws, is_open, self.ranges)
        if self.uses(("filter",)):
            x = ada_filter.change_bands(x, draws, is_open, self.ranges)
        if self.uses(("noise",)):
            noise = own_rows(partial(torch.randn, dtype=x.dtype, device=x.device), x.shape)
            x = operations_of.add_noise(x, draws, is_open, self.ranges, noise)
        if self.uses(("cutout",)):
            x = operations_of.cut_out(x, draws, is_open, self.ranges)
        return x

    def uses(self, names: tuple[str, ...]) -> bool:
        """Return whether any of the operations is turned on."""
        return any(self.operations[name] > 0 for name in names)

    @override
    def observes(self) -> bool:
        return self.adapts

    @torch.no_grad()
    @override
    def observe(self, real_logits: Logits) -> None:
        """Count the signs of the logits, and change p if the interval is over.

        Source: Karras 2020 (StyleGAN2-ADA), section 3, equation 2 (r_t).
        """
        if self.target is None:
            return
        self.to(real_logits.device)
        assert isinstance(self.strength, Tensor)
        ones = torch.ones_like(real_logits)
        self.counts += torch.stack([real_logits.sign().sum(), ones.sum(), ones[0]]).to(self.counts)
        total, num, updates = self.counts.unbind()
        is_due = updates >= self.interval
        sign = total / num
        stepped = (self.strength + (sign - self.target).sign() * num / self.images_to_one).clamp(min=0)
        self.strength.copy_(torch.where(is_due, stepped, self.strength))
        self.sign.copy_(torch.where(is_due, sign, self.sign))
        self.counts.copy_(torch.where(is_due, 0.0, self.counts))

    def to(self, device: torch.device) -> None:
        """Move the state to a device; in a captured update it is there already."""
        if self.counts.device != device:
            self.counts, self.sign = self.counts.to(device), self.sign.to(device)
        if isinstance(self.strength, Tensor) and self.strength.device != device:
            self.strength = self.strength.to(device)

    def logs(self) -> dict[str, Tensor | float]:
        """Return p and, if it is adaptive, r_t."""
        return {"p": self.strength, "r_t": self.sign} if self.adapts else {"p": self.strength}

    def state_dict(self) -> dict[str, Any]:
        """Return p, r_t, and what has been counted since the last step of p; nothing if p is not adaptive."""
        return {"p": self.strength, "r_t": self.sign, "counts": self.counts} if self.adapts else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state in place; an empty state, from a run without ADA, is ignored."""
        if state and isinstance(self.strength, Tensor):
            self.strength.copy_(state["p"])
            self.sign.copy_(state["r_t"])
            self.counts.copy_(state["counts"])


def split(x: Float[Tensor, "n total"], sizes: Mapping[str, int]) -> Draws:
    """Split columns into groups, by name."""
    return dict(zip(sizes, torch.split_with_sizes(x, list(sizes.values()), dim=1), strict=True))


def check_numbers(
    option: str, values: Mapping[str, float], names: tuple[str, ...], *, optional: tuple[str, ...]
) -> None:
    """Check that exactly the names have a number of at least 0; the optional ones may be missing.

    Raises:
        ValueError: they do not.
    """
    if wrong := sorted(({*values} ^ {*names}) - {*optional}):
        raise ValueError(f"{option}: {', '.join(wrong)}: there must be a number for each of {', '.join(names)}.")
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{option}.{name}={value}: must be a number of at least 0; see conf/augment/ada.yaml.")
