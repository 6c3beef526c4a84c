"""The views are the conventional PIL pipeline, sample by sample, from the same draws."""

import platform
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layermatch.augment import OPERATIONS, RANDAUGMENT, StrongView, WeakView, geometry, ops
from layermatch.augment.randaugment import rand_augment
from layermatch.bench import pil_pipeline
from layermatch.errors import UserError

LAST = 1 - 2**-24  # the largest float32 below 1
# Share of values that may differ from PIL's: none on x86; elsewhere PIL's own compiler may fuse operations.
UNEQUAL = 0.0 if platform.machine().lower() in {"x86_64", "amd64"} else 5e-3


def by_pil(view: WeakView, images: Tensor, draws: Tensor) -> Tensor:
    if isinstance(view, StrongView):
        pipeline = pil_pipeline.PilPipeline(
            flip=view.flip, pad=view.pad, num_ops=view.num_ops, cutout=view.cutout, operations=view.operations
        )
        one = pipeline.strong
    else:
        one = pil_pipeline.PilPipeline(flip=view.flip, pad=view.pad).weak
    pictures = pil_pipeline.to_images(images)
    return pil_pipeline.to_batch([one(image, row) for image, row in zip(pictures, draws.tolist(), strict=True)])


VIEWS = {
    "weak": WeakView(),
    "weak without flip": WeakView(flip=False),
    "weak without padding": WeakView(pad=0),
    "weak, half the side": WeakView(pad=0.5),
    "strong": StrongView(),
    "strong, 1 operation": StrongView(num_ops=1),
    "strong, 5 operations": StrongView(num_ops=5),
    "strong, no operation": StrongView(num_ops=0),
    "strong without cutout": StrongView(cutout=0),
    "strong, cutout up to the whole width": StrongView(cutout=1.0),
    "strong, operations of its own": StrongView(operations=("invert", "rotate", "rotate", "equalize")),
    "strong without flip and padding": StrongView(flip=False, pad=0),
}
every_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())


@every_view
@pytest.mark.parametrize("channels", [3, 1])
def test_is_the_view_of_pil(view, channels, colour_images, grey_images, generator, record_property):
    images = (colour_images if channels == 3 else grey_images)[700:1300]
    draws = torch.rand(len(images), view.num_draws, generator=generator)
    difference = (view(images, draws).int() - by_pil(view, images, draws).int()).abs()
    record_property("worst_difference", int(difference.max()))
    sys.stdout.write(f"{view}, {channels} channels: worst difference {int(difference.max())} levels\n")
    assert (difference != 0).double().mean() <= UNEQUAL


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (3, 33, 47), (3, 96, 96), (1, 224, 224), (3, 224, 224)])
@pytest.mark.parametrize("view", [WeakView(), StrongView()], ids=["weak", "strong"])
def test_any_size(view, shape, generator):
    count = 120 if shape[1] < 96 else 20
    images = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    draws = torch.rand(count, view.num_draws, generator=generator)
    assert (view(images, draws) != by_pil(view, images, draws)).double().mean() <= UNEQUAL


@pytest.mark.parametrize("view", [WeakView(), StrongView()], ids=["weak", "strong"])
@pytest.mark.parametrize("uniform", [0.0, 0.5, LAST])
def test_draws_at_the_ends_of_their_range(view, uniform, colour_images):
    images = colour_images[990:1010]
    draws = torch.full((20, view.num_draws), uniform)
    assert torch.equal(view(images, draws), by_pil(view, images, draws))


@pytest.mark.parametrize("view", [WeakView(), StrongView(operations=("identity", "invert"), cutout=0)], ids=repr)
def test_a_uniform_that_was_rounded_up_to_one_is_the_last_choice(view, colour_images):
    images = colour_images[990:1010]
    ones = torch.ones(20, view.num_draws)
    assert torch.equal(view(images, ones), view(images, ones * LAST))


