"""Targets in a config are limited to gantrain, torch's optimizers, and the modules that the user trusts."""

from pathlib import Path

import pytest
import torch

from gantrain.command import trust
from gantrain.errors import ConfigError
from gantrain.losses.lsgan import LeastSquares


def test_targets_in_the_package_of_the_group_are_resolved() -> None:
    assert trust.resolve("loss", "gantrain.losses.lsgan.LeastSquares") is LeastSquares
    assert trust.resolve("optimizer", "torch.optim.Adam") is torch.optim.Adam
    assert trust.resolve("discriminator_optimizer", "torch.optim.SGD") is torch.optim.SGD


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("loss", "os.system"),
        ("loss", "builtins.eval"),
        ("loss", "gantrain.command.cli.main"),
        ("loss", "gantrain.lossesy.X"),
        ("loss", "torch.hub.load"),
        ("model.generator", "torch.nn.Linear"),
        ("optimizer", "torch.load"),
        ("dataset", "subprocess.run"),
        ("task", "os.system"),
    ],
)
def test_other_targets_are_refused_with_the_remedy(path: str, target: object) -> None:
    with pytest.raises(ConfigError, match=rf"{path}\._target_={target} is code outside .*trust it: 'trust="):
        trust.resolve(path, target)


@pytest.mark.parametrize(
    "target",
    ["gantrain.losses.base.runtime_checkable", "gantrain.losses.lsgan.Logits", "gantrain.losses.lsgan"],
)
def test_objects_that_a_module_only_imports_are_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a class or function of gantrain\.losses|cannot be imported"):
        trust.resolve("loss", target)


@pytest.mark.parametrize("target", [3, None])
def test_targets_that_are_not_names_are_refused(target: object) -> None:
    with pytest.raises(ConfigError, match=rf"loss\._target_={target}: must name a class or a function"):
        trust.resolve("loss", target)


def test_nothing_is_imported_before_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "untrusted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Loss: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"trust=\[untrusted\]"):
        trust.resolve("loss", "untrusted.Loss")
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(trust, "trusted", ["untrusted"])
    assert trust.resolve("loss", "untrusted.Loss").__name__ == "Loss"
    assert (tmp_path / "ran").exists()
