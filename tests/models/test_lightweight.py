"""The lightweight GAN's networks: golden numbers of their parts, parameter counts, and properties of the whole."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import assert_golden, load, oracle_files
from torch import Tensor, nn
from torch.nn.functional import unfold

from gantrain import seeding
from gantrain.models import lightweight_parts as parts
from gantrain.models.lightweight import Discriminator, Generator, quarter_of
from gantrain.models.packing import pack
from gantrain.regularizers.input_gradient import input_gradient, mean_squared_gradient_norm

PAPER: dict[str, Any] = {"width": 512, "attention": [], "num_heads": 8, "head_dim": 64, "antialias": False}
TINY = PAPER | {"width": 4, "attention": [4, 16, 32], "num_heads": 2, "head_dim": 3}
each_file = pytest.mark.parametrize("path", oracle_files("lightweight_gan_parts*.npz"), ids=lambda path: path.stem)


def fill(layer: nn.Module, golden: dict[str, Tensor], name: str) -> None:
    with torch.no_grad():
        for own, value in layer.state_dict(keep_vars=True).items():
            if (found := golden.get(f"{name}.{own}")) is not None:
                value.copy_(found)


@each_file
def test_the_up_block_gives_the_golden_features(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = load(path)
    num_out, num_in = golden["up.wide_conv.weight"].shape[:2]
    size = golden["in.noise"].shape[-1]
    block = parts.UpBlock(num_in, num_out // 2, size=size, antialias=True).double()
    shuffle, blur = block.upsample
    wide = block.conv[1]
    for layer, name in ((shuffle[0], "up.expand_conv"), (wide, "up.wide_conv"), (block.norm, "up.bn")):
        fill(layer, golden, name)
    nn.init.constant_(block.noise.scale, float(golden["up.noise_scale"]))
    monkeypatch.setattr(parts, "own_rows", lambda draw, shape: golden["in.noise"].view(shape))
    shuffled = shuffle(golden["in.x"])
    steps = {
        "after_pixel_shuffle": shuffled,
        "after_blur": blur(shuffled),
        "after_wide_conv": block.conv(blur(shuffled)),
        "up_block_train": block(golden["in.x"]),
    }
    for name, features in steps.items():
        expected = golden[f"out.{name}"]  # some are those of the first sample only
        assert_golden(features[: len(expected)], expected)


@each_file
def test_excitation_and_downsampling_give_the_golden_features(path: Path) -> None:
    golden = load(path)
    (num_out, _), num_in = golden["excite.expand.weight"].shape[:2], golden["excite.squeeze.weight"].shape[1]
    excitation = parts.Excitation(num_in, num_out).double()
    for name in ("attention_logit", "squeeze", "expand"):
        fill(getattr(excitation, name), golden, f"excite.{name}")
    factors = excitation(golden["out.up_block_train"])
    assert_golden(factors, golden["out.excitation"])
    features = golden["in.high_resolution_features"]
    assert_golden(features * factors, golden["out.excited_features"])
    narrow, wide = golden["down.conv.weight"].shape[:2]
    down = parts.downsample(wide // 4, narrow).double()
    fill(down[1], golden, "down.conv")
    assert_golden(down(features), golden["out.pixel_unshuffle_down"])


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("size", "attention", "of_G", "of_D"),
    [
        (64, [], 22_563_975, 9_104_872),
        (64, [32], 23_615_623, 9_630_696),
        (128, [], 22_909_865, 9_181_928),
        (128, [32], 23_961_513, 9_707_752),
        (256, [], 22_996_283, 9_201_000),
        (256, [32], 24_047_931, 9_726_824),
    ],
)
def test_numbers_of_parameters_are_those_of_lightweight_gan(
    size: int, attention: list[int], of_G: int, of_D: int
) -> None:
    with torch.device("meta"):
        G = Generator((3, size, size), 256, output="tanh", **PAPER | {"attention": attention})
        D = Discriminator((3, size, size), **PAPER | {"attention": attention})
    assert (num_parameters(G), num_parameters(D)) == (of_G, of_D)


def pair(size: int = 32, channels: int = 3, **options: Any) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    shape = (channels, size, size)
    G, D = Generator(shape, 5, output="linear", **TINY | options), Discriminator(shape, **TINY | options)
    for head in (D.to_patch_logits[-1], D.last_small):  # zero at the start
        nn.init.normal_(head.weight)
    return G, D


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 3), (128, 3), (256, 3), (512, 3)])
def test_every_size_has_samples_logits_and_reconstructions(size: int, channels: int, antialias: bool) -> None:
    with torch.device("meta"):
        G, D = pair(size, channels, antialias=antialias)
        x = G(torch.zeros(2, 5))
        assert x.shape == (2, channels, size, size)
        logits, outputs = D(x)
    assert logits.shape == (2,)
    assert [outputs[name].shape for name in D.heads] == [(2, 25), (2, 1)]
    decoded = {name for name in outputs if name not in D.heads}
    assert decoded == ({"reconstruction", "part", "quarter"} if size == 512 else {"reconstruction"})
    assert all(outputs[name].shape == (2, channels, 128, 128) for name in decoded - {"quarter"})
    assert D(x, decode=False)[1].keys() == {*D.heads}
    excited = {128: 1, 256: 2, 512: 3}.get(size, 0)
    assert len(G.excitations) == excited


def test_logits_are_the_mean_of_those_of_both_heads_and_do_not_depend_on_decoding() -> None:
    _, D = pair()
    x = torch.randn(3, 3, 32, 32)
    logits, outputs = D(x)
    expected = (25 * outputs["patch_logits"].mean(1) + outputs["small_logits"][:, 0]) / 26
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(D(x, decode=False)[0], logits, rtol=0, atol=0)
    assert outputs["patch_logits"].std() > 0.01


def test_all_logits_are_equal_at_the_start_so_that_gradient_penalties_are_small() -> None:
    D = Discriminator((3, 32, 32), **TINY)
    outputs = D(torch.randn(4, 3, 32, 32))[1]
    assert all(outputs[name].std() < 1e-6 for name in D.heads)
    assert mean_squared_gradient_norm(lambda x, _: D(x)[0], torch.randn(2, 3, 32, 32), None) == 0


def test_features_excite_those_of_8_times_the_size() -> None:
    G, _ = pair(128, attention=[])
    z, seen = torch.randn(2, 5), {}
    G.eval()
    G.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.update(features=output))
    G.excitations["16"].register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs, factors=output))
    image = G(z)
    assert seen["inputs"][0].shape[-1] == 16
    assert seen["features"].shape[-1] == 128
    torch.testing.assert_close(image, G.to_image(seen["features"] * seen["factors"]))
    assert 0 < seen["factors"].min() < seen["factors"].max() < 1


def test_tanh_limits_the_images() -> None:
    G, _ = pair()
    torch.manual_seed(0)
    limited = Generator((3, 32, 32), 5, output="tanh", **TINY)
    z = torch.randn(3, 5)
    torch.testing.assert_close(limited.eval()(z), G.eval()(z).tanh())


def test_attention_equals_its_formulas() -> None:
    """Local attention by torch's unfold, as others compute it; global attention as sums over pairs of pixels."""
    torch.manual_seed(0)
    heads, d, x = 2, 3, torch.randn(2, 4, 5, 6, dtype=torch.float64)
    attention = parts.Attention(4, num_heads=heads, head_dim=d).double()
    n, pixels = len(x), 5 * 6
    query = attention.local_query(x).view(n, heads, d, pixels) / d**0.5
    key, value = (
        unfold(part, 3, padding=1).view(n, heads, d, 9, pixels) for part in attention.local_key_value(x).chunk(2, 1)
    )
    weights = torch.einsum("bhdp,bhdjp->bhjp", query, key).softmax(2)
    expected = torch.einsum("bhjp,bhdjp->bhdp", weights, value).reshape(n, heads * d, 5, 6)
    torch.testing.assert_close(attention.attend_locally(x), expected)

    query = attention.global_query(x).view(n, heads, d, pixels).softmax(2) / d**0.5
    key, value = (part.reshape(n, heads, d, pixels) for part in attention.global_key_value(x).chunk(2, 1))
    over_pixels = torch.einsum("bhcp,bhcq->bhpq", query, key.softmax(3))
    expected = torch.einsum("bhpq,bhdq->bhdp", over_pixels, value).reshape(n, heads * d, 5, 6)
    torch.testing.assert_close(attention.attend_globally(x), expected)

    normed = attention.norm(x)
    torch.testing.assert_close(normed.mean(1), torch.zeros(2, 5, 6).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(normed.var(1, unbiased=False), torch.ones(2, 5, 6).double(), atol=1e-3, rtol=0)


def test_discriminator_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    down = parts.DownBlock(2, 3, antialias=True).double()
    attention = parts.Attention(2, num_heads=1, head_dim=2).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: down(attention(x)), x)
    _, D = pair()
    penalty = mean_squared_gradient_norm(lambda x, _: D(x)[0], torch.randn(2, 3, 32, 32), None)
    penalty.backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for name, p in D.named_parameters()
        if "decoder" not in name and "bias" not in name
    )


