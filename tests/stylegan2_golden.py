"""StyleGAN2's networks with the weights of golden files, whose sizes are read from the arrays."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from gantrain.models import conditional_stylegan2, stylegan2
from gantrain.models.stylegan2_parts import Mapping

Golden = dict[str, Tensor]


def sizes_of(golden: Golden, prefix: str) -> list[int]:
    return sorted({int(match[1]) for name in golden if (match := re.match(rf"{prefix}\.r(\d+)\.", name))})


def num_layers(golden: Golden, prefix: str) -> int:
    return len([name for name in golden if re.fullmatch(rf"{prefix}\.fc\d+\.weight", name)])


def mapping(golden: Golden, prefix: str) -> Mapping:
    """Make a mapping network with the golden weights."""
    dim, num_in = golden[f"{prefix}.fc1.weight"].shape
    embedding = golden.get(f"{prefix}.embed.weight")
    num_classes = None if embedding is None else embedding.shape[1]
    z_dim = num_in - (0 if num_classes is None else dim)
    made = Mapping(z_dim, dim, num_layers=num_layers(golden, prefix), lr_multiplier=0.01, num_classes=num_classes)
    copy(golden, mapping_tensors(made, prefix))
    return made.to(golden[f"{prefix}.fc1.weight"].dtype)


def generator(golden: Golden, **options: Any) -> stylegan2.Generator:
    """Make G with the golden weights, and noise and styles as in the golden files."""
    sizes, dtype = sizes_of(golden, "g.synth"), golden["g.synth.r4.const"].dtype
    w_dim, z_dim = golden["g.map.fc1.weight"].shape
    common: dict[str, Any] = {
        "w_dim": w_dim,
        "num_mapping_layers": num_layers(golden, "g.map"),
        "mapping_lr_multiplier": 0.01,
        "width": [len(golden[f"g.synth.r{size}.conv1.weight"]) for size in sizes],
        "full_width_until": 1,
        "style_mixing": 0.0,
        "noise": "constant",
        "w_avg_decay": 0.995,
        "num_bf16_stages": 4,
        "clamp": None,
    }
    shape = (len(golden["g.synth.r4.to_rgb.bias"]), sizes[-1], sizes[-1])
    G = stylegan2.Generator(shape, z_dim, **common | options).to(dtype)
    copy(golden, generator_tensors(G, sizes))
    return G


def discriminator(golden: Golden, group: int) -> nn.Module:
    """Make D with the golden weights."""
    sizes, dtype = sizes_of(golden, "d"), golden["d.r4.conv.weight"].dtype
    size = sizes[-1]
    options: dict[str, Any] = {
        "architecture": "resnet" if f"d.r{size}.skip.weight" in golden else "orig",
        "width": [len(golden["d.r4.conv.weight"]), *(golden[f"d.r{s}.conv0.weight"].shape[1] for s in sizes[1:])],
        "full_width_until": 1,
        "minibatch_group": group,
        "num_bf16_stages": 4,
        "clamp": None,
    }
    shape = (golden[f"d.r{size}.from_rgb.weight"].shape[1], size, size)
    if "d.map.embed.weight" in golden:
        classes = golden["d.map.embed.weight"].shape[1]
        labels = {"num_classes": classes, "num_mapping_layers": num_layers(golden, "d.map")}
        D: Any = conditional_stylegan2.Discriminator(shape, mapping_lr_multiplier=0.01, **labels, **options)
    else:
        D = stylegan2.Discriminator(shape, **options)
    copy(golden, discriminator_tensors(D, sizes))
    return D.to(dtype)


def group_of(golden: Golden) -> int:
    """Read the size of the groups from the standard deviations, which are the same in each group."""
    values = golden["out.minibatch_std_channel"]
    return len(values) // len(values.unique())


def copy(golden: Golden, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(golden[name])


def weights(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict(keep_vars=True).items()}


def mapping_tensors(module: Mapping, prefix: str) -> dict[str, Tensor]:
    """Map golden names to the tensors of a mapping network."""
    found = {} if module.embedding is None else weights(module.embedding, f"{prefix}.embed")
    for i, layer in enumerate(module.layers, 1):
        found |= weights(layer, f"{prefix}.fc{i}")
    return found


def generator_tensors(G: stylegan2.Generator, sizes: list[int]) -> dict[str, Tensor]:
    """Map golden names to the parameters and buffers of G."""
    found = {f"g.synth.r{sizes[0]}.const": G.basis, "g.map.w_avg": G.w_avg, **mapping_tensors(G.mapping, "g.map")}
    for size, stage in zip(sizes, G.stages, strict=True):
        for i, conv in enumerate(stage.convs, 2 - len(stage.convs)):
            found |= weights(conv, f"g.synth.r{size}.conv{i}")
        found |= weights(stage.to_image, f"g.synth.r{size}.to_rgb")
    assert {id(p) for p in found.values()} == {id(p) for p in G.state_dict(keep_vars=True).values()}
    return found


def discriminator_tensors(D: Any, sizes: list[int]) -> dict[str, Tensor]:
    """Map golden names to the parameters of D."""
    found = weights(D.from_image, f"d.r{sizes[-1]}.from_rgb")
    for size, stage in zip(sizes[:0:-1], D.stages, strict=True):
        found |= {f"d.r{size}.{name}": tensor for name, tensor in stage.state_dict(keep_vars=True).items()}
    for name, module in (("conv", D.conv), ("fc", D.linear), ("out", D.output)):
        found |= weights(module, f"d.r4.{name}")
    if hasattr(D, "mapping"):
        found |= mapping_tensors(D.mapping, "d.map")
    assert {id(p) for p in found.values()} == {id(p) for p in D.state_dict(keep_vars=True).values()}
    return found
