"""benchmarks/layer_sweep.py: its cells are runs that exist, it goes on where it stopped, its intervals are right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import layer_sweep
from hydra import compose, initialize_config_dir

from layermatch.build import build_parts
from layermatch.cli import config_dir, plain
from layermatch.functional import scale_for
from layermatch.layerwise import ScaledGradients, SeparateLosses
from layermatch.networks import Output
from layermatch.settings import Settings

RESULTS = Path(__file__).parents[1] / "docs" / "layers.json"


def scales(setting: str) -> dict[str, float]:
    """The pseudo-label gradient scale of each parameter, as the setting's run would have it."""
    arguments = layer_sweep.overrides(layer_sweep.Cell(setting, 40, 0.2, 0))
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        parts = build_parts(Settings.parse(plain(compose("run", overrides=["run_dir=run", *arguments]))))
    method = parts.algorithm.method
    assert method.policy.noise == 0.2
    rule, network = method.rule, parts.algorithm.network
    assert all(isinstance(each, ScaledGradients) for each in parts.algorithm.gradient_rules)
    given = [each.scales for each in parts.algorithm.gradient_rules]
    assert len(given) <= 1
    found = {name: scale_for(name, given[0] if given else {}) for name, _ in network.named_parameters()}
    if isinstance(rule, SeparateLosses):
        assert rule.avg_clustering.weight == 0.5
        assert rule.grad_relu == "block"
        found |= {name: 0.0 for name in found if name.startswith("classifier")}
    return found


def test_the_blocks_divide_the_network() -> None:
    """What the settings leave out, one after another, is every parameter once."""
    left_out = [{name for name, scale in scales(setting).items() if scale == 0} for setting in layer_sweep.SETTINGS]
    by_name = dict(zip(layer_sweep.SETTINGS, left_out, strict=True))
    blocks = [names for setting, names in by_name.items() if setting.startswith("all but")]
    everything = by_name[layer_sweep.NOTHING]
    assert len(blocks) == 5
    assert all(blocks)
    assert sorted(name for names in blocks for name in names) == sorted(everything)
    assert by_name[layer_sweep.BASELINE] == set()
    assert by_name["only the classifier"] == everything - {"classifier.weight", "classifier.bias"}
    assert everything == set(scales(layer_sweep.BASELINE))


def test_every_seed_has_every_setting() -> None:
    cells = layer_sweep.make_cells(seeds=range(2), num_labels=(10,), noise=(0.0, 0.4))
    assert len(cells) == len(set(cells)) == 2 * (2 * len(layer_sweep.SETTINGS) - 1)  # no noise where nobody learns
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)


def test_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "layers.json"
    cells = layer_sweep.make_cells(
        seeds=[0], settings=[layer_sweep.BASELINE, layer_sweep.NOTHING], num_labels=[10], noise=[0.0], steps=2
    )
    first = layer_sweep.sweep(cells[:1], path)
    stored = json.loads(path.read_text())
    assert stored["runs"] == first
    assert "pseudo_labels=noisy" in stored["about"]["recipe"]
    both = layer_sweep.sweep(cells, path)
    assert both[:1] == first
    assert [run["setting"] for run in both] == [layer_sweep.BASELINE, layer_sweep.NOTHING]
    for run in both:
        assert 0 < run["centre_accuracy"] <= 1
        assert 0 < run["within"] < 1
    monkeypatch.setattr(layer_sweep, "measure", lambda cell: pytest.fail("nothing is left to run"))
    assert layer_sweep.sweep(cells, path) == both


