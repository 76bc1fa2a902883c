"""A metric that worsens after its best."""

from typing_extensions import override

from gantrain.verdicts.base import Finding, Verdict
from gantrain.verdicts.evidence import Evidence, History


class MetricWorsens(Verdict):
    """Look for a metric whose last values are all much worse than its best, by the same protocol.

    Args:
        relative: how much worse, as a fraction of the best value.
        progress: how much worse, as a fraction of the way from the first value to the best; both must be exceeded.
        evaluations: number of the last values that must be so much worse.
    """

    def __init__(self, *, relative: float, progress: float, evaluations: int):
        self.relative, self.progress, self.evaluations = relative, progress, evaluations

    @override
    def __call__(self, evidence: Evidence) -> Finding | None:
        worse = {name: found for name, scores in evidence.scores.items() if (found := self.compare(scores)) is not None}
        if not worse:
            return None
        texts = [
            f"{name} was {best:.4g} at step {step:,} and is now {last:.4g}"
            for name, (step, best, last) in worse.items()
        ]
        return Finding(
            f"The last {self.evaluations} values are much worse than the best: {'; '.join(texts)}.",
            f"take the best checkpoint (checkpoint.best={next(iter(worse))} keeps it), lower the "
            "learning rate over time (schedule=[lr]), or use an EMA (ema_halflife_images=5000).",
        )

    def compare(self, scores: History) -> tuple[int, float, float] | None:
        """Return the step and value of the best score and the last value, if the last values are much worse."""
        sign, values = scores.sign, scores.values
        step, best = max(values, key=lambda item: sign * item[1], default=(0, 0.0))
        last = [value for at, value in values if at > step][-self.evaluations :]
        if len(last) < self.evaluations:
            return None
        margin = max(self.relative * abs(best), self.progress * abs(best - values[0][1]))
        lost = min(sign * (best - value) for value in last)
        return (step, best, last[-1]) if lost > margin else None
