"""Every config file composes, and matches the signature of its target; new files are found automatically."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from composing import composed
from hydra.utils import get_object

from gantrain.budget import choose_budget
from gantrain.command import trust
from gantrain.command.help import describe
from gantrain.config import CONF, LIST_GROUPS, Node, selected_options, to_dict
from gantrain.config_rules import check
from gantrain.instantiate import _fits, _type_hints

FILES = sorted(CONF.glob("*/**/*.yaml"))
RECIPES = ("experiment", "model")
BUNDLES = {
    "callback": ("default",),
    "verdict": ("default",),
    "schedule": ("r3gan", "r3gan_augment"),
    "augment": ("ada_r3gan",),
}
"""Options that only select others, or change their values."""

FACTS = {"num_classes"}
"""Keyword-only parameters whose values come from the dataset, not from the config."""
NAMES = [str(path.relative_to(CONF).with_suffix("")) for path in FILES]
each_file = pytest.mark.parametrize("path", FILES, ids=NAMES)


def choice(path: Path) -> list[str]:
    """Return the overrides that select an option."""
    group, option = str(path.parent.relative_to(CONF)), path.stem
    if group == "schedule/shape":
        return shaped("lr", option)
    return [f"{group}=[{option}]" if group in LIST_GROUPS else f"{group}={option}"]


def shaped(schedule: str, shape: str) -> list[str]:
    """Return the overrides that select a schedule of another shape, without the options that this shape lacks."""
    options = yaml.safe_load((CONF / f"schedule/shape/{shape}.yaml").read_text())
    own = yaml.safe_load((CONF / f"schedule/{schedule}.yaml").read_text())[schedule]
    without = [f"~schedule.{schedule}.{name}" for name in own if name not in {*options, "of"}]
    return [f"schedule=[{schedule}]", f"schedule/shape@schedule.{schedule}={shape}", *without]


def nodes(overrides: list[str]) -> Node:
    return to_dict(composed(*overrides))


def targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}".lstrip("."))


def test_every_group_has_options() -> None:
    assert len(FILES) > 60
    groups = {path.relative_to(CONF).parts[0] for path in FILES}
    assert groups == {path.name for path in CONF.iterdir() if path.is_dir()}
    assert set(LIST_GROUPS) <= groups


@each_file
def test_every_option_composes_and_matches_its_targets(path: Path) -> None:
    """One test for all that is asserted of a composed option, since composing takes most of the time."""
    config = composed(*choice(path))
    if path.parent.name != "task":
        check(choose_budget(config, choice(path)))
    found = list(targets(to_dict(config)))
    assert found
    takes_its_options(found)
    has_annotated_types(found)
    has_no_default_in_python(found)


@pytest.mark.parametrize("shape", sorted(path.stem for path in CONF.glob("schedule/shape/*.yaml")))
@pytest.mark.parametrize("schedule", sorted({p.stem for p in CONF.glob("schedule/*.yaml")} - {*BUNDLES["schedule"]}))
def test_every_schedule_takes_every_shape(schedule: str, shape: str) -> None:
    node = nodes(shaped(schedule, shape))["schedule"]
    assert list(node) == [schedule]
    assert node[schedule]["_target_"].startswith(f"gantrain.schedules.{shape}.")
    takes_its_options(list(targets({"schedule": node})))


def takes_its_options(found: list[tuple[str, Node]]) -> None:
    for where, node in found:
        target = trust.resolve(where, node["_target_"])
        keys = set(node) - {"_target_"} - ({"holdout"} if where == "dataset" else set())  # see assemble.build_dataset
        parameters = inspect.signature(target).parameters
        knobs = {name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
        if node["_target_"].startswith("gantrain."):
            assert keys == knobs - FACTS, where
        else:
            assert keys <= set(parameters), where


def has_annotated_types(found: list[tuple[str, Node]]) -> None:
    for where, node in found:
        hints = _type_hints(get_object(node["_target_"]))
        for name, value in node.items():
            assert name not in hints or _fits(value, hints[name]), f"{where}.{name}={value}"


def has_no_default_in_python(found: list[tuple[str, Node]]) -> None:
    for where, node in found:
        if node["_target_"].startswith("gantrain."):
            for name, parameter in inspect.signature(get_object(node["_target_"])).parameters.items():
                assert parameter.default is parameter.empty, f"{where}.{name}"


@each_file
def test_first_comment_of_every_file_describes_it(path: Path) -> None:
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    first = next(line for line in comments if not line.startswith("# @package"))
    assert re.fullmatch(r"# \S.{10,}", first)
    assert path.read_text().index(first) < min(map(path.read_text().index, re.findall(r"(?m)^\w+:", path.read_text())))
    assert describe(path) == first.removeprefix("# ")
    assert len(describe(path)) <= 95


@each_file
def test_recipes_contain_no_targets(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    assert (path.parent.name not in RECIPES) or not list(targets(node))


def test_the_primary_config_names_no_target() -> None:
    assert "_target_" not in (CONF / "train.yaml").read_text()


@each_file
def test_no_value_is_the_string_none(path: Path) -> None:
    def values(node: Any) -> Iterator[Any]:
        if isinstance(node, dict):
            node = list(node.values())
        if isinstance(node, list):
            for value in node:
                yield from values(value)
        else:
            yield node

    # norm=none and bias=none are options; None is the string "None" in YAML, and never meant.
    assert "None" not in list(values(yaml.safe_load(path.read_text())))


@pytest.mark.parametrize("group", LIST_GROUPS)
def test_options_of_list_groups_merge_by_name(group: str) -> None:
    options = {path.stem for path in CONF.glob(f"{group}/*.yaml")} - {*BUNDLES.get(group, ())}
    config = composed(f"{group}=[{','.join(sorted(options))}]")
    assert {*selected_options(getattr(config, group), group)} == options


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name in RECIPES], ids=lambda path: path.stem)
def test_overrides_take_precedence_over_recipes(path: Path) -> None:
    config = composed(*choice(path), "loss=lsgan", "n_critic=3", "regularizer=[label_noise]", "latent.z_dim=7")
    assert config.loss["_target_"].endswith("LeastSquares")
    assert config.n_critic == 3
    assert selected_options(config.regularizer, "regularizer") == ["label_noise"]
    assert config.latent["z_dim"] == 7
