"""Every operation is the function that PIL computes."""

import platform
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from layermatch.augment import OPERATIONS, RANDAUGMENT, apply_operation, geometry, ops
from layermatch.bench import pil_pipeline
from layermatch.errors import UserError

# Worst difference in levels and smallest share of equal values that are allowed. On x86 everything is equal to the
# bit. Elsewhere PIL's own compiler may fuse a multiplication with an addition, or round a sine, differently.
EXACT = (0, 1.0)
X86 = platform.machine().lower() in {"x86_64", "amd64"}
ALLOWED = {
    **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), EXACT if X86 else (1, 0.99)),
    **dict.fromkeys(("rotate", "shear_x", "shear_y", "translate_x", "translate_y"), EXACT if X86 else (255, 0.995)),
}
WITHOUT_MAGNITUDE = ("autocontrast", "equalize", "identity", "invert")


def by_pil(name: str, images: Tensor, magnitudes: Tensor) -> Tensor:
    """The oracle: one image after the other."""
    function = pil_pipeline.OPERATIONS[name][0]
    pictures = pil_pipeline.to_images(images)
    results = [function(image, v) for image, v in zip(pictures, magnitudes.tolist(), strict=True)]
    return pil_pipeline.to_batch(results)


def grid(name: str) -> list[float]:
    low, high = OPERATIONS[name].low, OPERATIONS[name].high
    if name in WITHOUT_MAGNITUDE:
        return [low]
    # Both ends, the middle (no rotation, no shift), and values that are no round fractions.
    return [low, low + 0.137 * (high - low), (low + high) / 2, low + 0.771 * (high - low), high]


def compare(name: str, images: Tensor, magnitudes: Tensor) -> tuple[int, float]:
    """Worst difference in levels, and the share of equal values."""
    difference = apply_operation(name, images, magnitudes).int() - by_pil(name, images, magnitudes).int()
    return int(difference.abs().max()), float((difference == 0).double().mean())


@pytest.mark.parametrize("name", list(OPERATIONS))
@pytest.mark.parametrize("channels", [3, 1])
def test_is_the_function_of_pil(name, channels, colour_images, grey_images, record_property):
    images = (colour_images if channels == 3 else grey_images)[700:1300]  # of both kinds
    figures = [compare(name, images, torch.full((len(images),), v)) for v in grid(name)]
    worst, equal = max(f[0] for f in figures), min(f[1] for f in figures)
    record_property("worst_difference", worst)
    record_property("equal_share", equal)
    sys.stdout.write(f"{name}, {channels} channels, {len(images)} images: ")
    sys.stdout.write(f"worst difference {worst} levels, {equal:.4%} equal\n")
    allowed, share = ALLOWED.get(name, EXACT)
    assert worst <= allowed
    assert equal >= share


@pytest.mark.parametrize("name", list(OPERATIONS))
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (3, 9, 13), (1, 17, 9), (3, 96, 64), (3, 224, 224)])
def test_any_size_with_a_magnitude_per_sample(name, shape, generator):
    count = 3 if shape[1] == 224 else 24
    images = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    images[0] //= 9  # few levels
    images[1] = images[1] // 32 + 200
    low, high = OPERATIONS[name].low, OPERATIONS[name].high
    magnitudes = low + (high - low) * torch.rand(count, dtype=torch.float64, generator=generator)
    worst, equal = compare(name, images, magnitudes)
    allowed, share = ALLOWED.get(name, EXACT)
    assert worst <= allowed
    assert equal >= share


def test_autocontrast_on_every_range():
    levels = torch.arange(256, dtype=torch.uint8)
    low, high = torch.triu_indices(256, 256)
    keep = low % 5 == 0
    low, high = low[keep], high[keep]
    images = levels.clamp(low[:, None].to(torch.uint8), high[:, None].to(torch.uint8)).view(-1, 1, 16, 16)
    assert compare("autocontrast", images, torch.zeros(len(images))) == EXACT


