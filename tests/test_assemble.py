import logging
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composing import composed
from torch import Tensor, nn

from gantrain.assemble import (
    build_callbacks,
    build_dataset,
    build_ema,
    build_objective,
    build_optimizer,
    build_state,
    check_classes,
)
from gantrain.combinations import (
    check_combination,
    check_fake_labels,
    check_groups,
    check_has_effect,
    check_styles,
    warn_of_micro_batch_statistics,
)
from gantrain.command import trust
from gantrain.config import Config
from gantrain.datasets.base import ImageDataset
from gantrain.engine.device import choose_device
from gantrain.errors import ConfigError
from gantrain.game import Objective
from gantrain.instantiate import build
from gantrain.losses.base import Loss
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.ralsgan import RelativisticAverageLeastSquares
from gantrain.losses.wasserstein import Wasserstein
from gantrain.models.latent import Normal, Uniform
from gantrain.models.packing import Packed
from gantrain.models.stylegan2_ops import MinibatchStdDev
from gantrain.regularizers.auxiliary_classifier import AuxiliaryClassifier
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.label_noise import LabelNoise
from gantrain.regularizers.path_length import PathLength
from gantrain.regularizers.weight_clip import WeightClip

CPU = torch.device("cpu")
LATENT = Normal(z_dim=4)
UNIFORM = {"_target_": "gantrain.models.latent.Uniform", "z_dim": 4, "low": 0.0, "high": 1.0}
MLP = {
    "_target_": "gantrain.models.mlp.Generator",
    "width": 8,
    "multipliers": [1, 2],
    "activation": "relu",
    "slope": 0.2,
    "norm": "none",
    "init": "default",
    "output": "tanh",
}
ADAM = {"_target_": "torch.optim.Adam", "lr": 1e-3, "betas": [0.5, 0.999]}
WITH_BATCH_NORM = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
WITHOUT = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))


@dataclass
class Holder:
    values: Any
    node: Any


def small_images(num_classes: int | None = None) -> ImageDataset:
    labels = None if num_classes is None else torch.arange(10) % num_classes
    pixels = torch.zeros(10, 1, 4, 4, dtype=torch.uint8)
    return ImageDataset("zeros", pixels, labels=labels, num_classes=num_classes, fingerprint="f")


def state_of(*overrides: str, num_classes: int | None = None) -> Any:
    small = ["network=mlp", "model.generator.width=8", "model.discriminator.width=8"]
    return build_state(composed(*small, *overrides), small_images(num_classes), LATENT, CPU)


def test_build_takes_options_and_positional_arguments() -> None:
    assert build("latent", UNIFORM) == Uniform(z_dim=4, low=0.0, high=1.0)
    G = build("model.generator", MLP, (2, 3, 3), 5)
    assert G(torch.zeros(7, 5)).shape == (7, 2, 3, 3)


def test_int_is_accepted_for_a_float() -> None:
    assert build("latent", UNIFORM | {"low": -1, "high": 1}) == Uniform(z_dim=4, low=-1, high=1)


def test_lists_stay_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "trusted", [__name__])
    held = build("loss", {"_target_": f"{__name__}.Holder", "values": [1, [2]], "node": {"a": [3]}})
    assert [type(part) for part in (held.values, held.values[1], held.node, held.node["a"])] == [list, list, dict, list]


