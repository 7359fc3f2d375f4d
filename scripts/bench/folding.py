"""A convolution and BN at inference, separate and folded into one."""

from __future__ import annotations

from statistics import median

import torch
from torch import nn

from bench.timing import interleaved, ratio
from bn_helpers import convert, layers


def measure(rounds=25, shapes=((1, 32, 56, 56), (8, 64, 28, 28), (32, 64, 14, 14))):
    results = []
    print("\nconvolution 3×3 and BN at inference, folded into one: ratio of times")
    for shape in shapes:
        seconds = interleaved(_folding_calls(shape), rounds)
        results.append(
            {
                "shape": list(shape),
                "layer": "conv3x3",
                "separate_s": median(seconds["separate"]),
                "folded_s": median(seconds["folded"]),
                "ratio": ratio(seconds, "folded", "separate"),
            }
        )
        print(f"{shape!s:>20}: {results[-1]['ratio']:.2f}")
    return {"rounds": rounds, "dtype": "float32"}, results


def _folding_calls(shape):
    generator = torch.Generator().manual_seed(0)
    convolution = nn.Conv2d(shape[1], shape[1], 3, padding=1)
    nn.init.normal_(convolution.weight, std=0.05, generator=generator)
    bn = layers.BatchNorm(shape[1]).eval()
    folded = convert.fold(convolution, bn)
    x = torch.randn(shape, generator=generator)

    @torch.inference_mode()
    def separate():
        return bn(convolution(x))

    @torch.inference_mode()
    def together():
        return folded(x)

    return {"separate": separate, "folded": together}