def test_a_sample_depends_only_on_its_latent_when_sampling_but_not_in_training() -> None:
    G, _ = pair()
    for module in G.modules():
        if isinstance(module, parts.Noise):
            nn.init.ones_(module.scale)
    z = torch.randn(3, 5)
    G.train()
    assert not torch.equal(G(z), G(z))
    G.eval()
    torch.testing.assert_close(G(z)[:1], G(z[:1]))
    assert torch.equal(G(z), G(z))


def test_noise_depends_neither_on_the_number_of_processes_nor_on_that_of_micro_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, noise = torch.zeros(8, 2, 4, 4), parts.Noise(4)
    nn.init.ones_(noise.scale)
    torch.manual_seed(0)
    whole = noise(x)
    assert len(whole.unique()) == 8 * 16  # the same for all channels
    assert 0.8 < whole.std() < 1.2
    for part, own in enumerate(torch.arange(8).chunk(4)):
        shard = seeding.Shard(rank=part // 2, world_size=2, micro_batch=part % 2, num_micro_batches=2, rows=2)
        monkeypatch.setattr(seeding, "shard", shard)
        torch.manual_seed(0)
        torch.testing.assert_close(noise(x[own]), whole[own], rtol=0, atol=0)


def test_quarters_of_an_image() -> None:
    x = torch.arange(2 * 16).view(2, 1, 4, 4).float()
    upper_right, lower_left = quarter_of(x, torch.tensor([1, 2]))
    assert upper_right.tolist() == [[[2, 3], [6, 7]]]
    assert lower_left.tolist() == [[[24, 25], [28, 29]]]


def test_weights_are_drawn_for_leaky_relus() -> None:
    G, D = pair(64, width=64, attention=[])
    for conv in (G.blocks[1][0].conv[1], D.blocks[-1][0].convs[2]):
        fan_in = conv.weight[0].numel()
        assert float(conv.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 100, 100), {}, r"32, 64, 128, 256, 512 pixels.*\(3, 100, 100\).*dataset.image_size=128"),
        ((3, 16, 16), {}, r"try dataset.image_size=32"),
        ((3, 1024, 1024), {}, r"try dataset.image_size=512"),
        ((3, 64, 32), {}, r"square images.*\(3, 64, 32\)"),
        ((2,), {}, r"square images.*network=mlp"),
        ((3, 64, 64), {"width": 0}, "width=0"),
        ((3, 64, 64), {"attention": [33]}, r"attention=\[33\]: .*powers of 2 from 4 to 256"),
        ((3, 64, 64), {"num_heads": 0}, "num_heads=0: .*at least 1"),
        ((3, 64, 64), {"head_dim": 0}, "head_dim=0: .*at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    for make in (partial(Generator, shape, 5, output="tanh"), partial(Discriminator, shape)):
        with pytest.raises(ValueError, match=message):
            make(**TINY | options)


def test_packing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"packing=2 with .*lightweight.Discriminator: .*Use packing=1"):
        pack(lambda shape: Discriminator(shape, **TINY), (3, 32, 32), 2)


def test_the_gradient_of_the_logits_is_that_of_all_26_outputs() -> None:
    """gamma in conf/model/lightweight.yaml is that of the sum of the outputs, times 26^2."""
    _, D = pair(attention=[])
    x = torch.randn(2, 3, 32, 32)
    of_mean = input_gradient(lambda x: D(x, decode=False)[0], x)
    of_sum = input_gradient(lambda x: torch.cat([D(x, decode=False)[1][name] for name in D.heads], 1).sum(1), x)
    torch.testing.assert_close(26 * of_mean, of_sum)