@pytest.mark.parametrize(
    ("node", "facts", "message"),
    [
        (
            UNIFORM | {"hihg": 1.0},
            (),
            r"latent.hihg is not an option of Uniform, which takes z_dim, low, high; leave it out \(~latent.hihg\)",
        ),
        (
            UNIFORM | {"hihg": 0.5, "lwo": 0.0},
            (),
            r"latent.hihg, latent.lwo are not options of Uniform, .*; leave them out \(~latent.hihg ~latent.lwo\)",
        ),
        (
            {"_target_": UNIFORM["_target_"], "z_dim": 4, "low": 0.0},
            (),
            r"latent: Uniform also needs high; .*high=\.\.\.",
        ),
        (UNIFORM | {"z_dim": "four"}, (), r"latent.z_dim=four has the wrong type; Uniform takes int"),
        (UNIFORM | {"z_dim": 4.5}, (), r"latent.z_dim=4.5 has the wrong type; Uniform takes int"),
        (UNIFORM | {"z_dim": True}, (), r"latent.z_dim=True has the wrong type; Uniform takes int"),
        (UNIFORM | {"low": False}, (), r"latent.low=False has the wrong type; Uniform takes float"),
        (UNIFORM | {"low": None}, (), r"latent.low=None has the wrong type; Uniform takes float"),
        (UNIFORM | {"low": 3.0}, (), r"latent: low=3.0, high=1.0: low must be below high"),
        (
            MLP | {"norm": "btach"},
            ((1,), 2),
            r"latent.norm=btach .*Generator takes one of batch, instance, layer, spectral, none",
        ),
        (MLP | {"multipliers": 3}, ((1,), 2), r"latent.multipliers=3 .*Generator takes a list of float"),
        (MLP | {"multipliers": ["a"]}, ((1,), 2), r"latent.multipliers=\['a'\] .*a list of float"),
        (MLP | {"multipliers": []}, ((1,), 2), r"latent: width=8, multipliers=\[\]: .*for two layers"),
        (MLP | {"z_dim": 3}, ((1,), 2), r"latent.z_dim is not an option of Generator"),
    ],
)
def test_a_wrong_option_is_named_with_its_remedy(node: dict[str, Any], facts: tuple[object, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("latent", node, *facts)


@pytest.mark.parametrize("target", ["gantrain.losses.lsgan.Cauchy", "nosuchmodule.Thing", "nosuchmodule..b"])
def test_a_target_that_cannot_be_imported_is_named(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "trusted", ["nosuchmodule"])
    with pytest.raises(ConfigError, match=rf"loss._target_={target} cannot be imported"):
        build("loss", {"_target_": target})


def test_config_errors_are_raised_unchanged() -> None:
    node = {"_target_": "gantrain.datasets.toys.gaussian", "mean": 0.0, "std": -1.0}
    with pytest.raises(ConfigError, match="std") as error:
        build("dataset", node)
    assert not str(error.value).startswith("dataset: ")


def test_errors_of_torch_name_the_config_key() -> None:
    with pytest.raises(ConfigError, match=r"optimizer: .*weight_decay"):
        build_optimizer("optimizer", ADAM | {"weight_decay": -1.0}, nn.Linear(1, 1))


def test_unknown_option_of_a_torch_optimizer_is_named() -> None:
    with pytest.raises(ConfigError, match=r"optimizer.momentun is not an option of SGD, which takes lr, momentum"):
        build_optimizer("optimizer", {"_target_": "torch.optim.SGD", "lr": 0.1, "momentun": 0.9}, nn.Linear(1, 1))


def test_int_betas_are_converted_to_float() -> None:
    optimizer = build_optimizer("optimizer", ADAM | {"betas": [0, 0.9]}, nn.Linear(1, 1))
    assert optimizer.defaults["betas"] == (0.0, 0.9)
    assert all(isinstance(beta, float) for beta in optimizer.defaults["betas"])


def test_discriminator_optimizer_defaults_to_that_of_the_generator() -> None:
    state = state_of("optimizer.lr=3e-4", "optimizer.betas=[0,0.9]")
    assert type(state.D_optimizer) is type(state.G_optimizer) is torch.optim.Adam
    assert state.D_optimizer.defaults == state.G_optimizer.defaults
    assert state.D_optimizer.defaults["lr"] == 3e-4


def test_discriminator_optimizer_overrides_single_options() -> None:
    state = state_of("optimizer.lr=2e-4", "discriminator_optimizer.lr=1e-5", "optimizer.betas=[0.1,0.9]")
    assert (state.G_optimizer.defaults["lr"], state.D_optimizer.defaults["lr"]) == (2e-4, 1e-5)
    assert list(state.D_optimizer.defaults["betas"]) == [0.1, 0.9]


def test_the_discriminator_may_have_another_optimizer() -> None:
    state = state_of("discriminator_optimizer=sgd", "discriminator_optimizer.lr=0.5")
    assert isinstance(state.G_optimizer, torch.optim.Adam)
    assert isinstance(state.D_optimizer, torch.optim.SGD)
    assert state.D_optimizer.defaults["lr"] == 0.5
    assert state.D_optimizer.defaults["momentum"] == 0.5


def test_betas_of_an_optimizer_without_betas_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"discriminator_optimizer.betas is not an option of SGD"):
        state_of("optimizer=sgd", "discriminator_optimizer.betas=[0.5,0.9]")


def test_each_optimizer_holds_its_own_network() -> None:
    state = state_of()
    for optimizer, network in ((state.G_optimizer, state.G), (state.D_optimizer, state.D)):
        (group,) = optimizer.param_groups
        assert all(a is b for a, b in zip(group["params"], network.parameters(), strict=True))


def test_initial_weights_depend_only_on_the_seed() -> None:
    def first_weights(seed: int) -> dict[str, torch.Tensor]:
        state = state_of(f"seed={seed}")
        return {**{f"G.{k}": v for k, v in state.G.state_dict().items()}, **state.D.state_dict()}

    torch.manual_seed(1)
    expected = first_weights(0)
    torch.manual_seed(2)
    torch.testing.assert_close(first_weights(0), expected, atol=0, rtol=0)
    other = first_weights(1)
    assert not any(torch.equal(other[name], expected[name]) for name in expected)


def test_ema_starts_as_a_copy_of_the_generator() -> None:
    assert state_of().G_ema is None
    state = state_of("ema_halflife_images=1000")
    torch.testing.assert_close(state.G_ema.state_dict(), state.G.state_dict(), atol=0, rtol=0)
    assert not any(p.requires_grad for p in state.G_ema.parameters())
    assert all(a is not b for a, b in zip(state.G_ema.parameters(), state.G.parameters(), strict=True))
    assert build_ema(Config()) is None
    ema = build_ema(Config(ema_halflife_images=1000, ema_rampup=0.05))
    assert ema is not None
    assert (ema.halflife_images, ema.rampup) == (1000, 0.05)


@pytest.mark.parametrize("network", ["cmlp", "cdcgan", "acgan"])
def test_a_conditional_network_without_labels_is_refused(network: str) -> None:
    with pytest.raises(ConfigError, match=r"is class-conditional, but dataset=zeros has no labels.*network=dcgan"):
        build_state(composed(f"network={network}"), small_images(), LATENT, CPU)


def test_a_conditional_network_has_the_classes_of_the_data() -> None:
    small = ("network=cmlp", "model.generator.width=8", "model.discriminator.width=8")
    state: Any = build_state(composed(*small), small_images(num_classes=7), LATENT, CPU)
    assert state.G.num_classes == state.D.num_classes == 7
    y = torch.tensor([0, 6])
    assert state.D(state.G(torch.zeros(2, 4), y), y).shape == (2,)


def test_unconditional_network_ignores_the_classes_of_the_data() -> None:
    state = state_of(num_classes=7)
    assert not hasattr(state.G, "num_classes")
    assert state.D(state.G(torch.zeros(2, 4))).shape == (2,)


def test_packed_discriminator_returns_one_logit_per_pack() -> None:
    state = state_of("packing=2")
    assert state.D(torch.zeros(6, 1, 4, 4)).shape == (3,)


def test_a_packed_discriminator_with_labels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"packing=2 with .*conditional_mlp.Discriminator"):
        build_state(composed("network=cmlp", "packing=2"), small_images(num_classes=2), LATENT, CPU)