def test_equalize_on_awkward_histograms(generator):
    constant = torch.full((1, 1, 32, 32), 77, dtype=torch.uint8)
    two = constant.clone()
    two[..., :3] = 78
    every_level = torch.arange(1024).view(1, 1, 32, 32).to(torch.uint8)  # wraps round: four of each
    step_one = torch.arange(1024).clamp(max=509).div(2, rounding_mode="floor").to(torch.uint8).view(1, 1, 32, 32)
    skewed = (torch.rand(20, 1, 32, 32, generator=generator) ** 6 * 255).to(torch.uint8)
    images = torch.cat([constant, two, every_level, step_one, 255 - step_one, skewed, 255 - skewed])
    assert compare("equalize", images, torch.zeros(len(images))) == EXACT


def test_equalize_cuts_levels_above_255(generator):
    # 16 x 17 pixels, one of them at the top level: the step is 271 // 255 = 1, so PIL's table runs up to 271.
    images = torch.randint(200, (5, 1, 16, 17), dtype=torch.uint8, generator=generator)
    images[:, :, 0, 0] = 255
    result = apply_operation("equalize", images, 0.0)
    assert torch.equal(result, by_pil("equalize", images, torch.zeros(5)))
    assert (result[:, :, 0, 0] == 255).all()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0, 127.5, 128.0, 254.9, 255.0, 255.5, 256.0])
def test_solarize_at_thresholds_between_levels(threshold):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert compare("solarize", images, torch.tensor([threshold])) == EXACT


@pytest.mark.parametrize(("magnitude", "bits"), [(0.3, 1), (1.0, 1), (4.0, 4), (4.999, 4), (7.9, 7), (8.0, 8)])
def test_posterize_keeps_whole_bits(magnitude, bits):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    result = ops.posterize(images, torch.tensor([magnitude]))
    assert torch.equal(result, by_pil("posterize", images, torch.tensor([magnitude])))
    assert len(result.unique()) == 2**bits


@pytest.mark.parametrize("name", ["brightness", "color", "contrast", "sharpness"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_enhancers_at_the_ends(name, weight, colour_images):
    images = colour_images[990:1010]
    magnitude = torch.full((20,), weight)
    result = OPERATIONS[name].function(images, magnitude)
    assert torch.equal(result, by_pil(name, images, magnitude))
    assert torch.equal(result, images) == (weight == 1.0)


def test_color_of_a_grey_image_is_the_identity(grey_images):
    assert torch.equal(apply_operation("color", grey_images, 0.3), grey_images)


def test_contrast_rounds_the_mean_half_up():
    images = torch.tensor([[10, 11], [20, 20]], dtype=torch.uint8).view(2, 1, 1, 2)
    # Mean 10.5 becomes 11; with weight 0 only the mean is left.
    assert ops.contrast(images, torch.zeros(2)).flatten().tolist() == [11, 11, 20, 20]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 7), (7, 2)])
def test_sharpness_leaves_an_image_without_an_inside(shape, generator):
    images = torch.randint(256, (3, 3, *shape), dtype=torch.uint8, generator=generator)
    assert torch.equal(ops.sharpness(images, torch.full((3,), 0.5)), images)


@pytest.mark.parametrize("name", ["translate_x", "translate_y", "shear_x", "shear_y"])
def test_moves_of_any_length(name, colour_images):
    # Half pixels, next to nothing, whole images, and further than the image is wide.
    fractions = [0.5, 1.5, -0.5, -1.5, 2.5, 32.0, -32.0, 31.5, -31.5, 1e-9, -1e-9, 0.0, 40.0, -40.0, 100.0]
    magnitudes = torch.tensor(fractions, dtype=torch.float64) / 32
    images = colour_images[995 : 995 + len(magnitudes)]
    result = OPERATIONS[name].function(images, magnitudes)
    assert torch.equal(result, by_pil(name, images, magnitudes))
    assert name.startswith("shear") or not result[-1].any()


