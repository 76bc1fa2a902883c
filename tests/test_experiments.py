"""The experiments: composed configs match the papers and the public repositories."""

import math
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from composing import composed as composed_of
from torch import nn

from gantrain.assemble import (
    build_dataset,
    build_discriminator,
    build_ema,
    build_generator,
    build_latent,
    build_objective,
    build_optimizer,
    build_state,
)
from gantrain.augment.ada import ADA
from gantrain.combinations import check_combination
from gantrain.command.arithmetic import NATIVE_SIZES
from gantrain.config import CONF, Config, CriticWarmup, selected_options
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import make_batches
from gantrain.datasets.labels import make_fake_labels
from gantrain.engine.runtime import Runtime
from gantrain.game import Objective
from gantrain.instantiate import make
from gantrain.losses.base import Loss, RelativisticLoss
from gantrain.losses.hinge import Hinge
from gantrain.losses.lsgan import LeastSquares
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.relativistic import Relativistic
from gantrain.losses.wasserstein import Wasserstein
from gantrain.models.interface import split_output, takes_labels
from gantrain.models.latent import Latent, Normal, Uniform
from gantrain.models.layers import has_batch_norm
from gantrain.regularizers.base import Regularizer
from gantrain.schedules.base import Clock
from gantrain.schedules.linear import Linear
from gantrain.train import TrainState, train
from gantrain.updates import Logs

