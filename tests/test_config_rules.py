import os
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from composing import changed, composed

from gantrain.budget import choose_budget, count_steps, critic_schedule
from gantrain.command.folders import claim_folder
from gantrain.command.typed import hyperparameters
from gantrain.config import Config, CriticWarmup, selected_options
from gantrain.config_rules import check, check_batch_size
from gantrain.errors import ConfigError
from gantrain.session.saved import RUN_FILES, require_new

WARMUP = CriticWarmup(n_critic=100, steps=25, every=500)
BY_TIME = "outputs/2026-01-02/03-04-05"


@pytest.fixture(scope="module")
def default() -> Config:
    return composed()


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    claim_folder.cache_clear()
    yield
    claim_folder.cache_clear()


@pytest.mark.parametrize(
    ("steps", "epochs", "typed", "expected"),
    [
        (100, None, [], (100, None)),
        (None, 6.0, [], (None, 6.0)),
        (100, 6.0, ["steps=100"], (100, None)),
        (5000, 3.0, ["epochs=3"], (None, 3.0)),
        (100, 6.0, ["seed=1", "++steps=100"], (100, None)),
        (None, 6.0, ["steps=null"], (None, 6.0)),
        (100, None, ["steps=100", "epochs=null"], (100, None)),
    ],
)
def test_budget_on_the_command_line_takes_precedence(
    steps: int | None, epochs: float | None, typed: list[str], expected: tuple[int | None, float | None]
) -> None:
    given = Config(steps=steps, epochs=epochs, seed=3)
    budget = choose_budget(given, typed)
    assert (budget.steps, budget.epochs) == expected
    assert budget.seed == 3
    assert given == Config(steps=steps, epochs=epochs, seed=3)


