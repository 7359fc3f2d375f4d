"""Random crops, mirror images and photometric distortions, on the device that trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Normalizer:
    """uint8 images (N, C, H, W) → float tensors (N, C, size, size) of zero mean, unit variance.

    Parameters
    ----------
    mean, std : float sequences (C,), of the training set's channels, in [0, 1].
    size : int, H and W of the result.
    distortion : float in [0, 1): brightness, contrast and saturation are each multiplied by a
        number from [1 − distortion, 1 + distortion].
    pad : int, how many zeros are added on each side before an image is cropped at random.
    flip : whether to mirror half of the images.
    device : of the result.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        size: int,
        *,
        distortion: float = 0.0,
        pad: int = 0,
        flip: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        column = (1, -1, 1, 1)
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device).view(column)
        self.std = torch.tensor(std, dtype=torch.float32, device=device).view(column)
        self.size, self.distortion, self.pad, self.flip = size, distortion, pad, flip
        self.device = device

    def plain(self, images: torch.Tensor) -> torch.Tensor:
        """The centre of each image, normalised, without chance: for evaluation."""
        images = images.to(self.device, non_blocking=True)
        top, left = ((extent - self.size) // 2 for extent in images.shape[2:])
        crop = images[:, :, top : top + self.size, left : left + self.size]
        return self._normalize(crop.float() / 255)

    def random(
        self,
        images: torch.Tensor,
        generator: torch.Generator,
        share: tuple[int, slice] | None = None,
    ) -> torch.Tensor:
        """Each image changed at random; ``generator`` is a ``torch.Generator`` on the device.

        ``share`` = (batch size, slice) says that ``images`` are that part of a larger batch. All
        numbers are drawn for the whole batch, so that processes which share one see the images that
        one process would see.
        """
        total, part = share or (len(images), slice(None))
        chance = torch.rand(total, 6, generator=generator, device=self.device)[part]
        images = images.to(self.device, non_blocking=True)
        x = self._crop(images, chance[:, :2])
        if self.flip:
            x = torch.where((chance[:, 2] < 0.5).view(-1, 1, 1, 1), x.flip(3), x)
        x = x.float() / 255
        if self.distortion:
            x = self._distort(x, 1 + self.distortion * (2 * chance[:, 3:] - 1))
        return self._normalize(x)

    def _crop(self, images, chance):
        """A window of size × size from each image, padded with zeros, at a random place."""
        if self.pad:
            images = torch.nn.functional.pad(images, (self.pad,) * 4)
        down, right = (extent - self.size + 1 for extent in images.shape[2:])
        if down == right == 1:
            return images
        window = torch.arange(self.size, device=self.device)
        rows = ((chance[:, :1] * down).long() + window)[:, None, :, None]  # (N, 1, size, 1)
        columns = ((chance[:, 1:] * right).long() + window)[:, None, None, :]
        n = torch.arange(len(images), device=self.device)[:, None, None, None]
        c = torch.arange(images.shape[1], device=self.device)[None, :, None, None]
        return images[n, c, rows, columns]

    def _distort(self, x, factors):
        brightness, contrast, saturation = factors.T.reshape(3, -1, 1, 1, 1)
        x = x * brightness
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + contrast * (x - mean)
        grey = x.mean(1, keepdim=True)
        return grey + saturation * (x - grey)

    def _normalize(self, x):
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