def test_regularizers_keep_the_order_given() -> None:
    names = ["weight_clip", "gradient_penalty", "label_noise"]
    regularizers = build_objective(composed(f"regularizer=[{','.join(names)}]")).regularizers
    assert list(regularizers) == names
    assert [type(r) for r in regularizers.values()] == [WeightClip, GradientPenalty, LabelNoise]


class Misspelled(Regularizer):
    """Its method has a name that the training does not call."""

    def penalty(self, critic: Critic, batch: UpdateBatch) -> Tensor:
        return batch.real_logits.mean()


def test_a_regularizer_that_overrides_no_method_of_the_training_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "trusted", [__name__])
    config = composed(f"+regularizer.own._target_={__name__}.Misspelled")
    message = (
        rf"regularizer\.own: {__name__}\.Misspelled has no effect, because a regularizer must override at least one of "
        "perturb_real, perturb, discriminator_penalty, generator_penalty, project; check the names of its methods"
    )
    with pytest.raises(ConfigError, match=message):
        build_objective(config)


@pytest.mark.parametrize("hook", ["perturb_real", "perturb", "discriminator_penalty", "generator_penalty", "project"])
def test_a_regularizer_that_overrides_one_method_of_the_training_is_accepted(hook: str) -> None:
    own = type("Own", (Regularizer,), {hook: lambda *_: None})
    check_has_effect({"own": type("Inherits", (own,), {})()})