@pytest.mark.parametrize(
    ("steps", "epochs", "typed", "message"),
    [
        (10, 2.0, ["steps=10", "epochs=2"], "steps=10 and epochs=2.0 exclude each other; leave one out"),
        (10, 2.0, [], "exactly one must be a number"),
        (None, None, [], "exactly one must be a number"),
        (None, None, ["epochs=null"], "exactly one must be a number"),
    ],
)
def test_two_budgets_or_none_are_refused(
    steps: int | None, epochs: float | None, typed: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_budget(Config(steps=steps, epochs=epochs), typed)


def test_default_config_passes(default: Config) -> None:
    check(default)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 1),
        ("seed", 0),
        ("epochs", 0.01),
        ("ema_halflife_images", 1.0),
        ("accumulate", 16),
        ("packing", 2),
        ("critic_warmup", CriticWarmup(n_critic=1, steps=0, every=1)),
        ("optimizer.lr", 1),
        ("optimizer.betas", [0, 0.9]),
        ("optimizer.betas", (0.0, 0.0)),
        ("discriminator_optimizer.lr", 1e-9),
    ],
)
def test_boundary_values_pass(default: Config, key: str, value: object) -> None:
    check(changed(default, key, value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        *((key, 0, f"{key}=0: must be at least 1, for example {key}=1") for key in ("batch_size", "n_critic")),
        *((key, -3, f"{key}=-3: must be at least 1") for key in ("log_every", "sample_every", "evaluate_every")),
        ("checkpoint.every", 0, "checkpoint.every=0: must be at least 1"),
        ("checkpoint.keep", 0, "checkpoint.keep=0: must be at least 1"),
        ("steps", 0, "steps=0: must be at least 1"),
        ("epochs", 0.0, "epochs=0.0: must be a number above 0, or null"),
        ("epochs", float("nan"), "epochs=nan: must be a number above 0"),
        ("epochs", float("inf"), "epochs=inf: must be a number above 0"),
        ("ema_halflife_images", 0.0, "ema_halflife_images=0.0: must be a number above 0, or null"),
        (
            "critic_warmup",
            replace(WARMUP, n_critic=0),
            "critic_warmup.n_critic=0: must be at least 1",
        ),
        ("critic_warmup", replace(WARMUP, steps=-1), "critic_warmup.steps=-1: must be at least 0"),
        ("critic_warmup", replace(WARMUP, every=0), "critic_warmup.every=0: must be at least 1"),
        ("accumulate", 0, "accumulate=0: must be at least 1"),
        ("accumulate", 3, r"batch_size=16: must be a multiple of accumulate \(3\); for example batch_size=15"),
        ("packing", 5, r"batch_size=16: must be a multiple of packing \(5\); for example batch_size=15"),
        ("generator_batch_multiple", 0, "generator_batch_multiple=0: must be at least 1"),
        ("first", "critic", "first=critic: must be one of discriminator, generator"),
        ("fake_labels", "random", "fake_labels=random: must be one of real, empirical, uniform"),
        ("ema_rampup", 0.05, "ema_rampup=0.05: there is no EMA to limit; set ema_halflife_images too"),
        ("labels", [3], r"labels=\[3\] has an effect only with task=sample; add that, or leave labels out"),
        ("run", "outputs/x", "run=outputs/x has an effect only with task=sample"),
        (
            "output",
            "x.npz",
            "output=x.npz has an effect only with task=sample or task=evaluate or task=benchmark or task=data",
        ),
        *(
            (f"{group}.lr", rate, rf"{group}.lr={rate}: a learning rate is a number above 0")
            for group in ("optimizer", "discriminator_optimizer")
            for rate in (0, -1e-4, float("inf"), float("nan"), "fast", True)
        ),
        *(
            (f"{group}.betas", betas, rf"{group}.betas=.*: Adam's betas are two numbers in \[0, 1\)")
            for group in ("optimizer", "discriminator_optimizer")
            for betas in ([0.5], [0.5, 1.0], [-0.1, 0.9], [0.5, 0.9, 0.99], 0.5, ["a", 0.9], [True, 0.9])
        ),
    ],
)
def test_invalid_values_are_named_with_the_rule(default: Config, key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(changed(default, key, value))


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "packing", "num_processes", "message"),
    [
        (12, 4, 1, 2, r"batch_size=12: must be a multiple of processes \(2\) \* accumulate \(4\) = 8; .*batch_size=16"),
        (8, 8, 1, 2, r"processes \(2\) \* accumulate \(8\) = 16; for example batch_size=16"),
        (8, 4, 4, 1, r"accumulate \(4\) \* packing \(4\) = 16; for example batch_size=16"),
        (48, 2, 4, 3, None),
    ],
)
def test_the_batch_is_split_evenly(
    default: Config, batch_size: int, accumulate: int, packing: int, num_processes: int, message: str | None
) -> None:
    config = replace(default, batch_size=batch_size, accumulate=accumulate, packing=packing)
    with nullcontext() if message is None else pytest.raises(ConfigError, match=message):
        check_batch_size(config, num_processes)


def test_the_critic_schedule_without_warmup_is_constant() -> None:
    schedule = critic_schedule(5, None)
    assert {schedule(step) for step in range(2000)} == {5}


def test_the_critic_schedule_of_wgan() -> None:
    schedule = critic_schedule(5, WARMUP)
    warm = [step for step in range(2001) if schedule(step) == 100]
    assert warm == [*range(25), 500, 1000, 1500, 2000]
    assert {schedule(step) for step in range(2001)} == {5, 100}


def budget(**options: Any) -> Config:
    return Config(**{"steps": None, "epochs": 1.0, "batch_size": 64, "n_critic": 1, "critic_warmup": None} | options)


@pytest.mark.parametrize(
    ("config", "num_images", "expected"),
    [
        (budget(), 60_000, 938),  # 937.5 batches
        (budget(), 64, 1),
        (budget(), 65, 2),
        (budget(epochs=30.0), 60_000, 28_125),
        (budget(epochs=0.5), 128, 1),
        (budget(epochs=0.001), 64, 1),
        (budget(n_critic=5), 60_000, 188),  # 938 batches
        (budget(n_critic=5, epochs=10.0), 60_000, 1875),
        (budget(steps=123, epochs=None), 60_000, 123),
        (budget(steps=123, epochs=None), None, 123),
    ],
)
def test_a_budget_in_epochs_becomes_generator_updates(config: Config, num_images: int | None, expected: int) -> None:
    assert count_steps(config, num_images) == expected