@pytest.mark.parametrize("side", [(32, 32), (31, 24)])
def test_rotations_of_any_angle(side, generator):
    # Not the right angles: PIL transposes there.
    angles = torch.tensor([0.0, 1e-7, -1e-7, 1.0, -1.0, 30.0, -30.0, 45.0, 60.0, 89.0, 91.0, 135.0, -179.0, 359.0])
    images = torch.randint(256, (len(angles), 3, *side), dtype=torch.uint8, generator=generator)
    result = geometry.rotate(images, angles)
    equal = (result == by_pil("rotate", images, angles)).double().mean()
    assert equal >= (1.0 if X86 else 0.995)


def test_flip_is_the_mirror_of_pil(colour_images):
    images = colour_images[::10]
    zero = torch.zeros(len(images), dtype=torch.int64)
    mirror = torch.arange(len(images)) % 3 == 0
    result = geometry.crop_and_flip(images, top=zero, left=zero, mirror=mirror, pad=(0, 0))
    flipped = [
        image.transpose(pil_pipeline.Image.Transpose.FLIP_LEFT_RIGHT) if flip else image
        for image, flip in zip(pil_pipeline.to_images(images), mirror.tolist(), strict=True)
    ]
    assert torch.equal(result, pil_pipeline.to_batch(flipped))


@pytest.mark.parametrize(("side", "pad"), [((32, 32), (4, 4)), ((8, 20), (7, 2)), ((32, 32), (0, 0))])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_at_every_offset(side, pad, channels, generator):
    offsets = torch.cartesian_prod(torch.arange(2 * pad[0] + 1), torch.arange(2 * pad[1] + 1))
    images = torch.randint(256, (len(offsets), channels, *side), dtype=torch.uint8, generator=generator)
    result = geometry.crop_and_flip(
        images,
        top=offsets[:, 0],
        left=offsets[:, 1],
        mirror=torch.zeros(len(offsets), dtype=torch.bool),
        pad=pad,
    )
    expected = [
        pil_pipeline.crop(image, top=top, left=left, pad=pad)
        for image, (top, left) in zip(pil_pipeline.to_images(images), offsets.tolist(), strict=True)
    ]
    assert torch.equal(result, pil_pipeline.to_batch(expected))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [(32, 32), (20, 45), (45, 20)])
def test_cutout_is_the_box_of_pil(side, channels, generator):
    draws = torch.rand(400, 3, dtype=torch.float64, generator=generator)
    draws[:5] = torch.tensor([[0, 0.5, 0.5], [1e-6, 0, 0], [1, 0, 0], [1, 0.9999, 0.9999], [0.5, 0.5, 0]])
    images = torch.randint(256, (len(draws), channels, *side), dtype=torch.uint8, generator=generator)
    result = geometry.cutout(images, size=draws[:, 0], x=draws[:, 1], y=draws[:, 2])
    expected = [
        pil_pipeline.cutout(image, size=size, x=x, y=y)
        for image, (size, x, y) in zip(pil_pipeline.to_images(images), draws.tolist(), strict=True)
    ]
    assert torch.equal(result, pil_pipeline.to_batch(expected))
    assert torch.equal(result[0], images[0])  # size 0: no box


def test_there_are_the_14_of_the_references_and_invert():
    assert len(RANDAUGMENT) == 14
    assert set(OPERATIONS) - set(RANDAUGMENT) == {"invert"}
    ranges = {name: (operation.low, operation.high) for name, operation in OPERATIONS.items()}
    assert ranges == {name: (low, high) for name, (_, low, high) in pil_pipeline.OPERATIONS.items()}