Betas = tuple[float, float]
WARMUP = CriticWarmup(n_critic=100, steps=25, every=500)
DCGAN_Z = Normal(z_dim=100)
STUDY_Z = Uniform(z_dim=96, low=-1.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The expected settings of an experiment.

    `G` and `D` are numbers of parameters; `regularizers` maps names to options, `every` names to the intervals of lazy
    penalties, `strengths` augmentations to strengths; `lr` and `betas` are those of both optimizers, unless `D_lr` is
    given; `num_classes` is that of conditional networks; `decays` means that both learning rates decay linearly to 0,
    from the fraction `decays_from` of the steps.
    """

    dataset: str
    image_shape: tuple[int, ...]
    G: int
    D: int
    D_has_batch_norm: bool = False
    num_classes: int | None = None
    loss: type[Loss | RelativisticLoss] = NonSaturating
    regularizers: dict[str, dict[str, float]] = field(default_factory=dict)
    every: dict[str, int] = field(default_factory=dict)
    strengths: dict[str, float] = field(default_factory=dict)
    latent: Latent = DCGAN_Z
    lr: float = 2e-4
    D_lr: float | None = None
    betas: Betas | None = (0.5, 0.999)
    decays: bool = False
    decays_from: float = 0.0
    generator_batch_multiple: int = 1
    fake_labels: str = "real"
    n_critic: int = 1
    warmup: CriticWarmup | None = None
    batch_size: int = 64
    accumulate: int = 1
    epochs: float | None = None
    steps: int | None = None


def wgan(**facts: Any) -> Experiment:
    clip: dict[str, Any] = {
        "loss": Wasserstein,
        "regularizers": {"weight_clip": {"limit": 0.01}},
        "lr": 5e-5,
        "betas": None,
    }
    return Experiment(**clip, n_critic=5, **facts)


def wgan_gp(**facts: Any) -> Experiment:
    penalty: dict[str, Any] = {
        "loss": Wasserstein,
        "regularizers": {"gradient_penalty": {"weight": 10.0}},
        "n_critic": 5,
    }
    return Experiment(**penalty | {"lr": 1e-4, "betas": (0.0, 0.9)} | facts)


def sngan(**facts: Any) -> Experiment:
    cifar10: dict[str, Any] = {
        "dataset": "cifar10",
        "image_shape": (3, 32, 32),
        "loss": Hinge,
        "regularizers": {"dequantization": {"scale": 1 / 128}},
        "latent": Normal(z_dim=128),
        "betas": (0.0, 0.9),
        "decays": True,
        "n_critic": 5,
        "generator_batch_multiple": 2,
        "steps": 50_000,
    }
    return Experiment(**cifar10 | facts)


def conditional(**facts: Any) -> Experiment:
    options = {"num_classes": 10, "regularizers": {}, "generator_batch_multiple": 1, "fake_labels": "uniform"}
    return sngan(**options | {"steps": 100_000} | facts)


def r3gan(*, gamma: float, strength: float, **facts: Any) -> Experiment:
    parts: dict[str, Any] = {
        "loss": Relativistic,
        "regularizers": {"r1": {"gamma": gamma}, "r2": {"gamma": gamma}},
        "strengths": {"ada": strength},
    }
    return Experiment(**parts, latent=Normal(z_dim=64), betas=(0.0, 0.9), **facts)


def small(*, gamma: float, **facts: Any) -> Experiment:
    """R3GAN's objective with small networks, for a CPU."""
    objective: dict[str, Any] = {"loss": Relativistic, "regularizers": {"r1": {"gamma": gamma}, "r2": {"gamma": gamma}}}
    return Experiment(**objective, betas=(0.0, 0.99), decays=True, decays_from=0.5, **facts)


def stylegan2_ada(*, gamma: float, path_length: bool, **facts: Any) -> Experiment:
    parts: dict[str, Any] = {"regularizers": {"r1": {"gamma": gamma}}, "every": {"r1": 16}, "strengths": {"ada": 0.0}}
    if path_length:
        parts["regularizers"]["path_length"] = {
            "weight": 2.0,
            "decay": 0.01,
            "batch_shrink": 2,
            "mean": torch.zeros(()),
        }
        parts["every"]["path_length"] = 4
    return Experiment(**parts, latent=Normal(z_dim=512), lr=2.5e-3, betas=(0.0, 0.99), **facts)


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
    "digits": small(
        dataset="digits",
        image_shape=(1, 28, 28),
        G=336_177,
        D=115_201,
        num_classes=10,
        gamma=0.15,
        latent=Normal(z_dim=20),
        lr=2.5e-3,
        batch_size=32,
        steps=1800,
    ),
    "dcgan_folder": small(
        dataset="image_folder",
        image_shape=(3, 64, 64),
        G=1_100_224,
        D=693_760,
        gamma=0.5,
        strengths={"diffaugment": 0.5},
        lr=1e-3,
        batch_size=16,
        steps=4_000,
    ),
    "small_cifar10": small(
        dataset="cifar10",
        image_shape=(3, 32, 32),
        G=880_783,
        D=889_825,
        num_classes=10,
        gamma=0.02,
        latent=Normal(z_dim=64),
        lr=2e-3,
        batch_size=32,
        steps=12_000,
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
        regularizers={"gradient_penalty": {"weight": 0.1}},
        latent=Normal(z_dim=2),
        betas=(0.5, 0.9),
        batch_size=256,
        steps=10_000,
    ),
    # Parameters of G: the embedding 10 * 10, then 4x4 or 7x7 weights and BatchNorm's scale and shift:
    # 100 + (100 + 10) * 128 * 7 * 7 + 2 * 128 + 128 * 64 * 4 * 4 + 2 * 64 + 64 * 1 * 4 * 4 = 822,500.
    # D of cgan_mnist has 1 + 10 input channels:
    # 100 + 11 * 64 * 4 * 4 + 64 * 128 * 4 * 4 + 2 * 128 + 128 * 1 * 7 * 7 = 148,964.
    "cgan_mnist": Experiment(
        dataset="mnist",
        image_shape=(1, 28, 28),
        G=822_500,
        D=148_964,
        D_has_batch_norm=True,
        num_classes=10,
        batch_size=16,
        steps=2500,
    ),
    # D of acgan_mnist has 1 input channel, no embedding, and 1 + 10 outputs:
    # 1 * 64 * 4 * 4 + 64 * 128 * 4 * 4 + 2 * 128 + 128 * (1 + 10) * 7 * 7 = 201,344.
    "acgan_mnist": Experiment(
        dataset="mnist",
        image_shape=(1, 28, 28),
        G=822_500,
        D=201_344,
        D_has_batch_norm=True,
        num_classes=10,
        regularizers={"auxiliary_classifier": {"weight_real": 1.0, "weight_generator": 1.0}},
        batch_size=16,
        steps=2500,
    ),
    # Counts of the residual networks: the released code of Miyato 2018 (see tests/models/test_resnet.py).
    "sngan_cifar10": sngan(G=4_276_739, D=1_053_824),
    "wgan_gp_resnet_cifar10": sngan(
        G=1_204_483,
        D=1_053_825,
        loss=Wasserstein,
        regularizers={"gradient_penalty": {"weight": 10.0}, "dequantization": {"scale": 1 / 128}},
        steps=100_000,
    ),
    "cgan_pd_cifar10": conditional(G=4_304_387, D=1_055_105),
    "sagan_cifar10": conditional(G=4_386_308, D=1_075_586, lr=1e-4, D_lr=4e-4, n_critic=1, decays=False),
    "biggan_cifar10": conditional(G=9_416_196, D=2_415_170, latent=Normal(z_dim=80), betas=(0.5, 0.999), decays=False),
    "r3gan_cifar10": r3gan(
        dataset="cifar10",
        image_shape=(3, 32, 32),
        G=20_781_952,
        D=21_280_512,
        num_classes=10,
        gamma=0.05,
        strength=0.55,
        batch_size=512,
        steps=434_000,
    ),
    "r3gan_cifar10_uncond": r3gan(
        dataset="cifar10",
        image_shape=(3, 32, 32),
        G=20_732_160,
        D=20_683_776,
        gamma=0.05,
        strength=0.55,
        batch_size=512,
        steps=434_000,
    ),
    "r3gan_ffhq64": r3gan(
        dataset="image_folder",
        image_shape=(3, 64, 64),
        G=22_429_824,
        D=22_381_440,
        gamma=2.0,
        strength=0.3,
        batch_size=256,
        steps=97_656,
    ),
    "r3gan_ffhq256": r3gan(
        dataset="image_folder",
        image_shape=(3, 256, 256),
        G=23_057_952,
        D=23_009_568,
        gamma=150.0,
        strength=0.3,
        batch_size=256,
        steps=97_656,
    ),
    "r3gan_folder": r3gan(
        dataset="image_folder",
        image_shape=(3, 64, 64),
        G=22_429_824,
        D=22_381_440,
        gamma=2.0,
        strength=0.3,
        batch_size=64,
        steps=50_000,
    ),
    "stylegan2_ada_cifar10": stylegan2_ada(
        dataset="cifar10",
        image_shape=(3, 32, 32),
        G=19_947_539,
        D=20_720_641,
        gamma=0.01,
        path_length=False,
        batch_size=64,
        steps=1_562_500,
    ),
    "stylegan2_ada_cifar10_cond": stylegan2_ada(
        dataset="cifar10",
        image_shape=(3, 32, 32),
        G=20_215_315,
        D=23_089_664,
        num_classes=10,
        fake_labels="empirical",
        gamma=0.01,
        path_length=False,
        batch_size=64,
        steps=1_562_500,
    ),
    "stylegan2_ada_folder": stylegan2_ada(
        dataset="image_folder",
        image_shape=(3, 64, 64),
        G=22_243_608,
        D=23_407_361,
        gamma=0.0256,
        path_length=True,
        batch_size=32,
        steps=781_250,
    ),
    "lightweight_folder": Experiment(
        dataset="image_folder",
        image_shape=(3, 256, 256),
        G=24_047_931,
        D=9_726_824,
        loss=Hinge,
        regularizers={"r1": {"gamma": 13_520.0}, "r2": {"gamma": 13_520.0}, "reconstruction": {"weight": 0.25}},
        every={"r1": 4, "r2": 4},
        strengths={"diffaugment": 0.3},
        latent=Normal(z_dim=256),
        betas=(0.5, 0.9),
        batch_size=40,
        accumulate=4,
        steps=150_000,
    ),
}
each = pytest.mark.parametrize("name", EXPERIMENTS)


