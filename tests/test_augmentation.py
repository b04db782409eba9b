"""Augmentation: the values that trained the demo, published crops, mirror images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.training.augmentation import _random_cut, distort, draw_distortion

# What these draws were before crops and mirror images came (seed 3, step 4, strength 1).
MOVEMENT = [
    [[1.0355972051620483, 0.07729640603065491, 0.11725114285945892],
     [-0.07729640603065491, 1.0355972051620483, -0.14112725853919983]],
    [[1.1036511659622192, -0.17494206130504608, 0.15763874351978302],
     [0.17494206130504608, 1.1036511659622192, 0.10449401289224625]],
]  # fmt: skip
MIXTURE = [
    [0.5914651155471802, 0.2324611097574234, 0.04514576867222786],
    [0.16447876393795013, 0.9800186157226562, 0.0627109706401825],
    [0.11815334856510162, 0.23195992410182953, 0.5170849561691284],
]
OFFSET = [11.572463989257812, -0.7991335988044739]
PIXELS = [
    [
        [[24.12, 27.75, 142.63], [89.28, 39.84, 94.54], [155.01, 52.11, 46.79]],
        [[53.34, 131.43, 163.21], [116.67, 134.87, 113.11], [180.35, 138.45, 63.49]],
        [[86.10, 250.00, 187.32], [149.63, 253.50, 137.28], [210.56, 255.00, 89.77]],
    ],
    [
        [[31.49, 5.70, 154.08], [142.46, 10.15, 72.10], [228.23, 31.33, 12.84]],
        [[26.09, 102.41, 177.04], [139.37, 125.76, 96.58], [242.74, 148.76, 24.52]],
        [[31.38, 219.60, 195.88], [135.71, 242.80, 121.75], [247.14, 247.27, 39.87]],
    ],
]  # fmt: skip


def picture(side, images=1, seed=0):
    """Smooth images (images, side, side, 3) uint8, no two parts alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (images, 6, 6, 3)).astype(np.uint8)
    scaled = [Image.fromarray(part).resize((side, side), Image.Resampling.BICUBIC)
              for part in coarse]
    return torch.from_numpy(np.stack([np.asarray(image) for image in scaled]))


def ramp(side):
    """(1, side, side, 3): red grows to the right, green downwards, blue to the left."""
    steps = np.linspace(0, 255, side)
    across, down = np.meshgrid(steps, steps)
    return torch.from_numpy(np.stack([across, down, 255 - across], 2)[None].astype(np.uint8))