@pytest.mark.parametrize("name", list(OPERATIONS))
class TestContract:
    """What holds for every operation."""

    def test_input_stays_and_result_is_new(self, name, colour_images):
        images = colour_images[992:1008].clone()
        before = images.clone()
        result = apply_operation(name, images, OPERATIONS[name].low)
        assert torch.equal(images, before)
        assert result.dtype == torch.uint8
        assert result.shape == images.shape
        result.zero_()
        assert torch.equal(images, before)

    def test_result_does_not_depend_on_the_batch(self, name, colour_images, generator):
        images = colour_images[968:1032]
        low, high = OPERATIONS[name].low, OPERATIONS[name].high
        magnitudes = low + (high - low) * torch.rand(64, generator=generator)
        together = apply_operation(name, images, magnitudes)
        alone = [apply_operation(name, images[i : i + 1], magnitudes[i : i + 1]) for i in range(64)]
        order = torch.randperm(64, generator=generator)
        assert torch.equal(together, torch.cat(alone))
        assert torch.equal(together[order], apply_operation(name, images[order], magnitudes[order]))

    def test_memory_layout_does_not_matter(self, name, colour_images):
        images = colour_images[992:1008]
        expected = apply_operation(name, images, OPERATIONS[name].low)
        channels_last = images.contiguous(memory_format=torch.channels_last)
        strided = torch.stack([images, images], dim=4)[..., 0]
        assert torch.equal(apply_operation(name, channels_last, OPERATIONS[name].low), expected)
        assert torch.equal(apply_operation(name, strided, OPERATIONS[name].low), expected)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_an_empty_batch_gives_an_empty_batch(self, name, channels):
        images = torch.zeros(0, channels, 32, 32, dtype=torch.uint8)
        assert apply_operation(name, images, OPERATIONS[name].low).shape == images.shape

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("magnitude_device", ["cpu", "cuda"])
    def test_all_pixels_stay_on_the_device(self, name, channels, magnitude_device):
        # Fake tensors carry a device without owning one: mixing devices fails here as on a GPU.
        with FakeTensorMode():
            images = torch.empty(4, channels, 32, 32, dtype=torch.uint8, device="cuda")
            magnitudes = torch.empty(4, dtype=torch.float64, device=magnitude_device)
            result = OPERATIONS[name].function(images, magnitudes)
        assert result.device.type == "cuda"

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_gpu_equals_cpu(self, name, colour_images, generator):
        low, high = OPERATIONS[name].low, OPERATIONS[name].high
        magnitudes = low + (high - low) * torch.rand(len(colour_images), generator=generator)
        expected = apply_operation(name, colour_images, magnitudes)
        assert torch.equal(apply_operation(name, colour_images.cuda(), magnitudes).cpu(), expected)
        assert torch.equal(apply_operation(name, colour_images.cuda(), magnitudes.cuda()).cpu(), expected)


@pytest.mark.parametrize(
    ("name", "magnitude", "message"),
    [
        ("Rotate", 0.0, "operation='Rotate' is not legal: choose one of autocontrast"),
        ("rotate", 31.0, "magnitude of rotate outside its range: give -30 to 30"),
        ("rotate", float("nan"), "magnitude of rotate outside its range"),
        ("solarize", -1.0, "give 0 to 256"),
        ("rotate", torch.zeros(3), r"magnitude of shape \(3,\) is not legal: give one number or \(2,\)"),
    ],
)
def test_wrong_operations_are_refused(name, magnitude, message):
    with pytest.raises(UserError, match=message):
        apply_operation(name, torch.zeros(2, 3, 8, 8, dtype=torch.uint8), magnitude)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 8, 8), "torch.float32 are not legal: give torch.uint8"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"shape \(3, 8, 8\) are not legal: give \(N, C, H, W\)"),
        (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), "4 channels are not legal: give 1 .* or 3"),
        (torch.zeros(2, 3, 0, 8, dtype=torch.uint8), "at least one pixel"),
    ],
)
def test_wrong_images_are_refused(images, message):
    with pytest.raises(UserError, match=message):
        apply_operation("identity", images, 0.0)