def composed(name: str, *overrides: str) -> Config:
    return composed_of(f"experiment={name}", *overrides)


def regularizers_of(config: Config) -> dict[str, Regularizer]:
    return build_objective(config).regularizers


@cache
def networks(name: str) -> tuple[nn.Module, nn.Module]:
    """Make G and D on the meta device, because initializing the weights takes seconds; tests must not change them."""
    config, expected = composed(name), EXPERIMENTS[name]
    latent = build_latent(config.latent)
    with torch.device("meta"):
        G = build_generator(config.model["generator"], expected.image_shape, latent, expected.num_classes)
        return G, build_discriminator(config.model["discriminator"], expected.image_shape, expected.num_classes)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def test_every_experiment_is_in_the_table() -> None:
    assert {*EXPERIMENTS} == {path.stem for path in CONF.glob("experiment/*.yaml")}


@each
def test_numbers_of_parameters_are_exact(name: str) -> None:
    G, D = networks(name)
    assert (num_parameters(G), num_parameters(D)) == (EXPERIMENTS[name].G, EXPERIMENTS[name].D)


@each
def test_samples_have_the_shape_of_the_data_and_one_logit_each(name: str) -> None:
    G, D = networks(name)
    z = torch.zeros(3, EXPERIMENTS[name].latent.z_dim, device="meta")
    y = torch.zeros(3, dtype=torch.int64, device="meta")
    x = G(z, y) if takes_labels(G) else G(z)
    assert x.shape == (3, *EXPERIMENTS[name].image_shape)
    assert split_output(D(x, y) if takes_labels(D) else D(x))[0].shape == (3,)
    assert takes_labels(G) is (EXPERIMENTS[name].num_classes is not None)


