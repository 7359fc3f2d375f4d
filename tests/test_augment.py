import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bn_helpers.training.augment import Normalizer

COUNTS = st.integers(1, 5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=generator(seed), dtype=torch.uint8)


def as_they_are(size, channels=1, **changes):
    """A normalizer that returns the pixels' values from 0 to 1."""
    return Normalizer([0.0] * channels, [1.0] * channels, size, **changes)


@given(n=COUNTS, c=st.sampled_from((1, 3)), size=COUNTS, down=COUNTS, right=COUNTS)
def test_plain_is_the_normalised_centre(n, c, size, down, right):
    """Catches a corner for the centre, H for W, the mean in units of 255, and chance."""
    images = pictures(n, c, size + down - 1, size + right - 1)
    mean, std = np.linspace(0.3, 0.6, c), np.linspace(0.2, 0.4, c)
    plain = Normalizer(mean.tolist(), std.tolist(), size, flip=True, distortion=0.5).plain(images)
    top, left = (down - 1) // 2, (right - 1) // 2
    centre = images.numpy()[:, :, top : top + size, left : left + size] / 255
    np.testing.assert_allclose(
        plain, (centre - mean[:, None, None]) / std[:, None, None], rtol=1e-5, atol=1e-6
    )
    assert plain.dtype == torch.float32
    assert plain.is_contiguous(memory_format=torch.channels_last)


def test_without_anything_at_random_the_picture_stays():
    images = pictures(6, 3, 8, 8)
    normalizer = Normalizer([0.5, 0.4, 0.3], [0.2, 0.3, 0.4], 8)
    random = normalizer.random(images, generator())
    torch.testing.assert_close(random, normalizer.plain(images), rtol=0, atol=0)
    assert random.is_contiguous(memory_format=torch.channels_last)


@given(c=st.sampled_from((1, 3)), size=st.integers(2, 5), down=COUNTS, right=COUNTS)
def test_crops_are_windows_of_the_padded_picture(c, size, down, right):
    """Catches rows for columns, a shift that leaves the picture, and channels cropped apart."""
    for pad in (0, 2):
        images = pictures(3, c, size + down - 1, size + right - 1)
        crops = as_they_are(size, c, pad=pad).random(images, generator(down + 10 * right))
        around = torch.nn.functional.pad(images.float() / 255, (pad,) * 4)
        for crop, image in zip(crops, around, strict=True):
            windows = image.unfold(1, size, 1).unfold(2, size, 1)
            assert (windows == crop[:, None, None]).all((0, 3, 4)).any()


def test_all_windows_are_as_frequent():
    """Catches a window that is never taken, at the edge above all."""
    image = torch.arange(20, dtype=torch.uint8).reshape(1, 1, 4, 5)
    crops = as_they_are(2).random(image.expand(12_000, -1, -1, -1), generator())
    first, counts = (crops[:, 0, 0, 0] * 255).round().unique(return_counts=True)
    assert first.tolist() == [5 * top + left for top in range(3) for left in range(4)]
    assert (counts - 1000).abs().max() < 5 * 1000**0.5


def test_half_of_the_pictures_are_mirrored():
    images = pictures(2000, 1, 3, 4)
    images = images[:, :, :, :3]
    seen = as_they_are(3, flip=True).random(images, generator())
    plain = images.float() / 255
    kept, mirrored = ((seen == x).all((1, 2, 3)) for x in (plain, plain.flip(3)))
    assert (kept | mirrored).all()
    assert abs(int(mirrored.sum()) - 1000) < 5 * 500**0.5


@given(part=st.tuples(st.integers(0, 11), st.integers(1, 12)), pad=st.integers(0, 2))
def test_a_share_of_a_batch_is_its_rows(part, pad):
    """Catches numbers that are drawn for the share, so that processes see the same ones."""
    images, part = pictures(12, 3, 6, 6), slice(*sorted(part))
    normalizer = Normalizer([0.4] * 3, [0.2] * 3, 5, distortion=0.4, pad=pad, flip=True)
    whole, after = normalizer.random(images, whole_chance := generator()), None
    share = normalizer.random(images[part], chance := generator(), (12, part))
    torch.testing.assert_close(share, whole[part], rtol=0, atol=0)
    after = torch.rand(1, generator=whole_chance), torch.rand(1, generator=chance)
    assert after[0] == after[1]


def test_brightness_contrast_and_saturation_each_change_within_the_bounds():
    """Catches one number for all three, an additive change, and a bound on one side only."""
    images, largest = pictures(3000, 3, 3, 3), 0.4
    before = images.double() / 255
    after = as_they_are(3, 3, distortion=largest).random(images, generator()).double()

    def moments(x):  # mean; deviation of the grey picture from it; colours' from the grey picture
        mean, grey = x.mean((1, 2, 3), keepdim=True), x.mean(1, keepdim=True)
        return (
            mean.flatten(),
            (grey - mean).flatten(1).norm(dim=1),
            (x - grey).flatten(1).norm(dim=1),
        )

    mean, grey, colour = (
        new / old for new, old in zip(moments(after), moments(before), strict=True)
    )
    factors = torch.stack([mean, grey / mean, colour / grey])
    assert (factors > 1 - largest - 1e-3).all()
    assert (factors < 1 + largest + 1e-3).all()
    assert (factors.amin(1) < 1 - 0.98 * largest).all()
    assert (factors.amax(1) > 1 + 0.98 * largest).all()
    torch.testing.assert_close(torch.corrcoef(factors), torch.eye(3).double(), rtol=0, atol=0.1)


def test_all_chance_is_the_generators():
    images = pictures(8, 3, 6, 6)
    normalizer = Normalizer([0.4] * 3, [0.2] * 3, 6, distortion=0.4, pad=1, flip=True)
    before, chance = torch.get_rng_state(), generator(3)
    first, second = (normalizer.random(images, chance) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    assert torch.equal(normalizer.random(images, generator(3)), first)
    assert torch.equal(pictures(8, 3, 6, 6), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_channel_has_its_own_mean_and_deviation(channels):
    images = pictures(500, channels, 4, 4)
    x = images.double() / 255
    normalizer = Normalizer(x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).tolist(), 4, flip=True)
    for y in (normalizer.plain(images), normalizer.random(images, generator())):
        torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(channels), rtol=0, atol=1e-5)
        torch.testing.assert_close(y.std((0, 2, 3)), torch.ones(channels), rtol=0, atol=1e-5)
