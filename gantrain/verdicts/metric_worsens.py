"""A metric that worsens after its best."""

from typing_extensions import override

from gantrain.verdicts.base import Finding, Verdict
from gantrain.verdicts.evidence import Evidence, History


class MetricWorsens(Verdict):
    """Look for a metric whose last values are all much worse than its best, by the same protocol.

    Scores where lower is better are distances or errors. They are compared as ratios, above the score of real images.
    The error of a mean or of a standard deviation of vectors crosses 0 while it still swings around it, and then its
    best value is chance: it must also lose a large part of what was gained since the first value.

    Args:
        ratio: at least 1; where lower is better, how many times as far above the score of real images as the best (or
            as 0, if that score is not known or negative) a value is much worse.
        gain: in [0, 1], and by which fraction of the difference between the first and the best value it must be worse,
            so that noise of small values does not count.
        gain_alone: in [0, 1], the same for vectors, and where the score of real images is not known.
        drop: above 0; where higher is better, how much below the best a value is much worse, as a fraction of the best,
            or of 1 if the best is below 1, as shares are.
        evaluations: number of the last values that must all be so much worse.
    """

    def __init__(self, *, ratio: float, gain: float, gain_alone: float, drop: float, evaluations: int):
        self.ratio, self.gain, self.gain_alone = ratio, gain, gain_alone
        self.drop, self.evaluations = drop, evaluations

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
        first = values[0][1]
        found = all(self.is_much_worse(x, best, first=first, sign=sign, real=scores.real) for x in last)
        return (step, best, last[-1]) if found else None

    def is_much_worse(self, value: float, best: float, *, first: float, sign: int, real: float | None) -> bool:
        """Return whether a score is much worse than the best; the message at the end of a run asks it too.

        Args:
            first: the first value by the same protocol.
            sign: 1 if higher is better, -1 if lower is better.
            real: the score of real images; None: not known, or vectors.
        """
        if sign > 0:
            return best - value > self.drop * max(1.0, abs(best))
        base = max(real or 0.0, 0.0)
        # A best value below that of real images is chance, and so are differences of that size.
        above = best - base if best > base else 2 * (base - best)
        gain = self.gain_alone if real is None else self.gain
        return value > max(base + self.ratio * above, best + gain * (first - best))