def test_options_of_a_callback_that_was_not_chosen_are_ignored() -> None:
    callbacks = build_callbacks(composed("experiment=study_vanilla", "callback=[log]").callback)
    assert [type(callback).__name__ for callback in callbacks] == ["Log"]


def test_auto_chooses_an_available_device() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto") == torch.device(expected)
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(("name", "number"), [("auto", 0), ("cuda", 0), ("cuda:3", 3)])
def test_gpu_device_has_an_index(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """torch.cuda.set_device needs a device with an index."""
    made: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch, "empty", lambda _, device: SimpleNamespace(device=torch.device("cuda", device.index or 0))
    )
    monkeypatch.setattr(torch._C, "_cuda_setDevice", made.append, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", torch.backends.cudnn.deterministic)
    assert choose_device(name) == torch.device("cuda", number)
    assert made == [number]


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "cpu:x", "", "meta", "mps"])
def test_missing_device_is_named_with_a_remedy(name: str) -> None:
    if name == "mps" and torch.mps.is_available():
        pytest.skip("it is there")
    with pytest.raises(
        ConfigError,
        match=rf"runtime.device={name}(: must be one of .*| is not available \(.+\)); use runtime.device=cpu",
    ):
        choose_device(name)


PENALTY: dict[str, Regularizer] = {"gradient_penalty": GradientPenalty(weight=10.0, every=1)}
CLIP: dict[str, Regularizer] = {"weight_clip": WeightClip(limit=0.01)}


def check(D: nn.Module, loss: Loss, regularizers: dict[str, Regularizer], allow: list[str]) -> None:
    check_combination(D, Objective(loss, regularizers), Config(allow=allow))


def test_gradient_penalty_with_batch_norm_is_refused_unless_allowed_by_name(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=r"model.discriminator.norm=none.*allow=\[gradient_penalty_with_batch_norm\]"):
        check(WITH_BATCH_NORM, Wasserstein(), PENALTY, [])
    check(WITH_BATCH_NORM, Wasserstein(), PENALTY, ["gradient_penalty_with_batch_norm"])
    check(WITHOUT, Wasserstein(), PENALTY, [])
    assert not caplog.records


def test_allow_uses_the_configured_name_of_the_penalty() -> None:
    regularizers = {"mine": PENALTY["gradient_penalty"]}
    with pytest.raises(ConfigError, match=r"regularizer=mine .*allow=\[mine_with_batch_norm\]"):
        check(WITH_BATCH_NORM, Wasserstein(), regularizers, [])


