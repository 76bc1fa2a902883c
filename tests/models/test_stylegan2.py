"""StyleGAN2's networks: golden numbers, published parameter counts, styles, noise and precision."""

from pathlib import Path
from typing import Any

import pytest
import stylegan2_golden as golden_networks
import torch
from oracles import load, oracle_files, texts
from torch import Tensor, nn

from gantrain.game import Game, Objective
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.models import conditional_stylegan2, stylegan2
from gantrain.models.interface import takes_labels
from gantrain.models.stylegan2_parts import StyledConv, mix_styles
from gantrain.regularizers.base import UpdateBatch
from gantrain.regularizers.input_gradient import input_gradient
from gantrain.regularizers.path_length import PathLength
from gantrain.regularizers.r1 import R1
from gantrain.schedules.base import Clock

OF_G: dict[str, Any] = {
    "w_dim": 512,
    "num_mapping_layers": 2,
    "mapping_lr_multiplier": 0.01,
    "width": 512,
    "full_width_until": 32,
    "style_mixing": 0.9,
    "noise": "random",
    "w_avg_decay": 0.995,
    "num_bf16_stages": 4,
    "clamp": 256.0,
}
OF_D: dict[str, Any] = {
    "architecture": "resnet",
    "width": 512,
    "full_width_until": 32,
    "minibatch_group": 4,
    "num_bf16_stages": 4,
    "clamp": 256.0,
}
SMALL = {"w_dim": 6, "width": 4, "full_width_until": 8}
LABELS = {"num_classes": 3, "num_mapping_layers": 2, "mapping_lr_multiplier": 0.01}
VALUES = {torch.float64: 2e-7, torch.float32: 2e-5}
GRADIENTS = {torch.float64: 2e-7, torch.float32: 2e-4}
each_precision = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def each(pattern: str) -> Any:
    return pytest.mark.parametrize("path", oracle_files(pattern), ids=lambda path: path.stem)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def unused(*_: Any) -> Any:
    raise AssertionError("only what a penalty needs is computed")


def small_G(size: int = 16, **options: Any) -> stylegan2.Generator:
    torch.manual_seed(0)
    return stylegan2.Generator((3, size, size), 5, **OF_G | SMALL | options)


def small_D(size: int = 16, **options: Any) -> stylegan2.Discriminator:
    torch.manual_seed(0)
    return stylegan2.Discriminator((3, size, size), **OF_D | {"width": 4, "full_width_until": 8} | options)


@each_precision
@each("sg2_mapping_*.npz")
def test_mapping_and_mean_of_w_are_the_golden_ones(path: Path, dtype: torch.dtype) -> None:
    golden, tolerance = load(path, dtype), VALUES[dtype]
    mapping = golden_networks.mapping(golden, "g.map")
    labels = [golden["in.label"]] if "in.label" in golden else []
    z = golden["in.z"]
    w = mapping(z, *labels)
    close(w, golden["out.w"], tolerance)
    # The mapping network and its mean as a part of G.
    G = small_G(w_dim=w.shape[1], style_mixing=0.0).to(dtype)
    G.mapping, G.w_avg = mapping, golden["g.map.w_avg"].clone()
    styles = G.eval().styles(z, *labels)
    close(G.truncate(styles, 0.7)[:, 0], golden["out.w_truncated_psi0.7"], tolerance)
    close(G.truncate(styles, 0.5)[:, 0], golden["out.w_truncated_psi0.5_cutoff2"][:, 0], tolerance)
    close(G.w_avg, golden["g.map.w_avg"], 0)
    G.train().styles(z, *labels)
    close(G.w_avg, golden["out.w_avg_after_one_train_forward"], tolerance)
    G.styles(1.5 * z.flip(0) + 0.25, *labels)
    close(G.w_avg, golden["out.w_avg_after_second_train_forward"], tolerance)