def test_clustering_against_its_definition() -> None:
    """tr(S_W) / tr(S_T) and the nearest class mean, written out."""

    class Identity:
        network = staticmethod(lambda images: Output(images.flatten(1), {}))

    class Data:
        classes = ("a", "b", "c")
        normalise = staticmethod(lambda pixels: pixels.double())
        content: Data

    class Part:
        def __init__(self, num: int) -> None:
            generator = np.random.default_rng(num)
            self.labels = np.arange(num) % 3
            self.pixels = generator.integers(0, 90, (num, 1, 2, 2)) + 40 * self.labels[:, None, None, None]
            self.images = self

        def __len__(self) -> int:
            return len(self.labels)

        def read(self, index: np.ndarray) -> np.ndarray:
            return self.pixels[index]

    data = Data()
    data.content = data
    data.labelled, data.test = Part(30), Part(21)
    algorithm = type("Algorithm", (), {"ema": Identity})
    found = layer_sweep.clustering(algorithm, data)
    train, test = (part.pixels.reshape(len(part), 4).astype(float) for part in (data.labelled, data.test))
    centres = np.stack([train[data.labelled.labels == k].mean(axis=0) for k in range(3)])
    nearest = np.array([((row - centres) ** 2).sum(axis=1).argmin() for row in test])
    assert found["centre_accuracy"] == (nearest == data.test.labels).mean()
    assert 0.4 < found["centre_accuracy"] < 1
    within = sum(
        ((test[data.test.labels == k] - test[data.test.labels == k].mean(axis=0)) ** 2).sum() for k in range(3)
    )
    assert found["within"] == pytest.approx(within / ((test - test.mean(axis=0)) ** 2).sum())


def fake_runs(accuracies: dict[str, list[float]], *, noise: float = 0.0) -> list[layer_sweep.Run]:
    return [
        {"setting": setting, "num_labels": 10, "noise": noise, "seed": seed, "accuracy": accuracy}
        for setting, found in accuracies.items()
        for seed, accuracy in enumerate(found)
    ]


def test_a_difference_is_paired_by_seed() -> None:
    other = "all but block 1"
    runs = fake_runs({layer_sweep.BASELINE: [0.50, 0.70, 0.90, 0.1], other: [0.53, 0.72, 0.94]})
    found = layer_sweep.compare(runs[::-1], "accuracy", setting=other, num_labels=10, noise=0.0)
    # Gaps 3, 2 and 4 points: mean 3, standard deviation 1; Student's t of 2 degrees of freedom is 4.303 at 97.5 %.
    assert found.mean == pytest.approx(3)
    assert found.high - found.mean == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert (found.wins, found.num_seeds) == (3, 3)
    assert str(found) == "+3.0 [+0.5, +5.5]"


def test_the_overall_difference_is_of_each_seeds_mean() -> None:
    other = "all but block 1"
    runs = fake_runs({layer_sweep.BASELINE: [0.5, 0.5, 0.5], other: [0.51, 0.53, 0.8]}, noise=0.0)
    runs += fake_runs({layer_sweep.BASELINE: [0.4, 0.4], other: [0.43, 0.45]}, noise=0.4)  # seed 2 lacks this noise
    found = layer_sweep.compare_overall(runs, "accuracy", setting=other)
    # Seed 0: 1 and 3 points, seed 1: 3 and 5; Student's t of 1 degree of freedom is 12.706 at 97.5 %.
    assert found.mean == pytest.approx(3)
    assert found.high - found.mean == pytest.approx(12.706, abs=1e-3)
    assert found.num_seeds == 2


def test_no_layer_is_compared_at_every_noise() -> None:
    runs = fake_runs({layer_sweep.BASELINE: [0.5, 0.6]}, noise=0.4) + fake_runs({layer_sweep.NOTHING: [0.4, 0.6]})
    found = layer_sweep.compare(runs, "accuracy", setting=layer_sweep.NOTHING, num_labels=10, noise=0.4)
    assert found.mean == pytest.approx(-5)


def test_the_published_results_are_of_this_script() -> None:
    stored = json.loads(RESULTS.read_text())
    assert stored["about"]["recipe"] == ["experiment=digits", *layer_sweep.RECIPE]
    runs = stored["runs"]
    cells = [layer_sweep.Cell(**{name: run[name] for name in layer_sweep.Cell.__dataclass_fields__}) for run in runs]
    assert len(set(cells)) == len(cells)
    assert set(cells) <= set(layer_sweep.make_cells(seeds={cell.seed for cell in cells}))
    assert set(cells) >= set(layer_sweep.make_cells(seeds=range(5)))  # five seeds everywhere, a sixth in some cells
    for num_labels in layer_sweep.NUM_LABELS:
        assert layer_sweep.table(runs, num_labels=num_labels).count("\n") == 1 + len(layer_sweep.SETTINGS)
