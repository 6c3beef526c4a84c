"""Full disks and damaged files."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faults.runs import SMALL, finish, newest_step, start, wait_for

from layermatch.checkpoints import newest_checkpoint, read_checkpoint, write_checkpoint
from layermatch.errors import RunError, UserError
from layermatch.loggers import MetricsCsv


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    status, text = finish(start(folder, "run_dir=out", "trainer.max_steps=20", *SMALL))
    assert status == 0, text
    return folder / "out"


@pytest.fixture
def run_dir(finished_run: Path, tmp_path: Path) -> Path:
    """A run with checkpoints of steps 10 and 20, to be hurt."""
    shutil.copytree(finished_run, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB, which holds a few checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def damage(path: Path, position: float, how: str) -> None:
    content = bytearray(path.read_bytes())
    place = int(position * len(content))
    if how == "truncated":
        path.write_bytes(content[:place])
    else:
        content[place] ^= 1 << 3
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "bit-flipped"])
def test_a_damaged_newest_checkpoint(
    how: str, run_dir: Path, fault: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    newest, before = (run_dir / f"checkpoints/step-00000{step}.ckpt" for step in (20, 10))
    whole, expected = newest.read_bytes(), read_checkpoint(before)
    positions = random.Random(0)
    detected = harmless = 0
    for _ in range(25):
        newest.write_bytes(whole)
        damage(newest, positions.uniform(0, 1), how)
        caplog.clear()
        found = newest_checkpoint(run_dir)
        if found == before:
            assert str(newest) in caplog.text
            assert str(before) in caplog.text
            detected += 1
        else:  # a bit of the padding between two parts, which holds nothing
            harmless += _same_content(newest, whole, run_dir)
    assert detected > 15
    assert read_checkpoint(before).keys() == expected.keys()
    note = "one interval" if not harmless else f"one interval ({harmless} x nothing: the bit was padding)"
    fault(f"{how} newest checkpoint", tried=25, survived=detected + harmless, lost=note)


def _same_content(damaged: Path, whole: bytes, folder: Path) -> bool:
    original = folder / "original"
    original.write_bytes(whole)
    one, two = read_checkpoint(damaged), read_checkpoint(original)
    return all(one["state_dict"][name].equal(value) for name, value in two["state_dict"].items())


def test_a_run_goes_on_from_the_previous_one_and_says_so(run_dir: Path) -> None:
    damage(run_dir / "checkpoints/step-0000020.ckpt", 0.5, "truncated")
    process = start(run_dir.parent, "run_dir=out", "trainer.max_steps=25", *SMALL, "ckpt_path=last")
    status, text = finish(process)
    assert status == 0, text
    (line,) = text.splitlines()
    assert line.startswith("out/checkpoints/step-0000020.ckpt cannot be read as a checkpoint: ")
    assert line.endswith("; going on from out/checkpoints/step-0000010.ckpt")
    assert newest_step(run_dir) == 25
    assert read_checkpoint(run_dir / "checkpoints/step-0000020.ckpt")["global_step"] == 20  # written again


def test_no_valid_checkpoint_at_all(run_dir: Path) -> None:
    for path in (run_dir / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint in .* is valid: .*step-0000020.*step-0000010"):
        newest_checkpoint(run_dir)


def test_what_cannot_be_written_leaves_what_is_there(run_dir: Path) -> None:
    path = run_dir / "checkpoints/step-0000020.ckpt"
    content, checkpoint = path.read_bytes(), read_checkpoint(path)
    name = next(name for name, value in checkpoint["state_dict"].items() if value.is_floating_point())
    checkpoint["state_dict"][name][0] = float("nan")
    with pytest.raises(RunError, match=f"is not written: {name} is not finite"):
        write_checkpoint(checkpoint, path)
    assert path.read_bytes() == content


@pytest.mark.slow
def test_a_full_disk(small_disk: Path, fault: Callable[..., None]) -> None:
    out = small_disk / "out"
    process = start(small_disk, "run_dir=out", "trainer.max_steps=100000", *SMALL)
    wait_for(lambda: len(list((out / "checkpoints").glob("*.ckpt"))) == 2, process)
    fill(small_disk / "filler")
    status, text = finish(process)
    assert status == 1, text
    lines = text.splitlines()
    assert lines[-1].startswith("error: cannot write out/checkpoints/step-")
    assert "No space left on device" in lines[-1]
    assert "go on with ckpt_path=last" in lines[-1]
    assert not [line for line in lines if "Traceback" in line], text
    assert not list(out.rglob("*.tmp"))
    step = newest_step(out)
    assert step >= 20
    for path in (out / "checkpoints").glob("*.ckpt"):
        read_checkpoint(path)
    (small_disk / "filler").unlink()
    status, text = finish(start(small_disk, "run_dir=out", f"trainer.max_steps={step + 5}", *SMALL, "ckpt_path=last"))
    assert status == 0, text
    fault("disk full while a checkpoint is written (status 1)", tried=1, survived=1, lost="< 10 steps (one interval)")


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


def test_a_full_disk_costs_rows_of_the_metrics_and_no_more(
    small_disk: Path, fault: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    logger = MetricsCsv(small_disk)
    logger.log_metrics({"loss": 1.0}, step=1)
    fill(small_disk / "filler")
    for step in range(2, 2002):  # more than what the last page has room for
        logger.log_metrics({"loss": 1.0} | ({"new": 2.0} if step > 1500 else {}), step=step)
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [f"{logger.path} cannot be written"]
    (small_disk / "filler").unlink()
    logger.log_metrics({"loss": 3.0}, step=3000)
    lines = logger.path.read_text().splitlines()
    assert (lines[0], lines[1], lines[-1]) == ("step,loss", "1,1.0", "3000,3.0")
    fault("disk full while metrics are written (training goes on)", tried=1, survived=1, lost="rows of that time")


@pytest.mark.slow
def test_a_full_disk_costs_figures_and_not_the_results(small_disk: Path, fault: Callable[..., None]) -> None:
    out = small_disk / "out"
    process = start(small_disk, "run_dir=out", "trainer.max_steps=20", *SMALL, pictures=True)
    wait_for((out / "figures/views.png").exists, process)
    shutil.rmtree(out / "figures")
    (out / "figures").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(out / "figures")], check=True)
    try:
        status, text = finish(process)
    finally:
        subprocess.run(["umount", "--lazy", str(out / "figures")], check=True)
    assert status == 0, text
    (line,) = text.splitlines()
    assert line.startswith("cannot write the figures: ")
    assert (out / "results.json").exists()
    fault("disk full while figures are written", tried=1, survived=1, lost="figures; the results are there")
