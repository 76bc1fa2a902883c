"""Log the overfitting heuristic r_v of adaptive augmentation, on held-out images."""

from typing_extensions import override

from gantrain.callbacks.base import Callback, is_regular_record
from gantrain.evaluation.critic import overfitting_ratio
from gantrain.seeding import unsharded
from gantrain.session.run import Run
from gantrain.train import TrainState
from gantrain.updates import Logs
from gantrain.verdicts.evidence import Evidence
from gantrain.verdicts.reference import Reference


class Overfitting(Callback):
    """Log r_v beside p and r_t, if the augmentation ada adapts its strength and images are held out.

    r_v compares D's logits of held-out images with those of training images and of samples, always the same ones. It
    controls nothing.

    Source: Karras 2020 (StyleGAN2-ADA), section 3, equation 1 (r_v).

    Args:
        every: interval in steps; it is also logged at the last step.
    """

    order = -1
    tags = ("augment/ada/r_v",)

    def __init__(self, *, every: int):
        if every < 1:
            raise ValueError(f"every={every}: must be at least 1.")
        self.every = every

    @override
    def start(self, run: Run) -> None:
        augment = run.objective.augment.get("ada")
        self.applies = augment is not None and augment.adapts and run.dataset.held_out is not None
        self.reference = Reference(
            run.dataset, run.latent, seed=run.config.seed, device=run.device, class_counts=run.class_counts
        )

    @override
    def survives_rewind(self, step: int) -> bool:
        return is_regular_record(self.run, step) or self.was_due(step)

    @override
    def __call__(self, state: TrainState, logs: Logs) -> None:
        if not self.applies or not (self.is_due(state.step) or state.step == self.run.steps):
            return
        evidence = Evidence(state, self.reference, self.run.objective, clock=self.run.clock)
        with unsharded():  # only rank 0 is here
            held_out = evidence.held_out_logits
            assert held_out is not None
            logs[self.tags[0]] = overfitting_ratio(evidence.real_logits, held_out, evidence.fake_logits)