def published_rectangles(count, seed):
    """(count, 2) width and height over the image's side, by the published loop of tries."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        size = (1.0, 1.0)
        for _ in range(10):
            area = rng.uniform(0.08, 1.0)
            ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            width, height = np.sqrt(area * ratio), np.sqrt(area / ratio)
            if width <= 1 and height <= 1:
                size = (width, height)
                break
        found.append(size)
    return np.asarray(found)


def test_the_draws_of_earlier_recipes_are_what_they_were():
    # To the last bit on one machine; another one's exp and cos may round otherwise.
    drawn = draw_distortion(2, strength=1.0, seed=3, step=4)
    np.testing.assert_allclose(drawn.movement, MOVEMENT, rtol=1e-6)
    np.testing.assert_allclose(drawn.mixture[0], MIXTURE, rtol=1e-6)
    np.testing.assert_allclose(drawn.offset[:, 0], OFFSET, rtol=1e-5)
    np.testing.assert_allclose(distort(ramp(12).expand(2, -1, -1, -1), drawn)[:, ::5, ::5],
                               PIXELS, atol=0.01)


def test_neither_crop_nor_mirror_changes_the_other_draws():
    plain = draw_distortion(50, strength=0.7, seed=1, step=2)
    all_of_it = draw_distortion(
        50, strength=0.7, seed=1, step=2, crop=8, random_crop=True, mirror=True
    )
    cropped = draw_distortion(50, strength=0.0, seed=1, step=2, random_crop=True)
    for name in ("movement", "mixture", "offset"):
        assert torch.equal(getattr(plain, name), getattr(all_of_it, name)), name
    assert plain.cut is None
    assert torch.equal(cropped.cut, all_of_it.cut)


@pytest.mark.parametrize(("side", "crop"), [(16, 12), (17, 12), (16, 11), (9, 9)])
def test_without_random_crop_the_central_pixels_are_kept_as_they_are(side, crop):
    pixels = picture(side, images=3)
    drawn = draw_distortion(3, strength=0.0, seed=0, step=0, crop=crop)
    start = (side - crop) // 2
    kept = pixels[:, start : start + crop, start : start + crop]
    np.testing.assert_allclose(distort(pixels, drawn), kept.float(), atol=0.05)


def test_a_distorted_image_is_cropped_after_it_is_distorted():
    pixels = picture(32, images=5)
    whole = distort(pixels, draw_distortion(5, strength=1.0, seed=2, step=3))
    part = distort(pixels, draw_distortion(5, strength=1.0, seed=2, step=3, crop=20))
    assert part.shape == (5, 20, 20, 3)
    np.testing.assert_allclose(part, whole[:, 6:26, 6:26], atol=0.05)


def test_random_crops_have_the_published_sizes():
    cut = draw_distortion(20_000, strength=0.0, seed=5, step=6, random_crop=True).cut
    size, centre = np.stack([cut[:, 0, 0], cut[:, 1, 1]], 1), cut[:, :, 2].numpy()
    assert not cut[:, 0, 1].any()
    assert not cut[:, 1, 0].any()
    area, ratio = size.prod(axis=1), size[:, 0] / size[:, 1]
    assert area.min() >= 0.08 - 1e-6
    assert area.max() <= 1 + 1e-6
    assert ratio.min() >= 3 / 4 - 1e-6
    assert ratio.max() <= 4 / 3 + 1e-6
    assert (np.abs(centre) <= 1 - size + 1e-6).all()
    expected = published_rectangles(20_000, seed=0)
    at = np.linspace(0.05, 0.95, 19)
    for ours, theirs in (
        (area, expected.prod(axis=1)), (np.log(ratio), np.log(expected[:, 0] / expected[:, 1])),
    ):
        np.testing.assert_allclose(np.quantile(ours, at), np.quantile(theirs, at), atol=0.015)
    # Anywhere in the image: the place is uniform in what the size leaves free.
    free = (centre / np.maximum(1 - size, 1e-3))[size.max(axis=1) < 0.9]
    np.testing.assert_allclose(np.quantile(free, at, axis=0).T, [2 * at - 1] * 2, atol=0.05)
    assert abs(np.corrcoef(free.T)[0, 1]) < 0.03


def test_the_whole_image_is_taken_where_no_try_fits():
    # Ten times nearly the whole area at 3:4: too high every time.
    draws = torch.cat([torch.full((1, 12), 0.99), torch.zeros(1, 10)], dim=1)
    np.testing.assert_array_equal(_random_cut(draws), [[[1, 0, 0], [0, 1, 0]]])


def test_a_random_crop_is_what_an_image_library_makes_of_the_same_rectangle():
    side, out = 64, 96
    pixels = picture(side, images=12)
    drawn = draw_distortion(12, strength=0.0, seed=7, step=1, crop=out, random_crop=True)
    ours = distort(pixels, drawn).numpy()
    assert ours.shape == (12, out, out, 3)
    for place in range(12):
        (width, _, x), (_, height, y) = drawn.cut[place].tolist()
        box = [side / 2 * (1 + x - width), side / 2 * (1 + y - height),
               side / 2 * (1 + x + width), side / 2 * (1 + y + height)]
        box = np.clip(box, 0, side)
        image = Image.fromarray(pixels[place].numpy())
        theirs = np.asarray(image.resize((out, out), Image.Resampling.BILINEAR, box=tuple(box)))
        # That library does not look past the rectangle's rim.
        np.testing.assert_allclose(ours[place, 3:-3, 3:-3], theirs[3:-3, 3:-3], atol=1.5)


def test_random_crops_keep_the_size_of_the_image_where_none_is_given():
    drawn = draw_distortion(3, strength=0.0, seed=0, step=0, random_crop=True)
    assert distort(picture(24, images=3), drawn).shape == (3, 24, 24, 3)


def test_every_second_image_is_mirrored_and_no_other_is():
    pixels = picture(16).expand(2000, -1, -1, -1)
    straight = distort(pixels[:1], draw_distortion(1, strength=0.0, seed=0, step=0))[0]
    turned = distort(pixels, draw_distortion(2000, strength=0.0, seed=8, step=9, mirror=True))
    is_straight = (turned - straight).abs().amax(dim=(1, 2, 3)) < 0.05
    is_mirrored = (turned - straight.flip(1)).abs().amax(dim=(1, 2, 3)) < 0.05
    assert torch.equal(is_straight, ~is_mirrored)
    # 2000 throws of a coin: three standard deviations are 67.
    assert abs(int(is_mirrored.sum()) - 1000) < 67


def test_mirroring_turns_the_distorted_and_cropped_image_round():
    pixels = picture(32, images=40)
    options = {"strength": 1.0, "seed": 4, "step": 4, "crop": 20, "random_crop": True}
    straight = distort(pixels, draw_distortion(40, **options))
    drawn = draw_distortion(40, **options, mirror=True)
    expected = torch.where(drawn.mirrored[:, None, None, None], straight.flip(2), straight)
    np.testing.assert_allclose(distort(pixels, drawn), expected, atol=0.05)
    assert 0 < drawn.mirrored.sum() < 40


def test_crops_are_a_function_of_seed_and_step_and_their_parts_are_their_rows():
    pixels = picture(24, images=30)

    def cropped(seed, step, rows=slice(None)):
        drawn = draw_distortion(
            30, strength=0.5, seed=seed, step=step, crop=16, random_crop=True, mirror=True
        )
        return distort(pixels[rows], drawn.part(rows))

    whole = cropped(1, 2)
    assert torch.equal(cropped(1, 2), whole)
    np.testing.assert_allclose(cropped(1, 2, slice(7, 19)), whole[7:19], atol=1e-3)
    for seed, step in ((1, 3), (2, 2)):
        assert not torch.equal(cropped(seed, step), whole)
