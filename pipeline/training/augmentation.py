"""Light augmentation of a batch of images, in one vectorised step.

Every image is moved, scaled and turned a little, and its colours are scaled and mixed: vendors
draw the same thing at other sizes and in other tints. On request it is cropped as in published
recipes, or mirrored (an arrow, a flag or a letter that is mirrored is another class, so never
unasked). The draws are a pure function of the seed and the step, for the whole batch at once, so
that a resumed run and any number of workers see the same images.
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

# The crop of the recipes of Smooth-AP and Recall@k, which is ImageNet's (Szegedy et al., 2015).
_AREA = (0.08, 1.0)  # of the image
_RATIO = math.log(4.0 / 3.0)  # logarithm of width over height, either way
_TRIES = 10  # then the whole image


@dataclass(frozen=True, slots=True)
class Distortion:
    """What happens to each image of a batch: a movement, a cut and a mixture of its colours."""

    movement: Tensor
    """(b, 2, 3) affine maps from the coordinates after it to those before, in [-1, 1]."""
    cut: Tensor | None
    """(b, 2, 3) affine maps from output coordinates to those of the moved image; None: the
    central ``side`` pixels, one to one."""
    mirrored: Tensor
    """(b,) whether left and right change places."""
    mixture: Tensor
    """(b, 3, 3) output channel from input channels."""
    offset: Tensor
    """(b, 3) added to each output channel, in units of 0 to 255."""
    side: int
    """Pixels of a side of the output; 0: those of the input."""

    def part(self, rows: slice) -> Distortion:
        """The distortion of some images of the batch."""
        cut = None if self.cut is None else self.cut[rows]
        return Distortion(
            self.movement[rows], cut, self.mirrored[rows], self.mixture[rows], self.offset[rows],
            self.side,
        )  # fmt: skip


def draw_distortion(
    images: int, *, strength: float, seed: int, step: int,
    crop: int = 0, random_crop: bool = False, mirror: bool = False,
) -> Distortion:  # fmt: skip
    """The distortion of a batch of ``images``: a pure function of the arguments.

    ``strength`` 0 neither moves images nor changes colours, 1 is the usual amount. The output
    has ``crop`` pixels a side (0: as the input): the central ones, or under ``random_crop`` a
    rectangle of 8 to 100 % of the image and of sides 3:4 to 4:3, anywhere in it, stretched to
    that size. ``mirror`` turns images round with probability one half. An option's draws do not
    depend on the other options.
    """
    entropy = np.random.SeedSequence([seed, step, 1]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
    draws = (torch.rand(images, 9, generator=generator) * 2.0 - 1.0) * strength
    further = torch.rand(images, 2 * _TRIES + 3, generator=generator)
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
    return Distortion(
        movement, _random_cut(further[:, 1:]) if random_crop else None,
        (further[:, 0] < 0.5) & mirror, gains[:, :, None] * mixture, offset, crop,
    )  # fmt: skip


def distort(pixels: Tensor, distortion: Distortion) -> Tensor:
    """(b, side, side, 3) float32 in [0, 255] from ``pixels`` (b, S, S, 3) uint8 on any device.

    Bilinear. What moves in from outside repeats the border. White stays white where only
    colours mix. Shrinking is not antialiased: 256 pixels to 224 is a factor of 1.14, and all
    other crops are stretched.
    """
    x = pixels.permute(0, 3, 1, 2).to(torch.float32)
    side = distortion.side or x.shape[2]
    movement = _with_cut(distortion, x.shape[2], side)
    grid = functional.affine_grid(
        movement.to(x.device), [*x.shape[:2], side, side], align_corners=False
    )
    x = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    mixture, offset = distortion.mixture.to(x.device), distortion.offset.to(x.device)
    flat = torch.baddbmm(offset[:, :, None], mixture, x.flatten(2))
    return flat.clamp(0.0, 255.0).view_as(x).permute(0, 2, 3, 1)


def _random_cut(draws: Tensor) -> Tensor:
    """(b, 2, 3) maps onto random rectangles, from uniform ``draws`` (b, 2 tries + 2)."""
    area = _AREA[0] + (_AREA[1] - _AREA[0]) * draws[:, 2 : 2 + _TRIES]
    half = torch.exp(0.5 * _RATIO * (2.0 * draws[:, 2 + _TRIES :] - 1.0))
    sides = torch.stack([area.sqrt() * half, area.sqrt() / half], 2)
    fits = (sides <= 1.0).all(dim=2)
    # The first try that lies inside the image; argmax finds the first of equal values.
    first = sides[torch.arange(len(draws)), fits.int().argmax(dim=1)]
    size = torch.where(fits.any(dim=1)[:, None], first, torch.ones(2))
    centre = (1.0 - size) * (2.0 * draws[:, :2] - 1.0)
    return torch.cat([torch.diag_embed(size), centre[:, :, None]], 2)


def _with_cut(distortion: Distortion, before: int, side: int) -> Tensor:
    """(b, 2, 3) maps from output to input coordinates, for inputs of ``before`` pixels a side."""
    movement, cut = distortion.movement, distortion.cut
    if cut is None and side != before:
        # Where the border is odd its larger half is on the right and below, as in the model.
        centre = (2 * ((before - side) // 2) + side) / before - 1.0
        cut = torch.tensor([[side / before, 0.0, centre], [0.0, side / before, centre]])
        cut = cut.expand(len(movement), 2, 3)
    if cut is not None:
        linear = movement[:, :, :2] @ cut
        movement = torch.cat([linear[:, :, :2], linear[:, :, 2:] + movement[:, :, 2:]], 2)
    if distortion.mirrored.any():
        sign = torch.where(distortion.mirrored, -1.0, 1.0)
        movement = torch.cat([movement[:, :, :1] * sign[:, None, None], movement[:, :, 1:]], 2)
    return movement
