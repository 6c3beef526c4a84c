from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from layermatch.training.meter import IntervalMeter

CPU = torch.device("cpu")


def scalars(values: list[float], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=dtype) for value in values]


@pytest.mark.parametrize("num_steps", [1, 2, 50])
def test_means_are_over_steps_and_ratios_over_their_sums(num_steps: int) -> None:
    rng = np.random.default_rng(num_steps)
    losses, rates = rng.normal(size=num_steps), rng.normal(size=num_steps)
    right, counted = rng.integers(0, 10, num_steps), rng.integers(1, 50, num_steps)
    meter = IntervalMeter()
    for step in range(num_steps):
        meter.add(
            {"loss": torch.tensor(losses[step]), "rate": torch.tensor(rates[step])},
            {"accuracy": (torch.tensor(right[step]), torch.tensor(counted[step]))},
        )
    means = meter.read_out()
    assert list(means) == ["loss", "rate", "accuracy"]  # as they were added
    assert means["loss"] == pytest.approx(sum(losses) / num_steps, abs=1e-6)
    assert means["rate"] == pytest.approx(sum(rates) / num_steps, abs=1e-6)
    assert means["accuracy"] == pytest.approx(sum(right) / sum(counted), rel=1e-6)


def test_a_read_out_starts_afresh() -> None:
    meter = IntervalMeter()
    meter.add({"loss": torch.tensor(1.0)})
    assert meter.read_out() == {"loss": 1.0}
    assert meter.read_out() == {}
    meter.add({"loss": torch.tensor(3.0)})
    assert meter.read_out() == {"loss": 3.0}


def test_a_ratio_of_nothing_is_left_out() -> None:
    meter = IntervalMeter()
    zero, one = scalars([0.0, 1.0])
    meter.add({}, {"purity": (zero, zero), "mask": (zero, one)})
    assert meter.read_out() == {"mask": 0.0}
    # A step of nothing does not change the ratio of the others.
    meter.add({}, {"purity": (one, one + one)})
    meter.add({}, {"purity": (zero, zero)})
    assert meter.read_out() == {"purity": 0.5}


def test_a_quantity_counts_in_the_steps_that_give_it() -> None:
    meter = IntervalMeter()
    first, second, third = scalars([1.0, 2.0, 6.0])
    meter.add({"loss": first})
    meter.add({"loss": second, "late": third})
    assert meter.read_out() == {"late": 6.0, "loss": 1.5}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_sums_are_of_float32(dtype: torch.dtype) -> None:
    meter = IntervalMeter()
    for value in scalars([1.0] * 1000, dtype):  # in bfloat16, 256 + 1 is 256
        meter.add({"loss": value}, {"rate": (value, value)})
    assert meter.read_out() == {"loss": 1.0, "rate": 1.0}
    meter.add({"count": torch.tensor(3, dtype=dtype)})
    assert {part["totals"].dtype for part in meter.state_dict()} == {torch.float32}


def test_no_graph_and_no_view_of_what_was_added_is_kept() -> None:
    meter = IntervalMeter()
    loss = torch.tensor(1.0, requires_grad=True)
    weight = torch.tensor(2.0)
    meter.add({"loss": loss * 1, "weight": weight})
    weight.add_(5)
    assert not any(part["totals"].requires_grad for part in meter.state_dict())
    assert meter.read_out() == {"loss": 1.0, "weight": 2.0}


def test_an_interval_goes_on_from_a_saved_state() -> None:
    meter, other = IntervalMeter(), IntervalMeter()
    first, second, third = scalars([1.0, 2.0, 6.0])
    meter.add({"loss": first}, {"rate": (first, second)})
    other.add({"stale": first})
    state = meter.state_dict()
    other.load_state_dict(state)
    other.move_to(CPU)
    for each in (meter, other):
        each.add({"loss": third}, {"rate": (second, third)})
    assert [part["totals"].tolist() for part in state] == [[[[1.0, 1.0], [1.0, 2.0]]]]  # what is saved stays as it was
    assert meter.read_out() == other.read_out() == {"loss": 3.5, "rate": 3 / 8}


def test_one_process_goes_on_from_the_state_of_three() -> None:
    saved = []
    for value in (1.0, 2.0, 6.0):
        meter = IntervalMeter()
        meter.add({"loss": torch.tensor(value)})
        saved.append(meter.state_dict()[0])
    of_all = saved[0] | {"totals": torch.cat([part["totals"] for part in saved])}  # as each of three would save it
    meter = IntervalMeter()
    meter.load_state_dict([of_all])
    meter.add({"loss": torch.tensor(11.0)})
    assert meter.read_out() == {"loss": 20 / 4}


def test_an_empty_state() -> None:
    meter = IntervalMeter()
    assert meter.state_dict() == []
    meter.add({"loss": torch.tensor(1.0)})
    meter.load_state_dict([])
    assert meter.read_out() == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_added(bad: float) -> None:
    meter = IntervalMeter()
    for loss in (1.0, bad, 3.0):
        vector = torch.tensor([loss, 4.0])
        meter.add(
            {"loss": torch.tensor(loss), "rate": torch.tensor(2.0), "counts": vector},
            {"accuracy": (torch.tensor(1.0), torch.tensor(loss))},
        )
    assert meter.look() == {"accuracy": 2 / 4, "counts/0": 2.0, "counts/1": 4.0, "loss": 2.0, "rate": 2.0}
    meter.read_out()
    meter.add({"loss": torch.tensor(bad)})
    assert meter.read_out() == {}  # and what never was finite is left out


def test_vectors_are_read_out_by_component() -> None:
    meter = IntervalMeter()
    ratio = (torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]))
    for counts in ([1.0, 2.0], [3.0, 6.0]):
        meter.add({"counts": torch.tensor(counts), "loss": torch.tensor(1.0)}, {"accuracy": ratio})
    assert meter.look(("cat", "dog")) == {"accuracy/cat": 0.5, "counts/cat": 2.0, "counts/dog": 4.0, "loss": 1.0}
    assert meter.look(("one", "name", "too many")) == meter.look() == {
        "accuracy/0": 0.5, "counts/0": 2.0, "counts/1": 4.0, "loss": 1.0
    }  # fmt: skip


def test_a_state_goes_through_a_checkpoint_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole, parts = IntervalMeter(), IntervalMeter()
    for step in range(20):
        values = {"loss": torch.tensor(rng.normal()), "counts": torch.tensor(rng.normal(size=3))}
        if step % 5 == 0:
            values["now and then"] = torch.tensor(rng.normal())
        whole.add(values)
        parts.add(values)
        torch.save(parts.state_dict(), tmp_path / "meter.pt")
        parts = IntervalMeter()
        parts.load_state_dict(torch.load(tmp_path / "meter.pt", weights_only=True))
    assert parts.read_out() == whole.read_out()