def test_batches_of_the_critic_warmup_count_towards_epochs() -> None:
    config = budget(epochs=2.0, n_critic=5, critic_warmup=WARMUP, batch_size=64)
    batches = 2 * 202_599 / 64  # 6331.2
    # 25 steps take 2,500; 475 up to step 500 take 2,375; step 500 takes 100; the rest take 5 each.
    assert count_steps(config, 202_599) == 501 + -(-(batches - 4975) // 5)


def test_epochs_of_sampled_data_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"epochs=1: .*no epochs; .*steps=5000"):
        count_steps(budget(), None)


def test_folder_is_created_with_parents_and_claimed_once() -> None:
    assert claim_folder("a/b/c", by_time=False) == "a/b/c"
    assert Path("a/b/c").is_dir()
    Path("a/b/c/run.json").touch()
    assert claim_folder("a/b/c", by_time=False) == "a/b/c"


def test_folder_with_other_files_may_be_used() -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    assert claim_folder("mine", by_time=False) == "mine"


@pytest.mark.parametrize("name", RUN_FILES)
def test_folder_with_a_run_is_refused_and_left_unchanged(name: str) -> None:
    Path("old").mkdir()
    (Path("old") / name).parent.mkdir(exist_ok=True)
    (Path("old") / name).touch()
    with pytest.raises(
        ConfigError, match=rf"run_dir=old holds a run already \({name}\), and runs are never overwritten"
    ):
        require_new(Path("old"))
    assert (Path("old") / name).read_bytes() == b""


@pytest.mark.parametrize("folder", [BY_TIME, BY_TIME.replace("outputs", "outputs/multirun")])
def test_runs_of_the_same_second_get_different_folders(folder: str) -> None:
    claimed = []
    for _ in range(3):
        claim_folder.cache_clear()  # another process
        claimed.append(claim_folder(folder, by_time=True))
    assert claimed == [folder, f"{folder}-2", f"{folder}-3"]
    assert all(Path(name).is_dir() for name in claimed)


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_run_dir_blocked_by_a_file_is_named(path: str) -> None:
    Path("file").touch()
    with pytest.raises(ConfigError, match=rf"run_dir={path} cannot be created \(.+\); choose another run_dir"):
        claim_folder(path, by_time=False)
    assert Path("file").is_file()


def test_default_run_dir_blocked_by_a_file_is_named() -> None:
    Path("outputs").touch()
    with pytest.raises(ConfigError, match=rf"run_dir={BY_TIME} cannot be created \(.+\)"):
        claim_folder(BY_TIME, by_time=True)


def test_a_folder_that_cannot_be_written_to_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="run_dir=locked cannot be written to"):
        claim_folder("locked", by_time=False)


def test_options_of_parts_that_are_not_selected_are_ignored() -> None:
    nodes = {"csv": {"_target_": "x"}, "samples": {"num": 32}, "log": {"_target_": "y"}}
    assert selected_options(nodes, "callback") == ["csv", "log"]


def test_hparams_are_common_settings_and_overrides(default: Config) -> None:
    choices = {"model": "wgan", "dataset": "digits", "loss": "lsgan", "regularizer": ["label_noise", "input_noise"]}
    typed = ["model=wgan", "loss=lsgan", "regularizer=[label_noise,input_noise]", "++latent.z_dim=100", "run_dir=there"]
    flat = hyperparameters(default, choices, typed)
    expected = {
        "model": "wgan",
        "loss": "lsgan",
        "batch_size": default.batch_size,
        "optimizer.lr": default.optimizer["lr"],
        "latent.z_dim": 100,
    }
    assert expected.items() <= flat.items()
    assert re.fullmatch(r"label_noise\W+input_noise", str(flat["regularizer"]))
    assert "run_dir" not in flat
    assert all(isinstance(value, bool | int | float | str) for value in flat.values())