@each
def test_dataset_and_image_size(name: str) -> None:
    expected = EXPERIMENTS[name]
    dataset = composed(name).dataset
    assert dataset["_target_"].endswith(f".{expected.dataset}")
    if "image_size" in dataset:
        native = {"digits": 28, "mnist": 28, "fashion_mnist": 28, "cifar10": 32}
        assert (dataset["image_size"] or native[expected.dataset]) == expected.image_shape[-1]


@each
def test_loss_regularizers_and_latent(name: str) -> None:
    config, expected = composed(name), EXPERIMENTS[name]
    objective = build_objective(config)
    assert type(objective.loss) is expected.loss
    options = {key: vars(regularizer) for key, regularizer in objective.regularizers.items()}
    assert {key: {k: v for k, v in of.items() if k != "every"} for key, of in options.items()} == expected.regularizers
    assert {name: r.every for name, r in objective.regularizers.items() if r.every > 1} == expected.every
    assert {name: augment.strength for name, augment in objective.augment.items()} == expected.strengths
    assert build_latent(config.latent) == expected.latent


@each
def test_optimizers(name: str) -> None:
    config, expected = composed(name), EXPERIMENTS[name]
    assert config.discriminator_optimizer == {"lr": expected.D_lr, "betas": None}
    optimizer = build_optimizer("optimizer", config.optimizer, nn.Linear(1, 1))
    assert type(optimizer) is (torch.optim.RMSprop if expected.betas is None else torch.optim.Adam)
    assert optimizer.defaults["lr"] == expected.lr
    assert optimizer.defaults.get("betas") == expected.betas
    assert optimizer.defaults["weight_decay"] == 0


@each
def test_budget_and_critic_schedule(name: str) -> None:
    config, expected = composed(name), EXPERIMENTS[name]
    assert (config.batch_size, config.accumulate) == (expected.batch_size, expected.accumulate)
    assert (config.steps, config.epochs) == (expected.steps, expected.epochs)
    warmup = config.critic_warmup
    assert warmup is not None
    warms_up = warmup.steps > 0 or warmup.every is not None
    assert (config.n_critic, warmup if warms_up else None) == (expected.n_critic, expected.warmup)
    assert config.generator_batch_multiple == expected.generator_batch_multiple
    assert config.fake_labels == expected.fake_labels


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if not name.startswith("r3gan")])
def test_learning_rates_decay_only_where_the_paper_says_so(name: str) -> None:
    """For R3GAN see test_r3gan_training.py."""
    node = composed(name).schedule
    assert ("lr" in node) is EXPERIMENTS[name].decays
    assert node.keys() <= {"lr", "ema_halflife"}
    if "lr" in node:
        schedule = make("schedule.lr", node["lr"], Linear)
        assert schedule.of == ["optimizer.lr", "discriminator_optimizer.lr"]
        begin = EXPERIMENTS[name].decays_from
        expected = [min(1.0, (1 - fraction) / (1 - begin)) for fraction in (0.0, 0.25, 0.75, 1.0)]
        assert [schedule(Clock(fraction, 0)) for fraction in (0.0, 0.25, 0.75, 1.0)] == expected


@each
def test_batch_norm_is_as_expected_and_combinations_do_not_warn(name: str, caplog: pytest.LogCaptureFixture) -> None:
    config, (_, D) = composed(name), networks(name)
    assert has_batch_norm(D) is EXPERIMENTS[name].D_has_batch_norm
    check_combination(D, build_objective(config), config)
    assert not caplog.records