@each_precision
@each("sg2_generator_*.npz")
def test_every_stage_of_G_gives_the_golden_features(path: Path, dtype: torch.dtype) -> None:
    golden, tolerance = load(path, dtype), VALUES[dtype]
    G, seen = golden_networks.generator(golden).eval(), {}
    sizes = golden_networks.sizes_of(golden, "g.synth")
    for size, stage in zip(sizes, G.stages, strict=True):

        def keep(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor], size: int = size) -> None:
            seen[f"out.features_r{size}"], seen[f"out.rgb_r{size}"] = output[0][:1], output[1][:1]

        stage.register_forward_hook(keep)
    close(G(golden["in.z"]), golden["out.image_noise_const"], tolerance)
    assert {name for name in golden if name.startswith(("out.features_", "out.rgb_"))} <= seen.keys()
    for name in seen.keys() & golden.keys():
        close(seen[name], golden[name], tolerance)
    styles = G.styles(golden["in.z"])
    close(styles[:, 0], golden["out.w"], tolerance)
    close(G.synthesize(G.truncate(styles[:1], 0.6)), golden["out.image_noise_const_psi0.6"], tolerance)
    mixed = torch.cat([styles[:1, :3], styles[-1:, 3:]], dim=1)
    close(G.synthesize(mixed), golden["out.image_noise_const_style_mix_from_layer3"], tolerance)
    G.noise = "none"
    close(G(golden["in.z"][:1]), golden["out.image_noise_none"], tolerance)