def test_every_crop_and_flip_is_as_likely_as_its_share_of_the_uniforms():
    # One image with all pixels distinct; u on a fine grid: 9 offsets of one ninth each, half of them flipped.
    image = torch.arange(1024).view(1, 1, 32, 32)
    images = torch.cat([image // 256, image % 256, image * 0], dim=1).to(torch.uint8)
    grid = (torch.arange(900) + 0.5) / 900
    draws = torch.full((900, 3), 0.75)
    draws[:, 0] = grid
    views = WeakView()(images.expand(900, -1, -1, -1), draws)
    _, counts = views.unique(dim=0, return_counts=True)
    assert counts.tolist() == [100] * 9
    draws[:, 0], draws[:, 2] = 0.5, grid
    _, counts = WeakView()(images.expand(900, -1, -1, -1), draws).unique(dim=0, return_counts=True)
    assert counts.tolist() == [450, 450]


@every_view
def test_input_stays_and_result_is_new(view, colour_images, generator):
    images = colour_images[980:1020].clone()
    draws = torch.rand(40, view.num_draws, generator=generator)
    images_before, draws_before = images.clone(), draws.clone()
    view(images, draws).zero_()
    assert torch.equal(images, images_before)
    assert torch.equal(draws, draws_before)


@every_view
def test_result_does_not_depend_on_the_batch(view, colour_images, generator):
    images = colour_images[968:1032]
    draws = torch.rand(64, view.num_draws, generator=generator)
    together = view(images, draws)
    alone = [view(images[i : i + 1], draws[i : i + 1]) for i in range(64)]
    order = torch.randperm(64, generator=generator)
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together[order], view(images[order], draws[order]))


@every_view
def test_same_draws_give_the_same_view_and_others_another(view, colour_images, generator):
    images = colour_images[980:1020]
    first, second = torch.rand(2, 40, view.num_draws, generator=generator)
    assert torch.equal(view(images, first), view(images, first))
    changes = (view(images, first) != view(images, second)).flatten(1).any(dim=1)
    if view.pad or isinstance(view, StrongView):
        assert changes.double().mean() > 0.5


@every_view
@pytest.mark.parametrize("channels", [1, 3])
def test_an_empty_batch_gives_an_empty_batch(view, channels):
    images = torch.zeros(0, channels, 32, 32, dtype=torch.uint8)
    assert view(images, torch.rand(0, view.num_draws)).shape == images.shape


def test_memory_layout_and_float64_draws_do_not_matter(colour_images, generator):
    view, images = StrongView(), colour_images[980:1020]
    draws = torch.rand(40, view.num_draws, generator=generator)
    expected = view(images, draws)
    assert torch.equal(view(images.contiguous(memory_format=torch.channels_last), draws), expected)
    assert torch.equal(view(images, draws.double()), expected)
    assert torch.equal(view(images, draws.t().contiguous().t()), expected)


def test_sizes_that_are_no_multiple_of_eight_bytes(generator):
    view = StrongView()
    images = torch.randint(256, (50, 3, 15, 17), dtype=torch.uint8, generator=generator)
    draws = torch.rand(50, view.num_draws, generator=generator)
    assert torch.equal(view(images, draws), by_pil(view, images, draws))


@pytest.mark.parametrize(
    ("view", "unread"),
    [
        (WeakView(flip=False), [2]),
        (WeakView(pad=0), [0, 1]),
        (StrongView(cutout=0), [9, 10, 11]),
        (StrongView(operations=("identity", "equalize")), [4, 6, 8]),
    ],
    ids=repr,
)
def test_parts_that_are_off_leave_their_columns_unread(view, unread, colour_images, generator):
    images = colour_images[980:1020]
    draws = torch.rand(40, view.num_draws, generator=generator)
    others = draws.clone()
    others[:, unread] = torch.rand(40, len(unread), generator=generator)
    assert torch.equal(view(images, draws), view(images, others))


@pytest.mark.parametrize("column", range(12))
def test_every_column_is_read(column, colour_images, generator):
    view, images = StrongView(), colour_images[900:1100]
    draws = torch.rand(200, view.num_draws, generator=generator)
    others = draws.clone()
    others[:, column] = torch.rand(200, generator=generator)
    assert not torch.equal(view(images, draws), view(images, others))


def test_only_samples_that_drew_an_operation_pay_for_it(monkeypatch, colour_images, generator):
    rows = dict.fromkeys(RANDAUGMENT, 0)

    def counted(name, function):
        def count(images, magnitude):
            rows[name] += len(images)
            return function(images, magnitude)

        return count

    for name in RANDAUGMENT:
        operation = OPERATIONS[name]
        monkeypatch.setitem(OPERATIONS, name, operation._replace(function=counted(name, operation.function)))
    draws = torch.rand(200, StrongView().num_draws, generator=generator)
    StrongView()(colour_images[900:1100], draws)
    drawn = (draws[:, [3, 5, 7]] * 14).long().flatten().bincount(minlength=14).tolist()
    drawn[RANDAUGMENT.index("identity")] = 0  # nothing to pay for
    assert list(rows.values()) == drawn


def test_operations_come_one_after_the_other():
    images = torch.tensor([40, 200], dtype=torch.uint8).view(1, 1, 1, 2)
    names = ("invert", "solarize")
    uniform = torch.full((1, 2), 0.5)  # threshold 128
    after = {
        order: rand_augment(images.clone(), choice=torch.tensor([order]), uniform=uniform, operations=names)
        for order in ((0, 1), (1, 0), (0, 0), (1, 1))
    }
    assert {order: result.flatten().tolist() for order, result in after.items()} == {
        (0, 1): [40, 55],
        (1, 0): [215, 200],
        (0, 0): [40, 200],
        (1, 1): [40, 55],
    }


def test_repr_and_columns_say_everything():
    assert repr(WeakView(flip=False, pad=0.25)) == "WeakView(flip=False, pad=0.25)"
    assert repr(StrongView(cutout=0)).endswith("num_ops=3, cutout=0, operations=RANDAUGMENT)")
    view = StrongView(num_ops=1, operations=["rotate"])
    assert repr(view) == "StrongView(flip=True, pad=0.125, num_ops=1, cutout=0.5, operations=('rotate',))"
    assert WeakView().columns == ("crop_y", "crop_x", "flip")
    assert view.columns == (
        *("crop_y", "crop_x", "flip", "operation_0", "magnitude_0"),
        *("cutout_size", "cutout_x", "cutout_y"),
    )
    assert StrongView().num_draws == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1}, "flip=1 is not legal: choose true or false"),
        ({"pad": -0.1}, "pad=-0.1 is not legal: give a number, at least 0 and below 1"),
        ({"pad": 1.0}, "pad=1.0"),
        ({"pad": "4"}, "pad='4'"),
        ({"num_ops": -1}, "num_ops=-1 is not legal: give a whole number, at least 0"),
        ({"num_ops": 2.0}, "num_ops=2.0"),
        ({"cutout": 1.1}, "cutout=1.1 is not legal: give a number, at least 0 and at most 1"),
        ({"operations": ()}, "give a list of at least one name"),
        ({"operations": "rotate"}, "operations='rotate' is not legal: give a list"),
        ({"operations": ("rotate", "blur")}, "operations='blur' is not legal: choose one of autocontrast"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message) as error:
        StrongView(**settings)
    assert "\n" not in str(error.value)
    if settings.keys() <= {"flip", "pad"}:
        with pytest.raises(UserError, match=message):
            WeakView(**settings)