@pytest.mark.parametrize(
    ("regularizers", "allow", "message"),
    [
        ({}, ["gradient_penalty_with_batch_norm"], r"allow=\[gradient_penalty_with_batch_norm\]: .*leave it out"),
        (PENALTY, ["batch_norm"], r"allow=\[batch_norm\]: .*it has gradient_penalty_with_batch_norm"),
        (CLIP, ["weight_clip_with_batch_norm"], "this config has no such combination"),
    ],
)
def test_unneeded_entries_of_allow_are_refused(
    regularizers: dict[str, Regularizer], allow: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(WITHOUT, Wasserstein(), regularizers, allow)


def test_weight_clipping_with_batch_norm_warns(caplog: pytest.LogCaptureFixture) -> None:
    check(WITHOUT, Wasserstein(), CLIP, [])
    assert not caplog.records
    check(WITH_BATCH_NORM, Wasserstein(), CLIP, [])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "regularizer=weight_clip with BatchNorm" in record.getMessage()
    assert "model.discriminator.norm=none" in record.getMessage()


@pytest.mark.parametrize("regularizers", [{}, {"label_noise": LabelNoise(amount=0.2)}])
def test_wasserstein_loss_without_a_lipschitz_bound_warns(
    regularizers: dict[str, Regularizer], caplog: pytest.LogCaptureFixture
) -> None:
    check(WITHOUT, NonSaturating(), regularizers, [])
    assert not caplog.records
    check(WITHOUT, Wasserstein(), regularizers, [])
    (record,) = caplog.records
    assert "loss: Wasserstein" in record.getMessage()
    assert "regularizer=[gradient_penalty] or regularizer=[weight_clip]" in record.getMessage()


@pytest.mark.parametrize("regularizers", [PENALTY, CLIP])
def test_wasserstein_loss_with_a_lipschitz_bound_does_not_warn(
    regularizers: dict[str, Regularizer], caplog: pytest.LogCaptureFixture
) -> None:
    check(WITHOUT, Wasserstein(), regularizers, [])
    assert not caplog.records


@pytest.mark.parametrize(
    ("networks", "loss", "named"),
    [
        ((WITHOUT, WITHOUT), NonSaturating(), ""),
        ((WITH_BATCH_NORM, WITHOUT), NonSaturating(), "the generator"),
        ((WITHOUT, WITH_BATCH_NORM), NonSaturating(), "the discriminator"),
        (
            (WITH_BATCH_NORM, WITH_BATCH_NORM),
            RelativisticAverageLeastSquares(),
            "the generator, the discriminator, the loss",
        ),
        ((WITHOUT, Packed(WITHOUT, packing=2)), NonSaturating(), ""),
        ((WITHOUT, Packed(WITH_BATCH_NORM, packing=2)), NonSaturating(), "the discriminator"),
    ],
)
def test_statistics_over_samples_with_micro_batches_warn(
    networks: tuple[nn.Module, nn.Module], loss: Any, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    objective = Objective(loss, {})
    warn_of_micro_batch_statistics(*networks, objective, Config(accumulate=1))
    assert not caplog.records
    warn_of_micro_batch_statistics(*networks, objective, Config(accumulate=4, batch_size=64))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == bool(named)
    assert all(f"(BatchNorm and the like, in {named}) are those of each micro-batch of 16" in m for m in messages)


@pytest.mark.parametrize("attribute", ["num_classes", "num_aux_classes"])
def test_networks_for_labels_need_data_with_the_same_classes(attribute: str) -> None:
    network = nn.Linear(2, 2)
    setattr(network, attribute, 10)
    check_classes("discriminator", WITHOUT, composed_dataset("gaussians_8"))
    check_classes("discriminator", network, composed_dataset("digits"))
    with pytest.raises(
        ConfigError, match=rf"model.discriminator: .*Linear has {attribute}=10, but dataset=gaussians_8"
    ):
        check_classes("discriminator", network, composed_dataset("gaussians_8"))
    setattr(network, attribute, 9)
    with pytest.raises(ConfigError, match=rf"{attribute}=9, but dataset=digits has 10 classes"):
        check_classes("discriminator", network, composed_dataset("digits"))


def test_fake_labels_of_unconditional_networks_are_refused() -> None:
    conditional = nn.Linear(2, 2)
    conditional.num_classes = 10  # type: ignore[assignment]
    config = Config(fake_labels="uniform")
    check_fake_labels(conditional, WITHOUT, config)
    check_fake_labels(WITHOUT, WITHOUT, Config())
    with pytest.raises(ConfigError, match=r"fake_labels=uniform: the networks are unconditional.*network=cdcgan"):
        check_fake_labels(WITHOUT, WITHOUT, config)


def composed_dataset(name: str) -> Any:
    return build_dataset(composed(f"dataset={name}").dataset)


def test_a_regularizer_of_styles_needs_a_generator_with_styles() -> None:
    objective = Objective(NonSaturating(), {"path": PathLength(weight=1.0, decay=0.1, batch_shrink=1, every=4)})
    with pytest.raises(ConfigError, match=r"regularizer=path needs .* styles, and .*Linear has none: use network=s"):
        check_styles(nn.Linear(1, 1), objective)
    with_styles = nn.Linear(1, 1)
    with_styles.styles = with_styles.synthesize = nn.Identity()
    check_styles(with_styles, objective)
    check_styles(nn.Linear(1, 1), Objective(NonSaturating(), {}))


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "packing", "example"),
    [(64, 1, 1, None), (3, 1, 1, None), (64, 8, 2, None), (6, 1, 1, 8), (18, 3, 1, 24), (48, 2, 4, 64), (7, 1, 1, 8)],
)
def test_a_batch_consists_of_whole_groups(batch_size: int, accumulate: int, packing: int, example: int | None) -> None:
    D = nn.Sequential(MinibatchStdDev(group=4, num_channels=1))
    config = Config(batch_size=batch_size, accumulate=accumulate, packing=packing)
    if example is None:
        check_groups(D, config)
        return
    other = "" if batch_size == 7 else r", or model\.discriminator\.minibatch_group=3"  # groups of 1 have no deviation
    rule = rf"batch_size={batch_size}: .*minibatch_group=4; for .*batch_size={example}{other}\."
    with pytest.raises(ConfigError, match=rule):
        check_groups(D, config)
    check_groups(D, replace(config, batch_size=example))


