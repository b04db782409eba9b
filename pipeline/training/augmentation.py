"""Light augmentation of a batch of images, in one vectorised step.

Every image is moved, scaled and turned a little, and its colours are scaled and mixed: vendors
draw the same thing at other sizes and in other tints. Images are never mirrored: an arrow, a
flag or a letter that is mirrored is another class. The draws are a pure function of the seed and
the step, for the whole batch at once, so that a resumed run and any number of workers see the
same images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_SHIFT = 0.08  # of the side
_SCALE = 0.15  # natural logarithm of the factor
_TURN = math.radians(12.0)
_GAIN = 0.25  # logarithm of the factor of each colour channel
_BRIGHTNESS = 0.10  # of the full range
_SATURATION = 0.6  # share of the colour that may go or be added
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Distortion:
    """What happens to each image of a batch: a movement and a mixture of its colours."""

    movement: Tensor
    """(b, 2, 3) affine maps from output to input coordinates in [-1, 1]."""
    mixture: Tensor
    """(b, 3, 3) output channel from input channels."""
    offset: Tensor
    """(b, 3) added to each output channel, in units of 0 to 255."""

    def part(self, rows: slice) -> Distortion:
        """The distortion of some images of the batch."""
        return Distortion(self.movement[rows], self.mixture[rows], self.offset[rows])


def draw_distortion(images: int, *, strength: float, seed: int, step: int) -> Distortion:
    """The distortion of a batch of ``images``: a pure function of the arguments.

    ``strength`` 0 leaves images as they are, 1 is the usual amount.
    """
    entropy = np.random.SeedSequence([seed, step, 1]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
    draws = (torch.rand(images, 9, generator=generator) * 2.0 - 1.0) * strength
    zoom, turn = torch.exp(_SCALE * draws[:, 0]), _TURN * draws[:, 1]
    across, down = _SHIFT * 2.0 * draws[:, 2], _SHIFT * 2.0 * draws[:, 3]
    cosine, sine = zoom * torch.cos(turn), zoom * torch.sin(turn)
    movement = torch.stack(
        [torch.stack([cosine, -sine, across], 1), torch.stack([sine, cosine, down], 1)], 1
    )
    saturation = 1.0 + _SATURATION * draws[:, 4, None, None]
    grey = torch.tensor(_GREY).expand(3, 3)
    mixture = saturation * torch.eye(3) + (1.0 - saturation) * grey
    gains = torch.exp(_GAIN * draws[:, 5:8])
    offset = 255.0 * _BRIGHTNESS * draws[:, 8, None].expand(-1, 3)
    return Distortion(movement, gains[:, :, None] * mixture, offset)


def distort(pixels: Tensor, distortion: Distortion) -> Tensor:
    """(b, S, S, 3) float32 in [0, 255] from ``pixels`` (b, S, S, 3) uint8 on any device.

    What moves in from outside repeats the border. White stays white where only colours mix.
    """
    x = pixels.permute(0, 3, 1, 2).to(torch.float32)
    grid = functional.affine_grid(
        distortion.movement.to(x.device), list(x.shape), align_corners=False
    )
    x = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    mixture, offset = distortion.mixture.to(x.device), distortion.offset.to(x.device)
    flat = torch.baddbmm(offset[:, :, None], mixture, x.flatten(2))
    return flat.clamp(0.0, 255.0).view_as(x).permute(0, 2, 3, 1)
