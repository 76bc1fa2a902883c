"""Every sensible pair of parts trains for two steps.

The configs are composed once for each part and put together here, because composing takes longer than the two steps.
tests/cli/test_combinations.py runs the command with each recipe, experiment and dataset.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import composed

from gantrain.assemble import Training, assemble
from gantrain.config import CONF, Config
from gantrain.config_rules import check
from gantrain.engine.finite import first_nonfinite, named_tensors
from gantrain.tasks.job import Job

SMALL = (
    *("batch_size=2", "steps=2", "n_critic=1", "metric=[]", "verdict=[]", "callback=[log]"),
    *("model.generator.width=2", "model.discriminator.width=2"),
)
CRITIC = "network=dcgan_critic"
LIGHTWEIGHT = (
    *("network=lightweight", "dataset.image_size=32", "latent.z_dim=8"),
    *(
        f"model.{network}.{option}"
        for network in ("generator", "discriminator")
        for option in ("num_heads=1", "head_dim=4")
    ),
)


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def small(*overrides: str) -> Config:
    return composed(*SMALL, *overrides)


def with_parts(config: Config, **options: str) -> Config:
    """Return the config with other options of groups, for example loss="hinge" or regularizer="[r1,r2]"."""
    parts = {group: getattr(composed(f"{group}={option}"), group) for group, option in options.items()}
    return replace(config, **parts)


def train_two_steps(config: Config) -> Training:
    """Train, check that both networks have changed and that no number is NaN or Inf."""
    check(config)
    job = Job(name="parts", folder=Path("unused"), config=config, choices={}, typed=[], resume_command="")
    training = assemble(job, config)
    logged: list[dict[str, Any]] = []
    state = training.run.state
    before = [[p.detach().clone() for p in network.parameters()] for network in (state.G, state.D)]
    training([lambda _, logs: logged.append({tag: torch.as_tensor(value).mean() for tag, value in logs.items()})])
    assert state.step == len(logged) == 2
    for network, earlier in zip((state.G, state.D), before, strict=True):
        assert any(not torch.equal(p, q) for p, q in zip(network.parameters(), earlier, strict=True))
    assert first_nonfinite(named_tensors(state)) is None
    assert all(value.isfinite() for logs in logged for value in logs.values())
    return training


@pytest.mark.parametrize("loss", names("loss"))
@pytest.mark.parametrize(
    "regularizer", ["", *names("regularizer"), "gradient_penalty,input_noise,label_noise", "r1,r2"]
)
def test_every_loss_trains_with_every_regularizer(loss: str, regularizer: str) -> None:
    # Some need what only some networks have: D a classifier or a decoder, G styles.
    needed = {
        "auxiliary_classifier": ("network=acgan", "model.discriminator.norm=none"),
        "path_length": ("network=stylegan2", "model.generator.w_dim=8"),
        "reconstruction": LIGHTWEIGHT,
    }
    base = small(*needed.get(regularizer, (CRITIC,)))
    training = train_two_steps(with_parts(base, loss=loss, regularizer=f"[{regularizer}]"))
    assert list(training.run.objective.regularizers) == [name for name in regularizer.split(",") if name]


@pytest.mark.parametrize("network", ["cmlp", "cdcgan", "acgan"])
@pytest.mark.parametrize("loss", names("loss"))
def test_every_loss_trains_conditional_networks(network: str, loss: str) -> None:
    train_two_steps(with_parts(small(f"network={network}"), loss=loss))


@pytest.mark.parametrize("labels", ["real", "empirical", "uniform"])
def test_every_fake_labels_option_trains(labels: str) -> None:
    train_two_steps(replace(small("network=cdcgan"), fake_labels=labels))


@pytest.mark.parametrize("augment", names("augment"))
@pytest.mark.parametrize("loss", names("loss"))
def test_every_loss_trains_through_every_augmentation(augment: str, loss: str) -> None:
    # With a fixed p, because an adaptive one is refused with some of the losses.
    fixed = ["augment.ada.target=null", "augment.ada.strength=0.3"] if augment == "ada" else []
    train_two_steps(with_parts(small(CRITIC, f"augment=[{augment}]", *fixed), loss=loss, regularizer="[r1]"))


@pytest.mark.parametrize("schedule", names("schedule"))
def test_every_schedule_trains(schedule: str) -> None:
    # Parts with every option that a schedule may change.
    model = "model=r3gan" if schedule.startswith("r3gan") else "model=wgan_gp"
    base = small(model, "augment=[diffaugment]", "ema_halflife_images=10", "critic_warmup=null")
    training = train_two_steps(with_parts(base, schedule=f"[{schedule}]"))
    assert training.schedules.by_key


@pytest.mark.parametrize("shape", names("schedule/shape"))
def test_every_shape_of_a_schedule_trains(shape: str) -> None:
    train_two_steps(small("schedule=[lr]", f"schedule/shape@schedule.lr={shape}"))


@pytest.mark.parametrize("optimizer", names("optimizer"))
@pytest.mark.parametrize("other", names("discriminator_optimizer"))
def test_every_pair_of_optimizers_trains(optimizer: str, other: str) -> None:
    config = with_parts(small(), optimizer=optimizer, discriminator_optimizer=other)
    config = replace(config, discriminator_optimizer=config.discriminator_optimizer | {"lr": 1e-3})
    state = train_two_steps(config).run.state
    default = config.optimizer["_target_"]
    expected = default, config.discriminator_optimizer.get("_target_", default)
    assert tuple(f"torch.optim.{type(o).__name__}" for o in (state.G_optimizer, state.D_optimizer)) == expected
    assert state.D_optimizer.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize("network", names("network"))
@pytest.mark.parametrize("latent", names("latent"))
def test_every_network_trains_from_every_latent(network: str, latent: str) -> None:
    # At width 2, all ReLUs of mlp_toy are inactive.
    wide = ("model.generator.width=16", "model.discriminator.width=16") if network == "mlp_toy" else ()
    selected = LIGHTWEIGHT[:2] if network == "lightweight" else (f"network={network}",)
    train_two_steps(with_parts(small(*selected, *wide), latent=latent))
