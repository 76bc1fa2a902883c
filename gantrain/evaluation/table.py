"""Scores of several checkpoints: which is best, as a table, and as JSON; each number with its protocol."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gantrain.evaluation.evaluator import Score
from gantrain.evaluation.receipts import differ, in_words
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
    """

    name: str
    found: Sequence[Scores]
    better: Better | None
    best: int | None
    refusal: str | None

    @property
    def all(self) -> list[Score]:
        """The score of each checkpoint."""
        return [scores.scores[self.name] for scores in self.found]


def compare(found: Sequence[Scores], better: Mapping[str, Better]) -> list[Comparison]:
    """Compare the values of each score, unless they were measured by different protocols."""
    return [compare_score(name, found, better.get(name)) for name in dict.fromkeys(n for f in found for n in f.scores)]


def compare_score(name: str, found: Sequence[Scores], better: Better | None) -> Comparison:
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
    return Comparison(name, having, better, best, refusal)


def table(comparisons: Sequence[Comparison], *, criterion: str | None = None) -> RenderableType:
    """Return a block for each score: a line with its direction and protocol, and a row for each checkpoint.

    Args:
        criterion: the score that checkpoint.best names.
    """
    parts: list[RenderableType] = []
    for comparison in comparisons:
        scores = comparison.all
        parts.append(Text.assemble((comparison.name, "bold"), heading(comparison)))
        rows = Table.grid(padding=(0, 2))
        rows.add_column(justify="right", no_wrap=True, min_width=13)
        for i, (found, score) in enumerate(zip(comparison.found, scores, strict=True)):
            note = "best" if comparison.best == i else ""
            note += ", by checkpoint.best" if note and comparison.name == criterion else ""
            rows.add_row(label(found), f"{score.value:.5g}", in_words(score.receipt) if comparison.refusal else note)
        if scores[0].real is not None and comparison.refusal is None:
            rows.add_row("real images", f"{scores[0].real:.5g}", "")
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