@pytest.mark.parametrize("view", [WeakView(), StrongView()], ids=["weak", "strong"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 8, 8), "torch.float32 are not legal"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "are not legal: give .N, C, H, W."),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), "2 channels are not legal"),
    ],
)
def test_wrong_images_are_refused(view, images, message):
    with pytest.raises(UserError, match=message):
        view(images, torch.rand(2, view.num_draws))


@pytest.mark.parametrize("view", [WeakView(), StrongView()], ids=["weak", "strong"])
def test_wrong_draws_are_refused(view):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    for draws in (
        torch.rand(2, view.num_draws + 1),
        torch.rand(3, view.num_draws),
        torch.rand(view.num_draws),
        torch.zeros(2, view.num_draws, dtype=torch.int64),
    ):
        with pytest.raises(UserError, match=f"are not legal: give floats .2, {view.num_draws}."):
            view(images, draws)


def test_padding_that_reflection_cannot_give_is_refused():
    view = WeakView(pad=0.95)
    images = torch.zeros(2, 3, 32, 8, dtype=torch.uint8)  # round(0.95 * 8) is the whole side
    with pytest.raises(UserError, match=r"images of 32x8 are too small for pad=0\.95"):
        view(images, torch.rand(2, 3))
    assert view(images[..., :1].expand(-1, -1, -1, 32), torch.rand(2, 3)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("draws_device", ["cpu", "cuda"])
def test_weak_view_and_cutout_stay_on_the_device(draws_device):
    # Fake tensors carry a device without owning one: mixing devices fails here as on a GPU.
    with FakeTensorMode():
        images = torch.empty(4, 3, 32, 32, dtype=torch.uint8, device="cuda")
        draws = torch.empty(4, 3, device=draws_device)
        weak = WeakView()(images, draws)
        size, x, y = draws.unbind(1)
        box = geometry.cutout(weak, size=size, x=x, y=y)
    assert weak.device.type == "cuda"
    assert box.device.type == "cuda"


class NoFloat64(TorchDispatchMode):
    """Refuses float64 on a device, as Apple's does."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.dtype == torch.float64 and value.device.type == self.device:
                raise TypeError(f"{func}: {self.device} has no float64")
        return out


@pytest.mark.parametrize("draws_device", ["cpu", "cuda"])
def test_a_device_without_float64_computes_none(draws_device, monkeypatch):
    monkeypatch.setattr(ops, "WITHOUT_FLOAT64", {"cuda"})  # which stands in for Apple's
    with FakeTensorMode(), NoFloat64("cuda"):
        with pytest.raises(TypeError, match="cuda has no float64"):
            torch.zeros(3, device="cuda").double()
        images = torch.empty(4, 3, 32, 32, dtype=torch.uint8, device="cuda")
        for view in (WeakView(), WeakView(area=0.5)):
            assert view(images, torch.empty(4, view.num_draws, device=draws_device)).device.type == "cuda"
        assert ops.autocontrast(images, torch.zeros(4)).device.type == "cuda"


def test_operations_compute_no_float64_on_the_device_of_the_images(generator):
    others = sorted(OPERATIONS.keys() - {"autocontrast"})  # whose tables are of the pixels: a meta tensor has none
    images = torch.empty(40, 3, 32, 32, dtype=torch.uint8, device="meta")
    for view in (StrongView(operations=others), StrongView(operations=others, area=0.5)):
        with NoFloat64("meta"):
            assert view(images, torch.rand(40, view.num_draws, generator=generator)).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_view
def test_gpu_equals_cpu(view, colour_images, generator):
    draws = torch.rand(len(colour_images), view.num_draws, generator=generator)
    expected = view(colour_images, draws)
    on_gpu = view(colour_images.cuda(), draws.cuda())
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), expected)
    assert torch.equal(view(colour_images.cuda(), draws).cpu(), expected)


def test_check_images_accepts_what_the_views_accept():
    for channels in (1, 3):
        ops.check_images(torch.zeros(0, channels, 1, 1, dtype=torch.uint8))


# ------------------------------------------------------------------------------------------------------- a random box


def test_a_box_is_enlarged_as_torchvision_does() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, 3, 20, 30), dtype=torch.uint8, generator=generator)
    top, left = torch.tensor([0, 3, 19, 0, 5, 7]), torch.tensor([0, 29, 4, 10, 1, 2])
    height, width = torch.tensor([20, 7, 1, 20, 9, 13]), torch.tensor([30, 1, 5, 20, 29, 11])
    made = geometry.resized_crop(images, top=top, left=left, height=height, width=width)
    for n in range(len(images)):
        box = images[n : n + 1, :, top[n] : top[n] + height[n], left[n] : left[n] + width[n]].to(torch.float64)
        expected = F.interpolate(box, size=(20, 30), mode="bilinear", align_corners=False)
        assert (made[n : n + 1] - expected).abs().max() <= 0.501
    assert torch.equal(made[0], images[0])


@pytest.mark.parametrize("kind", [WeakView, StrongView])
def test_a_view_of_a_random_box(kind: type[WeakView]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, 3, 24, 24), dtype=torch.uint8, generator=generator)
    view, plain = kind(area=0.25), kind()
    assert view.columns == (*plain.columns, "area", "ratio")
    draws = torch.rand(64, view.num_draws, generator=generator)
    assert view(images, draws).shape == images.shape
    assert torch.equal(view(images[5:6], draws[5:6]), view(images, draws)[5:6])
    if isinstance(view, StrongView):
        assert view.with_ops(1).area == 0.25
    whole = torch.full((64, view.num_draws), 0.5)
    whole[:, -2] = 1 - 1e-9
    expected = plain(images, whole[:, :-2])  # the middle of a padded image is the image
    assert torch.equal(view(images, whole), expected)


def test_the_boxes_have_the_shares_that_are_asked_for() -> None:
    columns = torch.arange(96, dtype=torch.uint8).expand(500, 1, 96, 96)
    rows = columns.transpose(2, 3)
    view = WeakView(area=0.3, flip=False)
    draws = torch.rand(500, view.num_draws, generator=torch.Generator().manual_seed(0))
    across, down = view(columns.contiguous(), draws).float(), view(rows.contiguous(), draws).float()
    width = across.amax(dim=(1, 2, 3)) - across.amin(dim=(1, 2, 3)) + 1
    height = down.amax(dim=(1, 2, 3)) - down.amin(dim=(1, 2, 3)) + 1
    share, ratio = width * height / 96**2, width / height
    assert 0.28 < share.min() < 0.32
    assert share.max() > 0.9
    assert ratio.min() > 0.72
    assert ratio.max() < 1.4
    assert (across.amin(dim=(1, 2, 3)) == 0).float().mean() < 0.3


@pytest.mark.parametrize("area", [0, 1.5, -0.1])
def test_a_share_that_is_none_is_refused(area: float) -> None:
    with pytest.raises(UserError, match=r"area=.* is not legal: give a number, above 0 and at most 1"):
        WeakView(area=area)