@each_precision
@each("sg2_generator_*.npz")
def test_path_length_penalty_and_its_gradients_are_golden(
    path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = load(path, dtype)
    G = golden_networks.generator(golden)
    noise, n = golden["in.path_noise_unscaled"], len(golden["in.z"])
    monkeypatch.setattr("gantrain.regularizers.path_length.own_rows", lambda _, shape: noise)
    path_length = PathLength(weight=2.0, decay=0.01, batch_shrink=n // len(noise), every=4)
    path_length.mean = golden["in.path_mean_before"].clone()
    batch = UpdateBatch(Clock(0.0, 0), real=unused, fake=unused, augment=unused, discriminate=unused, num_fake=n)
    penalty = path_length.generator_penalty(G, lambda n: (golden["in.z"][:n], None), batch)
    # In float32 an input of a leaky ReLU of 6e-8 has the wrong sign, and so the wrong slope.
    gradient, tolerance = {torch.float64: (2e-7, 2e-7), torch.float32: (1e-3, 1e-4)}[dtype]
    close(penalty, 2 * golden["out.path_penalty_per_sample_unweighted"].mean(), gradient)
    close(path_length.mean, golden["out.path_mean_after"], tolerance)
    penalty.backward()
    found = golden_networks.generator_tensors(G, golden_networks.sizes_of(golden, "g.synth"))
    gradients = [found[name].grad for name in texts(path, "g.parameter_names")]
    norms = torch.stack([torch.zeros((), dtype=dtype) if g is None else g.norm() for g in gradients])
    close(norms, golden["out.path_reg_grad_norms"], gradient)


@each_precision
@each("sg2_discriminator_*.npz")
def test_discriminator_losses_and_gradients_are_golden(path: Path, dtype: torch.dtype) -> None:
    golden, value, gradient = load(path, dtype), VALUES[dtype], GRADIENTS[dtype]
    D: Any = golden_networks.discriminator(golden, golden_networks.group_of(golden))
    y = golden.get("in.label")
    labels = [] if y is None else [y]
    sizes, seen = golden_networks.sizes_of(golden, "d"), {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen.setdefault(name, output)  # the first call has the real images

        return hook

    for size, stage in zip(sizes[:0:-1], D.stages, strict=True):
        stage.register_forward_hook(keep(f"out.features_after_r{size}"))
    D.deviation.register_forward_hook(keep("out.minibatch_std_channel"))
    if labels:
        D.mapping.register_forward_hook(keep("out.label_embedding"))
    real_logits, fake_logits = D(golden["in.real"], *labels), D(golden["in.fake"], *labels)
    close(real_logits, golden["out.logit_real"], value)
    close(fake_logits, golden["out.logit_fake"], value)
    seen["out.minibatch_std_channel"] = seen["out.minibatch_std_channel"][:, -1, 0, 0]
    for name, features in seen.items():
        close(features[: len(golden[name])], golden[name], value)

    loss = NonSaturating()
    d_loss = loss.discriminator(real_logits, fake_logits)
    close(d_loss, golden["out.d_main_loss_per_sample"].mean(), value)
    close(loss.generator(fake_logits), golden["out.g_main_loss_per_sample"].mean(), value)
    names, found = texts(path, "d.parameter_names"), golden_networks.discriminator_tensors(D, sizes)

    def norms() -> Tensor:
        gradients = [found[name].grad for name in names]
        D.zero_grad()
        return torch.stack([torch.zeros((), dtype=dtype) if g is None else g.norm() for g in gradients])

    d_loss.backward()
    close(norms(), golden["out.d_main_grad_norms"], gradient)
    game = Game(
        *(nn.Identity(), D, Objective(loss)),
        generator_rows=1,
        precision=lambda network: network,
        latent=torch.randn,
        fake_labels=None,
        device=torch.device("cpu"),
    )
    critic = game.critic(Clock(0.0, 0))
    squares = input_gradient(critic, golden["in.real"], y).square().sum((1, 2, 3))
    close(squares, golden["out.r1_per_sample"], gradient)
    batch = UpdateBatch(
        Clock(0.0, 0), real=lambda: (golden["in.real"], y), fake=unused, augment=unused, discriminate=unused
    )
    r1 = R1(gamma=float(golden["hyper.r1_gamma"]), every=16).discriminator_penalty(critic, batch)
    close(r1, golden["out.r1_loss_per_sample"].mean(), gradient)
    (16 * r1).backward()
    close(norms(), golden["out.d_reg_grad_norms_interval16"], gradient)


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


EIGHT, WIDE = {"num_mapping_layers": 8}, {"full_width_until": 64}


@pytest.mark.parametrize(
    ("size", "channels", "classes", "options", "of_G", "of_D", "num_styles", "num_buffered"),
    [
        (32, 3, None, {"architecture": "orig"}, 19_947_539, 20_720_641, 8, 3_392),  # CIFAR-10
        (32, 3, 10, {"architecture": "orig"}, 20_215_315, 23_089_664, 8, 3_392),
        (32, 3, None, {}, 19_947_539, 21_507_073, 8, 3_392),
        (64, 3, None, {}, 22_243_608, 23_407_361, 10, 11_632),
        (64, 3, 10, {}, 22_511_384, 25_776_384, 10, 11_632),
        (64, 1, None, {}, 22_238_990, 23_406_849, 10, 11_632),
        (128, 3, None, {}, 22_949_277, 23_882_369, 12, 44_448),
        (256, 3, None, {}, 23_191_522, 24_001_089, 14, 175_568),
        (512, 3, None, WIDE, 28_700_647, 28_982_849, 16, None),
        (256, 3, None, EIGHT, 24_767_458, 24_001_089, 14, 175_568),
        (256, 3, None, EIGHT | WIDE, 30_034_338, 28_864_129, 14, 175_568),
        (1024, 3, None, EIGHT | WIDE, 30_370_060, 29_012_513, 18, None),
    ],
)
def test_published_numbers_of_parameters(
    size: int,
    channels: int,
    classes: int | None,
    options: dict[str, Any],
    of_G: int,
    of_D: int,
    num_styles: int,
    num_buffered: int | None,
) -> None:
    shape = (channels, size, size)
    for_G = OF_G | {name: value for name, value in options.items() if name in OF_G}
    for_D = OF_D | {name: value for name, value in options.items() if name in OF_D}
    with torch.device("meta"):
        if classes is None:
            G, D = stylegan2.Generator(shape, 512, **for_G), stylegan2.Discriminator(shape, **for_D)
        else:
            labels = LABELS | {"num_classes": classes, "num_mapping_layers": 8}
            G = conditional_stylegan2.Generator(shape, 512, num_classes=classes, **for_G)
            D = conditional_stylegan2.Discriminator(shape, **labels, **for_D)
    assert (num_parameters(G), num_parameters(D), G.num_styles) == (of_G, of_D, num_styles)
    if size == 32 and classes is None:
        assert num_parameters(G.mapping) == 525_312
    if num_buffered is not None:
        # The published count has a filter of 16 numbers in every layer that resamples, and three in a skip.
        filters = 16 * (3 * len(G.stages) - 1)
        assert sum(x.numel() for x in G.state_dict().values()) - of_G == num_buffered - filters


def test_evaluation_is_deterministic_and_training_is_not() -> None:
    G, z = small_G(style_mixing=0.0), torch.randn(3, 5)
    for conv in G.modules():
        if isinstance(conv, StyledConv):
            nn.init.ones_(conv.noise_strength)
    assert not torch.equal(G(z), G(z))
    mean = G.w_avg.clone()
    assert mean.abs().max() > 0
    G.eval()
    assert torch.equal(G(z), G(z))
    torch.testing.assert_close(G(z)[1:2], G(z[1:2]))
    assert torch.equal(G.w_avg, mean)
    constant = G(z)
    G.noise = "none"
    assert not torch.equal(G(z), constant)
    G.train()
    assert torch.equal(G(z), G(z))


def test_noise_of_each_image_is_its_own() -> None:
    conv = StyledConv(2, 2, w_dim=3, size=50, up=False, clamp=None)
    nn.init.constant_(conv.noise_strength, 2.0)
    noise = conv.noise(3, "random").detach()
    assert noise.shape == (3, 1, 50, 50)
    assert noise.flatten(1).cov().sub(4 * torch.eye(3)).abs().max() < 0.5
    assert torch.equal(conv.noise(3, "constant").detach(), 2 * conv.noise_map[None, None])


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_styles_of_an_image_change_once_at_a_random_layer(probability: float) -> None:
    torch.manual_seed(0)
    n, num_styles = 4000, 5
    styles = mix_styles(torch.zeros(n, 2), torch.ones(n, 2), num_styles, probability)
    assert styles.shape == (n, num_styles, 2)
    assert torch.equal(styles[..., 0], styles[..., 1])
    is_other = styles[..., 0]
    assert (is_other.diff(dim=1) >= 0).all()  # once changed, it stays
    assert (is_other[:, 0] == 0).all()
    num_own = num_styles - is_other.sum(1)
    fractions = torch.stack([(num_own == k).float().mean() for k in range(1, num_styles + 1)])
    expected = torch.tensor([probability / (num_styles - 1)] * (num_styles - 1) + [1 - probability])
    torch.testing.assert_close(fractions, expected, rtol=0, atol=0.03)


def test_mixing_uses_two_latents_in_training_only() -> None:
    G, z = small_G(style_mixing=1.0), torch.randn(4, 5)
    mixed = G.styles(z)
    assert torch.equal(mixed[:, 0], G.mapping(z))
    assert not torch.equal(mixed[:, -1], mixed[:, 0])
    assert torch.equal(G.eval().styles(z), G.mapping(z)[:, None].expand(-1, 6, -1))


def test_samples_depend_on_their_labels() -> None:
    torch.manual_seed(0)
    G = conditional_stylegan2.Generator((1, 8, 8), 5, num_classes=3, **OF_G | SMALL).eval()
    D = conditional_stylegan2.Discriminator((1, 8, 8), **LABELS, **OF_D | {"width": 4})
    z, y = torch.randn(1, 5).expand(3, 5), torch.arange(3)
    assert takes_labels(G)
    assert takes_labels(D)
    images = G(z, y)
    assert len(images.unique(dim=0)) == 3
    assert len(D(images[:1].expand(3, -1, -1, -1), y).unique()) == 3
    torch.testing.assert_close(images[1:2], G(z[:1], y[1:2]))


@pytest.mark.parametrize(
    ("num_bf16_stages", "of_G", "of_D"),
    [(2, "hhll", "llh"), (4, "hlll", "lll"), (0, "hhhh", "hhh")],
)
def test_only_the_stages_of_the_largest_images_run_in_bf16(num_bf16_stages: int, of_G: str, of_D: str) -> None:
    G = small_G(32, num_bf16_stages=num_bf16_stages)
    D = small_D(32, num_bf16_stages=num_bf16_stages)
    seen: dict[str, list[str]] = {"G": [], "D": []}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            x = output[0] if isinstance(output, tuple) else output
            seen[name].append({torch.bfloat16: "l", torch.float32: "h"}[x.dtype])

        return hook

    for name, network in (("G", G), ("D", D)):
        for stage in network.stages:
            stage.register_forward_hook(keep(name))
    with torch.autocast("cpu", torch.bfloat16):
        z = torch.randn(4, 5)
        images = G(z)
        logits = D(images)
    assert ("".join(seen["G"]), "".join(seen["D"])) == (of_G, of_D)
    assert images.dtype == logits.dtype == torch.float32
    assert G.w_avg.dtype == torch.float32
    G.eval(), seen["D"].clear()
    with torch.autocast("cpu", torch.bfloat16):
        low = G(z), D(G(z))
    torch.testing.assert_close(low[0], G(z), rtol=0, atol=0.05 * float(G(z).abs().max().detach()))
    assert torch.equal(low[0], G(z)) is (num_bf16_stages == 0)


def test_results_of_all_convolutions_are_limited() -> None:
    bound, z, x = 0.01, torch.randn(4, 5), torch.randn(4, 3, 16, 16)
    for make, inputs in ((small_G, z), (small_D, x)):
        largest: dict[float | None, dict[str, float]] = {}
        for clamp in (bound, None):
            network, found = make(clamp=clamp), largest.setdefault(clamp, {})
            for name, module in network.named_modules():
                if isinstance(module, nn.Conv2d) and not name.endswith("skip"):

                    def keep(module: nn.Module, _: Any, y: Tensor, name: str = name, found: Any = found) -> None:
                        found[name] = float(y.abs().max().detach())

                    module.register_forward_hook(keep)
            network(inputs)
        assert len(largest[bound]) >= 6
        for name, value in largest[bound].items():
            # The last convolution of a stage with a residual connection is scaled after the limit.
            is_scaled = make is small_D and name.endswith("conv1")
            assert value <= bound * (0.5**0.5 if is_scaled else 1) + 1e-9, name
        assert min(largest[None].values()) > bound


@pytest.mark.parametrize("size", [4, 28, 32, 12])
def test_images_of_every_size_with_few_channels(size: int) -> None:
    G, D = small_G(size).eval(), small_D(size)
    images = G(torch.randn(2, 5))
    assert images.shape == (2, 3, size, size)
    assert D(images).shape == (2,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width=0"),
        ({"full_width_until": 0}, "full_width_until=0"),
        ({"num_bf16_stages": -1}, "num_bf16_stages=-1.*at least 0"),
        ({"clamp": 0.0}, r"clamp=0.0.*above 0, or null"),
    ],
)
def test_options_of_both_networks_are_checked(options: dict[str, Any], message: str) -> None:
    for make in (small_G, small_D):
        with pytest.raises(ValueError, match=message):
            make(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w_dim": 0}, "w_dim=0"),
        ({"num_mapping_layers": 0}, "num_mapping_layers=0.*at least 1"),
        ({"mapping_lr_multiplier": 0.0}, "mapping_lr_multiplier=0.0.*above 0"),
        ({"style_mixing": 1.5}, r"style_mixing=1.5.*\[0, 1\]"),
        ({"w_avg_decay": 1.0}, r"w_avg_decay=1.0.*\[0, 1\)"),
    ],
)
def test_options_of_G_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_G(**options)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"StyleGAN2 needs square images.*\(3, 8, 16\)"):
        stylegan2.Generator((3, 8, 16), 5, **OF_G)
    with pytest.raises(ValueError, match=r"StyleGAN2 needs .* it is 100; try dataset.image_size=128"):
        small_D(100)
    with pytest.raises(ValueError, match="minibatch_group=0"):
        small_D(minibatch_group=0)
    with pytest.raises(ValueError, match="num_classes=0"):
        conditional_stylegan2.Generator((3, 8, 8), 5, num_classes=0, **OF_G | SMALL)
