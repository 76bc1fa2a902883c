"""The experiments by name: what the papers and the public repositories say of them, against the composed configs."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from gantrain.build import (
    build_dataset,
    build_discriminator,
    build_ema,
    build_generator,
    build_latent,
    build_loss,
    build_optimizer,
    build_regularizers,
    build_state,
    check_cross,
)
from gantrain.config import CONF, register
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import make_batches
from gantrain.losses.base import Loss
from gantrain.losses.lsgan import LeastSquares
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.wasserstein import Wasserstein
from gantrain.models.latent import Latent, Normal, Uniform
from gantrain.models.layers import has_batch_norm
from gantrain.runtime import Runtime
from gantrain.train import Observations, TrainState, train

Betas = tuple[float, float]
WARMUP = {"n_critic": 100, "steps": 25, "every": 500}
DCGAN_Z = Normal(z_dim=100)
STUDY_Z = Uniform(z_dim=96, low=-1.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A row of the table; `regularizers` by name with their only option, `lr` and `betas` of both optimizers."""

    dataset: str
    image_shape: tuple[int, ...]
    G: int
    D: int
    D_has_batch_norm: bool = False
    loss: type[Loss] = NonSaturating
    regularizers: dict[str, float] = field(default_factory=dict)
    latent: Latent = DCGAN_Z
    lr: float = 2e-4
    betas: Betas | None = (0.5, 0.999)
    n_critic: int = 1
    warmup: dict[str, int] | None = None
    batch_size: int = 64
    epochs: float | None = None
    steps: int | None = None


def wgan(**facts: Any) -> Experiment:
    clip: dict[str, Any] = {"loss": Wasserstein, "regularizers": {"weight_clip": 0.01}, "lr": 5e-5, "betas": None}
    return Experiment(**clip, n_critic=5, **facts)


def wgan_gp(**facts: Any) -> Experiment:
    penalty: dict[str, Any] = {"loss": Wasserstein, "regularizers": {"gradient_penalty": 10.0}, "n_critic": 5}
    return Experiment(**penalty | {"lr": 1e-4, "betas": (0.0, 0.9)} | facts)


EXPERIMENTS = {
    "gaussian": Experiment(
        dataset="gaussian",
        image_shape=(1,),
        G=1_121,
        D=449,
        latent=Uniform(z_dim=1, low=0.0, high=1.0),
        batch_size=128,
        n_critic=5,
        steps=5000,
    ),
    "mlp_mnist": Experiment(
        dataset="mnist", image_shape=(1, 28, 28), G=1_952_528, D=267_009, latent=STUDY_Z, epochs=30
    ),
    "mlp_fashion_mnist": Experiment(
        dataset="fashion_mnist", image_shape=(1, 28, 28), G=1_952_528, D=267_009, latent=STUDY_Z, epochs=30
    ),
    "dcgan_mnist": Experiment(
        dataset="mnist", image_shape=(1, 64, 64), G=3_574_656, D=2_763_520, D_has_batch_norm=True, epochs=3
    ),
    "dcgan_fashion_mnist": Experiment(
        dataset="fashion_mnist", image_shape=(1, 64, 64), G=3_574_656, D=2_763_520, D_has_batch_norm=True, epochs=3
    ),
    "dcgan_celeba": Experiment(
        dataset="celeba",
        image_shape=(3, 64, 64),
        G=3_576_704,
        D=2_765_568,
        D_has_batch_norm=True,
        batch_size=128,
        epochs=11,
    ),
    "wgan_mnist": wgan(dataset="mnist", image_shape=(1, 28, 28), G=759_680, D=138_368, epochs=10),
    "dcgan_celeba_f128": Experiment(
        dataset="celeba",
        image_shape=(3, 64, 64),
        G=12_660_355,
        D=11_038_081,
        D_has_batch_norm=True,
        batch_size=128,
        epochs=11,
    ),
    "wgan_celeba": wgan(
        dataset="celeba", image_shape=(3, 64, 64), G=12_658_432, D=11_032_576, warmup=WARMUP, epochs=50
    ),
    "wgan_gp_celeba_f128": wgan_gp(
        dataset="celeba", image_shape=(3, 64, 64), G=12_658_432, D=11_032_576, warmup=WARMUP, epochs=20
    ),
    "wgan_gp_celeba_f64": wgan_gp(
        dataset="celeba", image_shape=(3, 64, 64), G=3_576_704, D=2_763_776, warmup=WARMUP, epochs=20
    ),
    "wgan_gp_celeba_128px": wgan_gp(
        dataset="celeba", image_shape=(3, 128, 128), G=12_786_560, D=44_603_392, warmup=WARMUP, epochs=20
    ),
    "study_vanilla": Experiment(
        dataset="mnist",
        image_shape=(1, 28, 28),
        G=1_952_528,
        D=267_009,
        latent=STUDY_Z,
        lr=1e-3,
        batch_size=128,
        epochs=10,
    ),
    "study_lsgan": Experiment(
        dataset="mnist",
        image_shape=(1, 28, 28),
        G=1_952_528,
        D=267_009,
        loss=LeastSquares,
        latent=STUDY_Z,
        lr=1e-3,
        batch_size=128,
        epochs=10,
    ),
    "study_dcgan_lsgan": Experiment(
        dataset="mnist",
        image_shape=(1, 28, 28),
        G=6_675_009,
        D=1_102_721,
        loss=LeastSquares,
        latent=STUDY_Z,
        lr=1e-3,
        batch_size=128,
        epochs=5,
    ),
    "study_wgan_gp": wgan_gp(
        dataset="mnist",
        image_shape=(1, 28, 28),
        G=6_675_009,
        D=3_411_137,
        latent=STUDY_Z,
        betas=(0.5, 0.9),
        batch_size=128,
        epochs=6,
    ),
    "dcgan_cifar10": Experiment(
        dataset="cifar10",
        image_shape=(3, 64, 64),
        G=12_658_435,
        D=2_765_633,
        D_has_batch_norm=True,
        batch_size=128,
        epochs=5,
    ),
    "wgan_cifar10": wgan(dataset="cifar10", image_shape=(3, 64, 64), G=12_658_435, D=2_763_841, epochs=5),
    "toy": wgan_gp(
        dataset="gaussians_8",
        image_shape=(2,),
        G=527_874,
        D=527_361,
        regularizers={"gradient_penalty": 0.1},
        latent=Normal(z_dim=2),
        betas=(0.5, 0.9),
        batch_size=256,
        steps=10_000,
    ),
}
each = pytest.mark.parametrize("name", EXPERIMENTS)


