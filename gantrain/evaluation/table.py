"""Scores of several checkpoints: which is best, as a table, and as JSON; each number with its protocol."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gantrain.evaluation.evaluator import Score
from gantrain.evaluation.receipts import Receipt, differ, in_words
from gantrain.files import atomic_write
from gantrain.metrics.base import Better


@dataclass(frozen=True)
class Scores:
    """The scores of a checkpoint, or of given images.

    Attributes:
        file: the checkpoint or the images.
        step: of the checkpoint; None: given images.
    """

    file: Path
    step: int | None
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Comparison:
    """The values of one score, in the order of the checkpoints.

    Attributes:
        found: the checkpoints that have it.
        better: whether higher or lower is better; None: neither.
        best: index of the first best value; None: all are equal, or not comparable.
        refusal: why the values cannot be compared; None: they can.
        std: name of the score that is its standard deviation; None: there is none.
    """

    name: str
    found: Sequence[Scores]
    better: Better | None
    best: int | None
    refusal: str | None
    std: str | None = None

    @property
    def all(self) -> list[Score]:
        """The score of each checkpoint."""
        return [scores.scores[self.name] for scores in self.found]

    @property
    def stds(self) -> list[Score | None]:
        """The standard deviation of each score, where there is one."""
        return [scores.scores.get(self.std) if self.std else None for scores in self.found]


def compare(found: Sequence[Scores], better: Mapping[str, Better]) -> list[Comparison]:
    """Compare the values of each score, unless they were measured by different protocols.

    A score that is the standard deviation of another belongs to the comparison of that one.
    """
    names = dict.fromkeys(name for scores in found for name in scores.scores)
    stds = std_names(names, better)
    return [compare_score(x, found, better.get(x), stds.get(x)) for x in names if x not in stds.values()]


def std_names(names: Collection[str], better: Collection[str]) -> dict[str, str]:
    """Return the name of its standard deviation for each score that has one: {"kid_digits": "kid_std_digits"}.

    Args:
        better: names of scores that have a direction, which a standard deviation has not.
    """
    found = {re.sub(r"_std(?=_|$)", "", name, count=1): name for name in names if name not in better}
    return {name: std for name, std in found.items() if name != std and name in names}


def with_std(value: float, std: float | None, digits: int) -> str:
    """Format a value, and its standard deviation if there is one: "0.1234 ± 0.05"."""
    return f"{value:.{digits}g}" if std is None else f"{value:.{digits}g} ± {std:.2g}"


def value_and_real(score: Score, std: Score | None) -> tuple[str, str]:
    """Format a score, and that of real samples ("" if there is none), each with its standard deviation."""
    real = "" if score.real is None else with_std(score.real, None if std is None else std.real, 5)
    return with_std(score.value, None if std is None else std.value, 5), real


def real_samples(receipt: Receipt) -> str:
    """Return what the real samples of a score are called."""
    return "real images" if receipt.get("features") else "real vectors"


def compare_score(name: str, found: Sequence[Scores], better: Better | None, std: str | None) -> Comparison:
    """Find the best value of a score, unless the values were measured by different protocols."""
    having = [scores for scores in found if name in scores.scores]
    receipts = [scores.scores[name].receipt for scores in having]
    refusal = next((reason for receipt in receipts[1:] if (reason := differ(receipts[0], receipt))), None)
    sign = {"higher": 1, "lower": -1}.get(better or "")
    values = [scores.scores[name].value for scores in having]
    known = [i for i, value in enumerate(values) if not isnan(value)]
    best = None
    if refusal is None and sign is not None and len({values[i] for i in known}) > 1:
        best = max(known, key=lambda i: sign * values[i])
    return Comparison(name, having, better, best, refusal, std)


def table(comparisons: Sequence[Comparison], *, criterion: str | None = None) -> RenderableType:
    """Return a block for each score: a line with its direction and protocol, and a row for each checkpoint.

    Args:
        criterion: the score that checkpoint.best names.
    """
    parts: list[RenderableType] = []
    for comparison in comparisons:
        scores, stds = comparison.all, comparison.stds
        parts.append(Text.assemble((comparison.name, "bold"), heading(comparison)))
        rows = Table.grid(padding=(0, 2))
        rows.add_column(justify="right", no_wrap=True, min_width=13)
        for i, (found, score, std) in enumerate(zip(comparison.found, scores, stds, strict=True)):
            note = "best" if comparison.best == i else ""
            note += ", by checkpoint.best" if note and comparison.name == criterion else ""
            value, _ = value_and_real(score, std)
            rows.add_row(label(found), value, in_words(score.receipt) if comparison.refusal else note)
        _, real = value_and_real(scores[0], stds[0])
        if real and comparison.refusal is None:
            rows.add_row(real_samples(scores[0].receipt), real, "")
        parts.append(rows)
    return Group(*parts)


def heading(comparison: Comparison) -> str:
    """Return what is printed after the name of a score: its direction and its protocol, or why it is not ranked."""
    direction = f", {comparison.better} is better" if comparison.better else ""
    if comparison.refusal:
        return f"{direction}; not ranked, because {comparison.refusal}"
    return f"{direction}: {in_words(comparison.all[0].receipt)}"


def label(found: Scores) -> str:
    """Return what names a row: the step of the checkpoint, or given images."""
    if found.step is None:
        return "given images"
    return f"best.pt, step {found.step:,}" if found.file.name == "best.pt" else f"step {found.step:,}"


def write_json(output: Path, found: Sequence[Scores]) -> None:
    """Write the scores of the last checkpoint, or of given images, under "metrics", and those of all checkpoints.

    The file is {"metrics": {name: {"value": ..., "receipt": ...}}, "checkpoints": [{"step", "file", "metrics"}, ...]}.
    """
    by_file = [{name: as_json(score) for name, score in scores.scores.items()} for scores in found]
    checkpoints = [
        {"step": scores.step, "file": str(scores.file), "metrics": metrics}
        for scores, metrics in zip(found, by_file, strict=True)
        if scores.step is not None
    ]
    with atomic_write(output) as file:
        file.write(json.dumps({"metrics": by_file[-1], "checkpoints": checkpoints}, indent=2).encode() + b"\n")


def as_json(score: Score) -> dict[str, Any]:
    """Return a score as in the JSON file; its receipt has the score of real images, as in run.json."""
    return {"value": score.value, "receipt": score.receipt | {"real": score.real}}
