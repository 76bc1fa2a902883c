"""R3GAN's networks: golden numbers, published parameter counts, and the closed form of their start."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import load, oracle_files
from r3gan_golden import networks, stage_sizes
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gantrain.models import conditional_r3gan, r3gan
from gantrain.models.r3gan_parts import Block, Downsample, Upsample, stage_widths
from gantrain.models.r3gan_parts import stage_sizes as sizes_of
from gantrain.regularizers.input_gradient import input_gradient, mean_squared_gradient_norm

PAPER: dict[str, Any] = {
    "width": 768,
    "full_width_until": 32,
    "num_blocks": 2,
    "expansion": 2,
    "group_size": 16,
    "slope": 0.2,
    "num_bf16_stages": 4,
}
NARROW = PAPER | {"width": 16, "full_width_until": 8}
each_file = pytest.mark.parametrize(
    "path", [*oracle_files("r3gan_uncond_*.npz"), *oracle_files("r3gan_cond_*.npz")], ids=lambda path: path.stem
)
each_precision = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-7), (torch.float32, 2e-5)])


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@each_precision
@each_file
def test_every_stage_gives_the_golden_features(path: Path, dtype: torch.dtype, tolerance: float) -> None:
    golden = load(path, dtype)
    G, D = networks(golden)
    labels = [golden["in.label"]] if "in.label" in golden else []
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, arguments, output: seen.update({name: output[:1]})

    sizes = stage_sizes(golden)
    for size, stage in zip(sizes, getattr(G, "network", G).stages, strict=True):
        stage.register_forward_hook(keep(f"out.g.stage{size}"))
    for size, stage in zip(sizes[:0:-1], D.features.stages[:-1], strict=True):
        stage.register_forward_hook(keep(f"out.d.after_stage{size}"))
    D.basis_linear.register_forward_hook(keep(f"out.d.after_stage{sizes[0]}"))
    image = G(golden["in.z"], *labels)
    close(image, golden["out.g.image"], tolerance)
    close(D(image, *labels), golden["out.d.logit_fake"], tolerance)
    close(D(golden["in.real"], *labels), golden["out.d.logit_real"], tolerance)
    assert seen.keys() == {n for n in golden if n.startswith(("out.g.stage", "out.d.after"))}
    for name, features in seen.items():
        close(features, golden[name], tolerance)


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("size", "classes", "options", "of_G", "of_D"),
    [
        (32, 10, {}, 20_781_952, 21_280_512),  # CIFAR-10
        (32, None, {}, 20_732_160, 20_683_776),
        (64, None, {}, 22_429_824, 22_381_440),  # FFHQ
        (256, None, {}, 23_057_952, 23_009_568),
        (32, 1000, {"width": 1536, "group_size": 32}, 82_914_304, 86_548_992),  # ImageNet
        (64, 1000, {"width": 1536, "group_size": 32, "full_width_until": 64}, 103_570_432, 107_205_120),
    ],
)
def test_published_numbers_of_parameters(
    size: int, classes: int | None, options: dict[str, Any], of_G: int, of_D: int
) -> None:
    shape = (3, size, size)
    with torch.device("meta"):
        if classes is None:
            G: nn.Module = r3gan.Generator(shape, 64, **PAPER | options)
            D: nn.Module = r3gan.Discriminator(shape, **PAPER | options)
        else:
            labels = {"num_classes": classes}
            G = conditional_r3gan.Generator(shape, 64, embedding_dim=64, **labels | PAPER | options)
            D = conditional_r3gan.Discriminator(shape, **labels | PAPER | options)
    assert (num_parameters(G), num_parameters(D)) == (of_G, of_D)


def pair(size: int = 16, **options: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    shape = (3, size, size)
    return r3gan.Generator(shape, 5, **NARROW | options).double(), r3gan.Discriminator(
        shape, **NARROW | options
    ).double()


def test_both_networks_are_linear_at_the_start() -> None:
    G, D = pair()
    z, x = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    for network, inputs in ((G, z), (D, x)):
        one, two, _ = inputs.unsqueeze(1)
        sum_of_outputs = 2 * network(one) - 3 * network(two)
        assert sum_of_outputs.abs().max() > 1e-3
        torch.testing.assert_close(network(2 * one - 3 * two), sum_of_outputs, rtol=0, atol=1e-12)
    # So D has the same gradient everywhere, and R1 is the same for every sample.
    gradients = input_gradient(D, x)
    torch.testing.assert_close(gradients, gradients[:1].expand_as(gradients), rtol=0, atol=1e-14)
    penalties = [mean_squared_gradient_norm(lambda x, _: D(x), one, None) for one in x.unsqueeze(1)]
    torch.testing.assert_close(torch.stack(penalties), penalties[0].expand(3))


def test_networks_are_not_linear_once_the_last_convolutions_have_weights() -> None:
    G, D = pair()
    for network, inputs in ((G, torch.randn(2, 5)), (D, torch.randn(2, 3, 16, 16))):
        for block in network.modules():
            if isinstance(block, Block):
                nn.init.normal_(block.conv3.weight)
        one, two = inputs.double().unsqueeze(1)
        assert (network(one + two) - network(one) - network(two)).abs().max() > 1e-3


@pytest.mark.parametrize(("num_blocks", "num"), [(2, 6), ([1, 2, 5], 8)])
def test_weights_are_drawn_with_the_gain_for_the_number_of_blocks(num_blocks: Any, num: int) -> None:
    gain = math.sqrt(2 / 1.04) * num**-0.25
    assert num != 8 or gain == pytest.approx(0.8246, abs=1e-4)
    for network in pair(num_blocks=num_blocks, width=64, full_width_until=32):
        blocks = [block for block in network.modules() if isinstance(block, Block)]
        assert len(blocks) == num
        for conv, fan_in in (("conv1", 64), ("conv2", 16 * 9)):
            weights = torch.stack([getattr(block, conv).weight for block in blocks])
            assert weights.mean().abs() < 4 * weights.std() / weights.numel() ** 0.5
            assert float(weights.detach().std()) == pytest.approx(gain / fan_in**0.5, rel=0.02)
        assert all((block.conv3.weight == 0).all() for block in blocks)
        assert all((conv.bias == 0).all() for block in blocks for conv in (block.conv1, block.conv2))


def test_layers_outside_of_blocks_keep_the_variance() -> None:
    torch.manual_seed(0)
    options = PAPER | {"width": [64, 32], "num_blocks": 0}
    G = r3gan.Generator((3, 8, 8), 32, **options)
    D = conditional_r3gan.Discriminator((3, 8, 8), num_classes=9, **options)
    stds = {
        "basis": (G.basis, 1.0),
        "basis_linear": (G.basis_linear.weight, 32**-0.5),
        "transition": (G.stages[1][0].weight, 64**-0.5),
        "to_image": (G.to_image.weight, 32**-0.5),
        "from_image": (D.features.from_image.weight, 3**-0.5),
        "head": (D.features.basis.weight, 1 / 4),  # 4x4 pixels
        "head_linear": (D.basis_linear.weight, 64**-0.5),
        "embedding": (D.embedding.weight, (64 * 9) ** -0.5),
    }
    for name, (weight, std) in stds.items():
        assert float(weight.detach().std()) == pytest.approx(std, rel=4 / weight.numel() ** 0.5), name


def test_resampling_equals_linear_interpolation_inside_of_the_image() -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    up = Upsample().double()(x)
    expected = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    # Downsampling is the transpose of upsampling, divided by its gain.
    y = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    torch.testing.assert_close((up * y).sum(), 4 * (x * Downsample().double()(y)).sum())
    assert not list(Upsample().state_dict())  # a constant is not saved


@pytest.mark.parametrize(
    ("size", "sizes"),
    [(8, [4, 8]), (28, [7, 14, 28]), (36, [9, 18, 36]), (4, [4]), (256, [4, 8, 16, 32, 64, 128, 256]), (11, [11])],
)
def test_stages_double_from_a_base_of_4_to_15_pixels(size: int, sizes: list[int]) -> None:
    assert sizes_of((3, size, size)) == sizes
    G, D = pair(size)
    assert D(G(torch.randn(2, 5).double())).shape == (2,)


def test_a_single_width_is_halved_with_each_doubling_above_the_limit() -> None:
    assert stage_widths([4, 8, 16, 32, 64, 128, 256], 768, 32) == [768] * 4 + [384, 192, 96]
    assert stage_widths([7, 14, 28, 56], 8, 20) == [8, 8, 4, 2]
    assert stage_widths([4, 8], [3, 5], 4) == [3, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_can_be_differentiated_twice(dtype: torch.dtype) -> None:
    _, D = pair(8, width=2)
    D.to(dtype)
    for block in D.modules():
        if isinstance(block, Block):
            nn.init.normal_(block.conv3.weight)
    x = torch.randn(2, 3, 8, 8, dtype=dtype)
    penalty = mean_squared_gradient_norm(lambda x, _: D(x), x, None)
    penalty.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in D.named_parameters() if "bias" not in n)
    if dtype is torch.float64:
        x.requires_grad_()
        assert torch.autograd.gradgradcheck(D, x[:1])


@pytest.mark.parametrize(
    ("size", "num_bf16_stages", "sizes_in_bf16"),
    [(32, 4, {8, 16, 32}), (64, 4, {8, 16, 32, 64}), (128, 4, {16, 32, 64, 128}), (64, 2, {32, 64}), (64, 0, set())],
)
@pytest.mark.parametrize("num_classes", [None, 3])
def test_only_the_stages_of_the_largest_images_run_in_bf16(
    size: int, num_bf16_stages: int, sizes_in_bf16: set[int], num_classes: int | None
) -> None:
    """The results of layers under autocast; labels, the linear layers and all logits stay in float32."""
    torch.manual_seed(0)
    options = NARROW | {"width": 4, "num_blocks": 1, "num_bf16_stages": num_bf16_stages}
    shape, inputs = (3, size, size), [torch.randn(2, 5)]
    if num_classes is None:
        G: Any = r3gan.Generator(shape, 5, **options)
        D: Any = r3gan.Discriminator(shape, **options)
    else:
        G = conditional_r3gan.Generator(shape, 5, num_classes=num_classes, embedding_dim=4, **options)
        D = conditional_r3gan.Discriminator(shape, num_classes=num_classes, **options)
        inputs.append(torch.tensor([0, 2]))
    image_sizes = sizes_of(shape)
    in_bf16: dict[str, set[bool]] = {}

    def watch(network: nn.Module, place: str) -> None:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            in_bf16.setdefault(place, set()).add(output.dtype == torch.bfloat16)

        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding | Upsample | Downsample):
                module.register_forward_hook(hook)

    expected = {}
    outer = G if num_classes is None else G.network
    for player, stages in (("G", outer.stages), ("D", D.features.stages[::-1])):
        for image_size, stage in zip(image_sizes, stages, strict=True):
            watch(stage, f"{player} {image_size}")
            expected[f"{player} {image_size}"] = {image_size in sizes_in_bf16}
    for name, layer in (("to image", outer.to_image), ("from image", D.features.from_image)):
        watch(layer, name)
        expected[name] = {size in sizes_in_bf16}
    for layer in (outer.basis_linear, D.features.basis, D.basis_linear):
        watch(layer, "ends")
    expected["ends"] = {False}
    with torch.autocast("cpu", torch.bfloat16):
        images = G(*inputs)
        logits = D(images, *inputs[1:])
    assert in_bf16 == expected
    assert logits.dtype == torch.float32
    exact = G(*inputs)
    torch.testing.assert_close(images.float(), exact, rtol=0, atol=0.05 * float(exact.abs().max().detach()))
    assert torch.equal(images.float(), exact) is (num_bf16_stages == 0)


def test_samples_depend_on_their_labels() -> None:
    torch.manual_seed(0)
    G = conditional_r3gan.Generator((1, 8, 8), 5, num_classes=3, embedding_dim=4, **NARROW)
    D = conditional_r3gan.Discriminator((1, 8, 8), num_classes=3, **NARROW)
    z, y = torch.randn(1, 5).expand(3, 5), torch.arange(3)
    images = G(z, y)
    assert len(images.unique(dim=0)) == 3
    assert len(D(images[:1].expand(3, -1, -1, -1), y).unique()) == 3
    torch.testing.assert_close(images[1:2], G(z[:1], y[1:2]))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 32, 16), {}, r"square images.*\(3, 32, 16\)"),
        ((2,), {}, r"square images.*network=mlp"),
        ((3, 100, 100), {}, r"it is 100; try dataset.image_size=128"),
        ((3, 2, 2), {}, r"it is 2; try dataset.image_size=4"),
        ((3, 16, 16), {"width": 0}, "width=0"),
        ((3, 16, 16), {"width": [16, 16]}, r"width=\[16, 16\].*3 stages, which have 4, 8, 16 pixels"),
        ((3, 16, 16), {"num_blocks": [2, 2]}, r"num_blocks=\[2, 2\].*3 stages"),
        ((3, 16, 16), {"num_blocks": -1}, r"num_blocks=\[-1, -1, -1\].*at least 0"),
        ((3, 16, 16), {"width": 12, "full_width_until": 16}, r"width=12.*24 channels.*group_size=16.*multiple of 8"),
        ((3, 16, 16), {"group_size": 0}, "group_size=0.*at least 1"),
        ((3, 16, 16), {"expansion": 0}, "expansion=0.*at least 1"),
        ((3, 16, 16), {"num_bf16_stages": -1}, "num_bf16_stages=-1.*at least 0"),
        ((3, 16, 16), {"full_width_until": 0}, "full_width_until=0.*at least one pixel"),
    ],
)
def test_options_that_do_not_fit_are_refused(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        r3gan.Generator(shape, 5, **NARROW | options)
    with pytest.raises(ValueError, match=message):
        r3gan.Discriminator(shape, **NARROW | options)
