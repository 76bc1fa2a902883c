"""Scores of several checkpoints: the best is marked only among numbers of one protocol."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from gantrain.evaluation.evaluator import Score
from gantrain.evaluation.plots import make_figure
from gantrain.evaluation.score_plots import draw, score_curves
from gantrain.evaluation.table import Scores, compare, std_names, table, write_json

RECEIPT = {"score": "fid", "features": "inception", "weights_sha256": "ab" * 32, "num_real": 200, "split": "train"}


def scores(*values: float, name: str = "fid", nums: tuple[int, ...] = (60, 60, 60, 60)) -> list[Scores]:
    return [
        Scores(
            Path(f"step_{10 * i:08d}.pt"),
            10 * i,
            {name: Score(value, RECEIPT | {"score": name, "num_generated": num, "ema": True}, real=1.5)},
        )
        for i, (value, num) in enumerate(zip(values, nums, strict=False), 1)
    ]


def printed(*arguments: object, **options: object) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(table(*arguments, **options))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


@pytest.mark.parametrize(
    ("direction", "values", "best"),
    [
        ("lower", (3.0, 2.0, 2.5), 1),
        ("higher", (3.0, 2.0, 2.5), 0),
        ("lower", (3.0, float("nan"), 2.5), 2),
        ("lower", (3.0, 2.0, 2.0), 1),
        ("lower", (2.0, 2.0), None),
        ("lower", (2.0,), None),
        (None, (3.0, 2.0), None),
    ],
)
def test_the_best_value_depends_on_the_direction(
    direction: str | None, values: tuple[float, ...], best: int | None
) -> None:
    (comparison,) = compare(scores(*values), {"fid": direction} if direction else {})
    assert (comparison.best, comparison.refusal) == (best, None)


def test_values_of_different_protocols_are_not_ranked() -> None:
    (comparison,) = compare(scores(3.0, 2.0, 1.0, nums=(60, 60, 70)), {"fid": "lower"})
    assert comparison.best is None
    assert comparison.refusal == "their protocols differ: num_generated 60 and 70"
    lines = printed([comparison]).splitlines()
    assert lines[0] == "fid, lower is better; not ranked, because their protocols differ: num_generated 60 and 70"
    words = "inception features abababab, {} generated against 200 real (train), EMA weights"
    assert lines[1].split("  ")[-1] == words.format(60)
    assert lines[3].split("  ")[-1] == words.format(70)
    assert "best" not in "".join(lines[1:])


def test_the_table_has_direction_protocol_and_real_images_of_each_score() -> None:
    found = together(scores(3.0, 2.0), scores(0.1, 0.2, name="modes"))
    lines = printed(compare(found, {"fid": "lower"}), criterion="fid").splitlines()
    protocol = "inception features abababab, 60 generated against 200 real (train), EMA weights"
    assert lines == [
        f"fid, lower is better: {protocol}",
        "      step 10  3",
        "      step 20  2    best, by checkpoint.best",
        "  real images  1.5",
        f"modes: {protocol}",
        "      step 10  0.1",
        "      step 20  0.2",
        "  real images  1.5",
    ]


def together(*parts: list[Scores]) -> list[Scores]:
    return [
        Scores(found[0].file, found[0].step, {name: score for one in found for name, score in one.scores.items()})
        for found in zip(*parts, strict=True)
    ]


def test_a_standard_deviation_is_printed_beside_its_score() -> None:
    found = together(scores(0.5, 0.25, name="kid_digits"), scores(0.123, 0.0456, name="kid_std_digits"))
    (comparison,) = compare(found, {"kid_digits": "lower"})
    lines = printed([comparison]).splitlines()
    assert lines[0].startswith("kid_digits, lower is better: ")
    assert lines[1:] == [
        "      step 10  0.5 ± 0.12",
        "      step 20  0.25 ± 0.046  best",
        "  real images  1.5 ± 1.5",
    ]
    _, (axes,) = make_figure(1, "")
    draw(axes, comparison)
    (bars,) = axes.collections
    np.testing.assert_allclose(bars.get_segments(), [[[10, 0.377], [10, 0.623]], [[20, 0.2044], [20, 0.2956]]])


def test_std_names() -> None:
    names = ["kid", "kid_std", "kid_digits", "kid_std_digits", "mean", "std", "std_error", "own_std", "x", "x_std"]
    assert std_names(names, {"kid": 1, "x_std": 1}) == {"kid": "kid_std", "kid_digits": "kid_std_digits"}


def test_real_vectors_are_called_so() -> None:
    found = [Scores(Path("x.pt"), 1, {"wasserstein": Score(2.0, {"num_generated": 9, "ema": False}, real=0.5)})]
    assert printed(compare(found, {})).splitlines()[-1].strip() == "real vectors  0.5"


def test_the_json_has_the_last_checkpoint_and_all(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", scores(3.0, 2.0))
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["metrics"] == content["checkpoints"][1]["metrics"]
    assert content["metrics"]["fid"]["value"] == 2.0
    assert content["metrics"]["fid"]["receipt"].items() >= (RECEIPT | {"real": 1.5}).items()
    assert [(row["step"], row["file"]) for row in content["checkpoints"]] == [
        (10, "step_00000010.pt"),
        (20, "step_00000020.pt"),
    ]


def test_the_plot_marks_the_best_value_of_one_protocol_and_says_if_there_are_several() -> None:
    for nums, title, lengths, labels in (
        ((60, 60, 60), "fid\nlower is better", [3, 1, 2], ["best: 2 at step 20", "real images: 1.5"]),
        ((60, 60, 70), "fid\nnot ranked: protocols differ", [2, 1], ["protocol 1", "protocol 2"]),
    ):
        _, (axes,) = make_figure(1, "")
        (comparison,) = compare(scores(3.0, 2.0, 2.5, nums=nums), {"fid": "lower"})
        draw(axes, comparison)
        assert axes.get_title() == title
        assert axes.get_legend_handles_labels()[1] == labels
        assert [len(line.get_xdata()) for line in axes.lines] == lengths
    found = [Scores(s.file, s.step, {"a": s.scores["fid"], "b": s.scores["fid"]}) for s in scores(3.0, 2.0, 2.5)]
    picture = score_curves(compare(found, {}))
    assert picture.dtype == np.uint8
    assert picture.shape[1] > 2 * picture.shape[0]