@cache
def composed(name: str, *overrides: str) -> dict[str, Any]:
    register(fixed_run_dir=False)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", [f"experiment={name}", *overrides]), resolve=True)
        return config


def networks(name: str) -> tuple[nn.Module, nn.Module]:
    """G and D without their numbers, which take seconds to draw."""
    config, image_shape = composed(name), EXPERIMENTS[name].image_shape
    with torch.device("meta"):
        G = build_generator(config, image_shape, build_latent(config))
        return G, build_discriminator(config, image_shape)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def test_every_experiment_is_in_the_table() -> None:
    assert set(EXPERIMENTS) == {path.stem for path in CONF.glob("experiment/*.yaml")}


@each
def test_the_numbers_of_parameters_are_exact(name: str) -> None:
    G, D = networks(name)
    assert (num_parameters(G), num_parameters(D)) == (EXPERIMENTS[name].G, EXPERIMENTS[name].D)


@each
def test_samples_have_the_shape_of_the_data_and_one_logit_each(name: str) -> None:
    G, D = networks(name)
    z = torch.zeros(3, EXPERIMENTS[name].latent.z_dim, device="meta")
    assert G(z).shape == (3, *EXPERIMENTS[name].image_shape)
    assert D(G(z)).shape == (3,)


@each
def test_the_data(name: str) -> None:
    expected = EXPERIMENTS[name]
    dataset = composed(name)["dataset"]
    assert dataset["_target_"].endswith(f".{expected.dataset}")
    if "image_size" in dataset:
        native = {"mnist": 28, "fashion_mnist": 28}
        assert (dataset["image_size"] or native[expected.dataset]) == expected.image_shape[-1]


@each
def test_the_objective(name: str) -> None:
    config, expected = composed(name), EXPERIMENTS[name]
    assert type(build_loss(config)) is expected.loss
    assert {key: list(vars(r).values()) for key, r in build_regularizers(config).items()} == {
        key: [value] for key, value in expected.regularizers.items()
    }
    assert build_latent(config) == expected.latent


@each
def test_the_optimizers(name: str) -> None:
    config, expected = composed(name), EXPERIMENTS[name]
    assert all(value is None for value in config["discriminator_optimizer"].values())
    optimizer = build_optimizer("optimizer", config["optimizer"], nn.Linear(1, 1))
    assert type(optimizer) is (torch.optim.RMSprop if expected.betas is None else torch.optim.Adam)
    assert optimizer.defaults["lr"] == expected.lr
    assert optimizer.defaults.get("betas") == expected.betas
    assert optimizer.defaults["weight_decay"] == 0


@each
def test_the_schedule(name: str) -> None:
    config, expected = composed(name), EXPERIMENTS[name]
    assert config["batch_size"] == expected.batch_size
    assert (config["steps"], config["epochs"]) == (expected.steps, expected.epochs)
    warmup = config["critic_warmup"]
    warms_up = warmup["steps"] > 0 or warmup["every"] is not None
    assert (config["n_critic"], warmup if warms_up else None) == (expected.n_critic, expected.warmup)


@each
def test_no_wasserstein_critic_has_batch_norm(name: str, caplog: pytest.LogCaptureFixture) -> None:
    config, (_, D) = composed(name), networks(name)
    assert has_batch_norm(D) is EXPERIMENTS[name].D_has_batch_norm
    check_cross(D, build_loss(config), build_regularizers(config), config["allow"])
    assert not caplog.records