@each
def test_step_of_every_experiment_runs_on_the_meta_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation that mixes devices or reads values fails on the meta device."""
    monkeypatch.setattr(
        "gantrain.train.seed_everything", lambda *_, **__: None
    )  # the meta device has no random numbers
    config, expected = composed(name, "regularizer=[label_noise,input_noise]"), EXPERIMENTS[name]
    # The regularizers of the experiment, and both kinds of noise.
    own = build_objective(config)
    objective = Objective(own.loss, regularizers_of(composed(name)) | own.regularizers, own.augment)
    for node in (config.optimizer, config.discriminator_optimizer):
        node.pop("fused", None)
    meta, latent, num_classes = torch.device("meta"), build_latent(config.latent), expected.num_classes
    if len(expected.image_shape) == 3:
        pixels = torch.zeros(10, *expected.image_shape, dtype=torch.uint8)
        labels = torch.zeros(10, dtype=torch.int64) if num_classes else None
        dataset: Any = ImageDataset("zeros", pixels, labels=labels, num_classes=num_classes, fingerprint="f")
    else:
        dataset = build_dataset(config.dataset)
    batches = make_batches(
        dataset, batch_size=4, seed=0, device=meta, mirror=True, data_location="device", labels=num_classes is not None
    )
    state = build_state(config, dataset, latent, meta)
    Runtime(device=meta, layout="channels_last").prepare(state)
    seen: list[Logs] = []

    def look(_: TrainState, logs: Logs) -> None:
        seen.append(logs)

    train(
        *(state, batches, latent, objective),
        steps=2,
        n_critic=lambda _: 2,
        seed=0,
        device=meta,
        fake_labels=make_fake_labels(config.fake_labels, [1] * num_classes, meta) if num_classes else None,
        ema=build_ema(config),
        callbacks=[look],
    )
    assert len(seen) == 2
    assert {value.device for value in seen[-1].values() if isinstance(value, torch.Tensor)} == {meta}


def test_least_squares_has_labels_0_1_1() -> None:
    for name in ("study_lsgan", "study_dcgan_lsgan"):
        labels = vars(build_objective(composed(name)).loss)
        assert labels == {
            "fake_label": 0.0,
            "real_label": 1.0,
            "generator_label": 1.0,
        }


def test_layers_of_the_gaussian_networks() -> None:
    config, (G, D) = composed("gaussian"), networks("gaussian")
    assert (config.dataset["mean"], config.dataset["std"]) == (3.0, 1.0)
    for module, dims in ((G, [1, 16, 32, 16, 1]), (D, [1, 16, 16, 8, 1])):
        linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
        assert [linears[0].in_features, *(m.out_features for m in linears)] == dims
        assert {m.negative_slope for m in module.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}
        assert not any(isinstance(m, nn.Tanh) for m in module.modules())
    assert [m.p for m in D.modules() if isinstance(m, nn.Dropout)] == [0.5] * 3
    assert not any(isinstance(m, nn.Dropout) for m in G.modules())


@pytest.mark.parametrize("name", ["study_vanilla", "study_lsgan", "mlp_mnist"])
def test_activations_of_the_fully_connected_study_networks(name: str) -> None:
    G, D = networks(name)
    assert [type(m) for m in G.modules() if isinstance(m, nn.ReLU | nn.Tanh)] == [nn.ReLU, nn.ReLU, nn.Tanh]
    assert [m.negative_slope for m in D.modules() if isinstance(m, nn.LeakyReLU)] == [0.01, 0.01]


@pytest.mark.parametrize("name", ["study_vanilla", "study_lsgan", "study_dcgan_lsgan", "study_wgan_gp"])
def test_the_study_shows_16_samples_every_250_steps(name: str) -> None:
    config = composed(name)
    assert (config.sample_every, config.callback["samples"]["num"]) == (250, 16)


@pytest.mark.parametrize("name", ["dcgan_cifar10", "wgan_cifar10"])
def test_cifar10_shows_32_samples_every_100_steps(name: str) -> None:
    config = composed(name)
    assert (config.sample_every, config.callback["samples"]["num"]) == (100, 32)


def test_ema_of_biggan_begins_at_step_1000_and_decays_by_0_9999_per_step() -> None:
    assert [composed("biggan_cifar10", f"batch_size={n}").schedule["ema_halflife"]["finish"] for n in (32, 50)] == [
        32_000,
        50_000,
    ]
    config = composed("biggan_cifar10")
    assert config.ema_halflife_images is not None
    assert 0.5 ** (config.batch_size / config.ema_halflife_images) == pytest.approx(0.9999, abs=1e-9)
    assert config.ema_rampup is None
    schedule = make("schedule.ema_halflife", config.schedule["ema_halflife"], Linear)
    assert [schedule(Clock(0.0, step * 64)) for step in (0, 998, 999, 1000, 50_000)] == [0, 0, 0, 1, 1]


def test_celeba_crop_can_be_turned_off() -> None:
    assert composed("dcgan_celeba").dataset["crop"] == 178
    assert composed("dcgan_celeba", "dataset.crop=null").dataset["crop"] is None


def test_wide_dcgan_accepts_label_and_input_noise() -> None:
    config = composed("dcgan_celeba_f128", "regularizer=[label_noise,input_noise]")
    regularizers = regularizers_of(config)
    assert {name: vars(r) for name, r in regularizers.items()} == {
        "label_noise": {"amount": 0.2},
        "input_noise": {"std": 0.07},
    }


def test_toy_composes_with_every_2d_distribution() -> None:
    for dataset in ("gaussians_8", "gaussians_25", "swiss_roll"):
        config = composed("toy", f"dataset={dataset}")
        assert config.dataset["_target_"].endswith(dataset)
        assert config.model["generator"]["multipliers"] == [1, 1, 1]
        assert config.model["discriminator"]["activation"] == "relu"


@pytest.mark.parametrize(("name", "halflife"), [("r3gan_cifar10", 5e6), ("r3gan_ffhq64", 5e5), ("r3gan_ffhq256", 5e5)])
def test_presets_of_r3gan_change_their_values_over_20_million_images(name: str, halflife: float) -> None:
    config = composed(name)
    assert (config.ema_halflife_images, config.ema_rampup, config.horizontal_flip) == (halflife, None, True)
    ends = {"lr": (1.0, 0.25), "betas": (0.9, 0.99), "penalty": (1.0, 0.1), "ema_halflife": (0.0, 1.0)}
    ends["augment"] = (0.0, 1.0)
    for key, (start, end) in ends.items():
        assert config.schedule[key]["_target_"].endswith("Cosine")
        values = [config.schedule[key][option] for option in ("start", "end", "begin", "finish", "unit")]
        assert values == [start, end, 0.0, 2e7, "images"]
    ada = build_objective(config).augment["ada"]
    assert isinstance(ada, ADA)
    colors = {"brightness", "contrast", "lumaflip", "hue", "saturation"}
    for operation, multiple in ada.operations.items():
        assert multiple == (0.0 if operation in ("filter", "noise") else 0.5 if operation in colors else 1.0), operation
    assert ada.target is None


@pytest.mark.parametrize("schedule", ["[]", "[lr]"])
def test_schedules_of_r3gan_can_be_replaced(schedule: str) -> None:
    config = composed_of("model=r3gan", f"schedule={schedule}")
    assert selected_options(config.schedule, "schedule") == ([] if schedule == "[]" else ["lr"])


@pytest.mark.parametrize(
    ("size", "batch", "expected"),
    [
        # Image size and batch -> batch, gamma of R1, half-life of the EMA in images, group, width limit, learning rate.
        (128, None, (32, 0.1024, 10_000, 4, 32, 0.0025)),
        (256, 64, (64, 0.2048, 20_000, 4, 32, 0.0025)),
        (512, None, (8, 6.5536, 2_500, 4, 64, 0.0025)),
        (1024, None, (4, 52.4288, 1_250, 4, 64, 0.002)),
        (64, 2, (2, 0.4096, 625, 2, 32, 0.0025)),
    ],
)
def test_the_folder_preset_of_stylegan2_follows_image_size_and_batch(
    size: int, batch: int | None, expected: tuple[float, ...]
) -> None:
    typed = [] if batch is None else [f"batch_size={batch}"]
    config = composed("stylegan2_ada_folder", f"dataset.image_size={size}", *typed)
    G, D = config.model["generator"], config.model["discriminator"]
    found = (config.batch_size, config.regularizer["r1"]["gamma"], config.ema_halflife_images, D["minibatch_group"])
    assert G["full_width_until"] == D["full_width_until"]
    assert (*found, G["full_width_until"], config.optimizer["lr"]) == pytest.approx(expected)
    assert [type(value) for value in (config.batch_size, config.steps, D["minibatch_group"])] == [int] * 3
    assert config.steps == 25_000_000 // config.batch_size


def test_own_settings_of_the_folder_preset_of_stylegan2_win() -> None:
    config = composed("stylegan2_ada_folder", "regularizer.r1.gamma=3", "ema_halflife_images=7", "steps=9")
    assert (config.regularizer["r1"]["gamma"], config.ema_halflife_images, config.steps) == (3, 7, 9)


@pytest.mark.parametrize("name", ["stylegan2_ada_cifar10", "stylegan2_ada_cifar10_cond", "stylegan2_ada_folder"])
def test_presets_of_stylegan2_ada(name: str) -> None:
    config = composed(name)
    G, D = config.model["generator"], config.model["discriminator"]
    assert (config.first, config.ema_rampup, config.metric, config.schedule) == ("generator", 0.05, {}, {})
    assert (G["num_mapping_layers"], G["noise"], G["num_bf16_stages"], G["clamp"]) == (2, "random", 4, 256)
    is_cifar = "cifar10" in name
    assert (D["architecture"], D["minibatch_group"]) == (("orig", 32) if is_cifar else ("resnet", 4))
    assert G["style_mixing"] == (0 if is_cifar else 0.9)
    assert config.ema_halflife_images == (500_000 if is_cifar else 10_000)
    assert D.get("num_mapping_layers") == (8 if name.endswith("cond") else None)
    optimizer = build_optimizer("optimizer", config.optimizer, nn.Linear(1, 1))
    assert optimizer.defaults["eps"] == 1e-8
    ada = build_objective(config).augment["ada"]
    assert isinstance(ada, ADA)
    assert (ada.target, ada.interval, ada.images_to_one) == (0.6, 4, 500_000)
    assert ada.operations == {name: float(name not in ("filter", "noise", "cutout")) for name in ada.operations}


@pytest.mark.parametrize(
    ("typed", "gamma"),
    [
        # The experiments of the paper's sizes have the same numbers (see EXPERIMENTS).
        *(
            (("model=r3gan", f"dataset.image_size={size}"), g)
            for size, g in ((32, 0.05), (64, 2), (256, 150), (512, 150))
        ),
        (("model=r3gan", "dataset.image_size=128"), 17.0),
        *((("model=r3gan", f"dataset={name}"), 0.05) for name in ("cifar10", "svhn", "mnist")),
        (("model=r3gan", "dataset=npz"), 0.05),
        (("model=r3gan", "dataset=stl10"), 0.05),
        (("experiment=r3gan_folder", "dataset.image_size=256"), 150.0),
        (("model=lightweight", "dataset.image_size=256"), 13_520.0),
        (("model=lightweight", "dataset.image_size=64"), 845.0),
        (("model=lightweight", "dataset=cifar10"), 211.25),
        (("model=lightweight", "dataset=gaussians_8"), 13_520.0),  # no image size; these networks refuse vectors later
        (("experiment=lightweight_folder", "dataset.image_size=64"), 845.0),
        (("model=stylegan2_ada", "dataset=celeba", "batch_size=64"), 0.0128),
        (("model=stylegan2_ada", "dataset=cifar10", "batch_size=32"), 0.0064),
        (("model=stylegan2_ada", "dataset=celeba", "regularizer.r1.gamma=3"), 3),
        (("experiment=dcgan_folder", "dataset.image_size=32"), 0.125),
    ],
)
def test_gamma_follows_the_image_size(typed: tuple[str, ...], gamma: float) -> None:
    regularizers = composed_of(*typed).regularizer
    assert [regularizers[name]["gamma"] for name in ("r1", "r2") if name in regularizers] == pytest.approx(
        [gamma] * (1 + ("r2" in regularizers))
    )


def test_gamma_of_r3gan_at_128_px_lies_between_its_neighbours() -> None:
    gammas = [composed_of("model=r3gan", f"dataset.image_size={s}").regularizer["r1"]["gamma"] for s in (64, 128, 256)]
    assert gammas[1] == pytest.approx(math.sqrt(gammas[0] * gammas[2]), rel=0.02)


def test_native_sizes_are_those_of_the_data() -> None:
    """The sizes that ${image_size:...} takes for dataset.image_size=null are those of the dataset configs' comments."""
    said = {}
    for path in CONF.glob("dataset/*.yaml"):
        if found := re.search(r"null: the native size, (\d+)", text := path.read_text()):
            said[re.search(r"_target_: \S+\.(\w+)", text)[1]] = int(found[1])
    assert said == NATIVE_SIZES
