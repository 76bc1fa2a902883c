"""R3GAN's networks with the weights of golden files, whose sizes are read from the arrays."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from gantrain.models import conditional_r3gan, r3gan


def stage_sizes(golden: dict[str, Tensor]) -> list[int]:
    return sorted({int(match[1]) for name in golden if (match := re.match(r"g\.stage(\d+)\.", name))})


def networks(golden: dict[str, Tensor]) -> tuple[nn.Module, nn.Module]:
    """Make G and D with the golden weights, in their precision."""
    sizes, size = stage_sizes(golden), golden["g.to_rgb.weight"].shape
    first = {s: golden[f"g.stage{s}.block1.conv1.weight"] for s in sizes}
    options: dict[str, Any] = {
        "width": [first[s].shape[1] for s in sizes],
        "full_width_until": 1,
        "num_blocks": [len([n for n in golden if re.match(rf"g\.stage{s}\.block\d+\.conv1", n)]) for s in sizes],
        "expansion": len(first[sizes[0]]) // first[sizes[0]].shape[1],
        "group_size": golden[f"g.stage{sizes[0]}.block1.conv2.weight"].shape[1],
        "slope": 0.2,
        "num_bf16_stages": 4,
    }
    shape, z_dim = (size[0], sizes[-1], sizes[-1]), golden["g.basis_linear.weight"].shape[1]
    if "g.embed.weight" in golden:
        dim, classes = golden["g.embed.weight"].shape
        G: nn.Module = conditional_r3gan.Generator(
            shape, z_dim - dim, num_classes=classes, embedding_dim=dim, **options
        )
        D: nn.Module = conditional_r3gan.Discriminator(shape, num_classes=classes, **options)
    else:
        G, D = r3gan.Generator(shape, z_dim, **options), r3gan.Discriminator(shape, **options)
    for name, network in (("g", G), ("d", D)):
        network.to(golden["g.to_rgb.weight"].dtype)
        with torch.no_grad():
            for parameter, of_golden in parameters(network, name, sizes).values():
                parameter.copy_(of_golden(golden))
    return G, D


def parameters(network: nn.Module, name: str, sizes: list[int]) -> dict[str, tuple[nn.Parameter, Any]]:
    """Map the golden names of a network's parameters to the parameters, with functions that read golden weights."""
    outer = network.network if hasattr(network, "network") else network
    inner = network.features if name == "d" else outer
    found: dict[str, nn.Parameter] = {}
    if hasattr(network, "embedding"):
        found[f"{name}.embed.weight"] = network.embedding.weight
    found[f"{name}.basis_linear.weight" if name == "g" else "d.head_linear.weight"] = outer.basis_linear.weight
    found["g.basis" if name == "g" else "d.head_depthwise.weight"] = inner.basis if name == "g" else inner.basis.weight
    last = inner.to_image if name == "g" else inner.from_image
    found["g.to_rgb.weight" if name == "g" else "d.from_rgb.weight"] = last.weight
    for size, stage in zip(sizes if name == "g" else sizes[::-1], inner.stages, strict=True):
        blocks = [m for m in stage if hasattr(m, "conv3")]
        for i, block in enumerate(blocks, 1):
            prefix = f"{name}.stage{size}.block{i}"
            found |= {f"{prefix}.conv{j}.weight": getattr(block, f"conv{j}").weight for j in (1, 2, 3)}
            found |= {f"{prefix}.act{j}.bias": getattr(block, f"conv{j}").bias for j in (1, 2)}
        found |= {f"{name}.stage{size}.transition.weight": m.weight for m in stage if isinstance(m, nn.Conv2d)}
    assert {id(p) for p in found.values()} == {id(p) for p in network.parameters()}

    def reader(key: str) -> Any:
        # An embedding has one row for each class, the golden one a column.
        return lambda golden: golden[key].T if key.endswith("embed.weight") else golden[key]

    return {key: (parameter, reader(key)) for key, parameter in found.items()}