@each
def test_a_step_keeps_to_its_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device mixes with no other and has no numbers to give, so that what is left on the host is an error."""
    monkeypatch.setattr("gantrain.train.seed_everything", lambda *_, **__: None)  # it has no random numbers either
    config, expected = composed(name, "regularizer=[label_noise,input_noise]"), EXPERIMENTS[name]
    # What the experiment has, and the noises, which fit every one.
    regularizers = build_regularizers(composed(name)) | build_regularizers(config)
    for optimizer in ("optimizer", "discriminator_optimizer"):
        config[optimizer].pop("fused", None)
    meta, latent = torch.device("meta"), build_latent(config)
    if len(expected.image_shape) == 3:
        pixels = torch.zeros(10, *expected.image_shape, dtype=torch.uint8)
        dataset: Any = ImageDataset("zeros", pixels, labels=None, num_classes=None, fingerprint="f")
    else:
        dataset = build_dataset(config)
    batches = make_batches(dataset, batch_size=4, seed=0, device=meta, mirror=True, place="device")
    state = build_state(config, expected.image_shape, latent, meta)
    Runtime(device=meta, layout="channels_last").prepare(state)
    shown: list[Observations] = []

    def look(_: TrainState, observations: Observations) -> None:
        shown.append(observations)

    train(
        *(state, batches, latent, build_loss(config), regularizers),
        steps=2,
        n_critic=lambda _: 2,
        seed=0,
        device=meta,
        ema=build_ema(config),
        callbacks=[look],
    )
    assert len(shown) == 2
    assert {value.device for value in shown[-1].values() if isinstance(value, torch.Tensor)} == {meta}


def test_least_squares_has_labels_0_1_1() -> None:
    for name in ("study_lsgan", "study_dcgan_lsgan"):
        assert vars(build_loss(composed(name))) == {"fake_label": 0.0, "real_label": 1.0, "generator_label": 1.0}


def test_the_gaussian_pair() -> None:
    config, (G, D) = composed("gaussian"), networks("gaussian")
    assert (config["dataset"]["mean"], config["dataset"]["std"]) == (3.0, 1.0)
    for module, dims in ((G, [1, 16, 32, 16, 1]), (D, [1, 16, 16, 8, 1])):
        linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
        assert [linears[0].in_features, *(m.out_features for m in linears)] == dims
        assert {m.negative_slope for m in module.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}
        assert not any(isinstance(m, nn.Tanh) for m in module.modules())
    assert [m.p for m in D.modules() if isinstance(m, nn.Dropout)] == [0.5] * 3
    assert not any(isinstance(m, nn.Dropout) for m in G.modules())


@pytest.mark.parametrize("name", ["study_vanilla", "study_lsgan", "mlp_mnist"])
def test_the_fully_connected_pair_of_the_study(name: str) -> None:
    G, D = networks(name)
    assert [type(m) for m in G.modules() if isinstance(m, nn.ReLU | nn.Tanh)] == [nn.ReLU, nn.ReLU, nn.Tanh]
    assert [m.negative_slope for m in D.modules() if isinstance(m, nn.LeakyReLU)] == [0.01, 0.01]


@pytest.mark.parametrize("name", ["study_vanilla", "study_lsgan", "study_dcgan_lsgan", "study_wgan_gp"])
def test_the_study_shows_16_samples_every_250_steps(name: str) -> None:
    config = composed(name)
    assert (config["sample_every"], config["callback"]["samples"]["num"]) == (250, 16)


@pytest.mark.parametrize("name", ["dcgan_cifar10", "wgan_cifar10"])
def test_cifar10_shows_32_samples_every_100_steps(name: str) -> None:
    config = composed(name)
    assert (config["sample_every"], config["callback"]["samples"]["num"]) == (100, 32)


def test_celeba_is_cropped_or_squeezed() -> None:
    assert composed("dcgan_celeba")["dataset"]["crop"] == 178
    assert composed("dcgan_celeba", "dataset.crop=null")["dataset"]["crop"] is None


def test_noise_is_an_option_of_the_wide_dcgan() -> None:
    config = composed("dcgan_celeba_f128", "regularizer=[label_noise,input_noise]")
    regularizers = build_regularizers(config)
    assert {name: vars(r) for name, r in regularizers.items()} == {
        "label_noise": {"amount": 0.2},
        "input_noise": {"std": 0.07},
    }


def test_the_toy_critic_runs_on_every_2d_distribution() -> None:
    for dataset in ("gaussians_8", "gaussians_25", "swiss_roll"):
        config = composed("toy", f"dataset={dataset}")
        assert config["dataset"]["_target_"].endswith(dataset)
        assert config["model"]["generator"]["multipliers"] == [1, 1, 1]
        assert config["model"]["discriminator"]["activation"] == "relu"
