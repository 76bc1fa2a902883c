"""The message at the end of a run."""

import math
from pathlib import Path

import pytest
from composing import composed

from gantrain.assemble import assemble
from gantrain.session.record import Record
from gantrain.session.summary import score_lines
from gantrain.tasks.job import Job

SMALL = ("dataset=gaussians_8", "network=mlp_toy", "model.generator.width=4", "model.discriminator.width=4")
RECEIPT = {"metric": "m", "features": None, "num_generated": 100, "num_real": None, "ema": False}
WARNING = "; the last is much worse than the best"


def lines(name: str, values: tuple[float, ...], real: float | None, *overrides: str, resumed: bool = False) -> str:
    """Return the lines about a score that had these values at steps 100, 200, ..."""
    config = composed(*SMALL, "metric=[modes,moments]", "callback=[]", *overrides)
    run = assemble(Job(name="x", folder=Path("no"), config=config, choices={}, typed=[], resume_command=""), config).run
    record = Record(run, {})
    record.written = math.inf  # without a file
    # Features say that the score is one of images.
    run.receipts[f"metric/{name}"] = RECEIPT | {"real": real, "features": None if real is None else "inception"}
    for i, value in enumerate(values):
        run.state.step = 100 * (i + 1)
        record.scalars(run.state, {f"metric/{name}": value})
        if resumed:
            saved, record = record.state_dict(), Record(run, {})
            record.load_state_dict(saved)
            record.written = math.inf
    return "\n".join(score_lines(run, record))


@pytest.mark.parametrize(
    ("name", "values", "real", "warned"),
    [
        ("high_quality", (0.1, 0.9, 0.7), 0.95, True),
        ("high_quality", (0.1, 0.9, 0.8), 0.95, False),
        # As those of KID and FID; both errors stand for any score where lower is better.
        ("mean_error", (0.3, -1e-5, 2e-5), 1e-6, False),
        ("mean_error", (0.3, 0.001, 0.05), 1e-6, True),
        ("mean_error", (400.0, 5.0, 8.0), 0.2, True),
        ("mean_error", (400.0, 300.0, 380.0), 0.2, False),
        ("mean_error", (3.0, 0.002, 0.004), None, False),
        ("mean_error", (3.0, 0.002, 1.0), None, True),
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_warning_if_the_last_value_is_much_worse_than_the_best(
    name: str, values: tuple[float, ...], real: float | None, warned: bool, resumed: bool
) -> None:
    text = lines(name, values, real, resumed=resumed)
    assert f"{name}: last {values[-1]:.4g}, best {values[1]:.4g} at step 200" in text
    assert (WARNING in text) == warned


def test_rule_is_that_of_the_verdict() -> None:
    assert WARNING in lines("high_quality", (0.9, 0.7), None)
    assert WARNING not in lines("high_quality", (0.9, 0.7), None, "verdict.metric_worsens.drop=0.3")
    assert WARNING not in lines("high_quality", (0.9, 0.7), None, "verdict=[]")
