"""Numbers such as 1e5, and modules with a name that Python has too."""

from pathlib import Path

import pytest
from runs import run_json

from gantrain.command.overrides import with_whole_numbers
from gantrain.instantiate import build

SMALL = ("model=dcgan", "model.generator.width=1", "model.discriminator.width=1", "metric=[]", "callback=[log]")


def test_whole_numbers_may_be_written_with_an_exponent(gantrain, tmp_path: Path) -> None:
    result = gantrain(*SMALL, "steps=2e0", "batch_size=4", "latent.z_dim=1e1", "run_dir=out")
    assert result.status == 0, result.stderr
    assert run_json(tmp_path / "out")["steps"] == 2


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("num=1e2", "num=100"),
        ("steps=1.5E+3", "steps=1500"),
        ("steps=1e2,2e2", "steps=100,200"),
        ("checkpoint.every=1e4", "checkpoint.every=10000"),
        ("num=1.5e0", "num=1.5e0"),  # refused later
        ("optimizer.lr=1e2", "optimizer.lr=1e2"),  # a float
        ("ema_halflife_images=1e4", "ema_halflife_images=1e4"),
        ("steps=abc1e2", "steps=abc1e2"),
        ("steps=1e999", "steps=1e999"),
    ],
)
def test_only_whole_numbers_of_whole_keys_are_rewritten(typed: str, expected: str) -> None:
    assert with_whole_numbers([typed]) == [expected]


def test_whole_numbers_of_parts_may_be_floats_in_yaml() -> None:
    node = {"_target_": "gantrain.models.latent.Normal", "z_dim": 1e2}
    latent = build("latent", node)
    assert latent.z_dim == 100
    assert type(latent.z_dim) is int


@pytest.mark.parametrize("name", ["code", "token", "yaml"])
def test_a_module_that_has_the_name_of_another_is_named(gantrain, tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("from gantrain.losses.lsgan import LeastSquares\nMine = LeastSquares\n")
    result = gantrain(*SMALL, "steps=1", f"loss={{_target_: {name}.Mine}}", f"trust=[{name}]")
    assert result.status == 2
    assert f"{name}.py has the name of a module of " in result.stderr
    assert f"which is imported instead; rename it to my_{name}.py" in result.stderr
    assert ("Python's standard library" in result.stderr) == (name != "yaml")