def test_auxiliary_classifier_loss_needs_a_classifier() -> None:
    classify: dict[str, Regularizer] = {"mine": AuxiliaryClassifier(weight_real=1.0, weight_generator=0.1)}
    with pytest.raises(ConfigError, match=r"regularizer=mine trains a classifier, but .*Sequential has none"):
        check(WITHOUT, NonSaturating(), classify, [])
    with_classifier = nn.Sequential(nn.Linear(2, 2))
    with_classifier.num_aux_classes = 10  # type: ignore[assignment]
    check(with_classifier, NonSaturating(), classify, [])


@pytest.mark.parametrize(
    ("loss", "means_real"),
    [
        *(("nonsaturating", True), ("minimax", True), ("hinge", True)),
        *(("lsgan", False), ("wasserstein", False), ("relativistic", False), ("ralsgan", False)),
    ],
)
def test_augmentation_that_adapts_to_the_sign_of_logits_needs_a_loss_that_gives_it_a_meaning(
    loss: str, means_real: bool
) -> None:
    # Of the others, adding a number to all logits changes nothing, or 0 is not between the labels.
    adaptive = composed(f"loss={loss}", "augment=[ada]")
    fixed = composed(f"loss={loss}", "augment=[ada]", "augment.ada.target=null", "augment.ada.strength=0.3")
    check_combination(WITHOUT, build_objective(fixed), Config())
    if means_real:
        check_combination(WITHOUT, build_objective(adaptive), Config())
        return
    with pytest.raises(ConfigError, match=r"augment=\[ada\] .*Use loss=nonsaturating .*augment\.ada\.target=null"):
        check_combination(WITHOUT, build_objective(adaptive), Config())
