"""The classification losses of ACGAN."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from gantrain.datasets.labels import Labels
from gantrain.losses.base import Scalar
from gantrain.regularizers.base import Auxiliary, Critic, Draw, Regularizer, UpdateBatch
from gantrain.schedules.base import Number


class AuxiliaryClassifier(Regularizer):
    """Train D to classify real samples, and G to generate samples that D assigns to the class of their label.

    The paper also trains D to classify generated samples. That lowers their diversity, because both players gain from
    samples that are easy to classify. So here, as in the released code of WGAN-GP, D classifies real samples only.

    Source: Odena 2017, equation 3 (L_C); weights and terms as in Gulrajani 2017 (released code for CIFAR-10).

    Args:
        weight_real: weight of the cross entropy of real samples in D's loss.
        weight_generator: weight of the cross entropy of generated samples in G's loss.

    Raises:
        ValueError: a weight is negative; in the penalties: D returns no class logits, or there are no labels.

    Attributes:
        needs_classifier: whether D must have the attribute `num_aux_classes`; checked before the first step.
    """

    needs_classifier: ClassVar[bool] = True
    schedulable: ClassVar[tuple[str, ...]] = ("weight_real", "weight_generator")

    def __init__(self, *, weight_real: float, weight_generator: float):
        for name, weight, usual in (("weight_real", weight_real, 1), ("weight_generator", weight_generator, 0.1)):
            if weight < 0:
                raise ValueError(f"{name}={weight}: the weight of a loss must be at least 0 ({usual} is usual).")
        self.weight_real: Number = weight_real
        self.weight_generator: Number = weight_generator

    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> Scalar:
        """Return weight_real * E[-log p(c = y | x)] over the real samples."""
        return self.weight_real * _classification_loss(batch.real_aux, batch.labels)

    def generator_penalty(self, G: Callable[..., Tensor], draw: Draw, batch: UpdateBatch) -> Scalar:
        """Return weight_generator * E[-log p(c = y | G(z, y))]."""
        return self.weight_generator * _classification_loss(batch.fake_aux, batch.fake_labels)


def _classification_loss(aux: Auxiliary, labels: Labels) -> Scalar:
    if "class_logits" not in aux:
        raise ValueError(
            "regularizer=auxiliary_classifier: the discriminator returns no class_logits; use network=acgan, or leave "
            "the regularizer out."
        )
    if labels is None:
        raise ValueError(
            "regularizer=auxiliary_classifier: the samples have no labels; use a dataset with labels and a "
            "generator that takes them (network=acgan)."
        )
    return cross_entropy(aux["class_logits"], labels)
