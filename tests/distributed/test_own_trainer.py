"""Two processes under a Trainer that a user made with Lightning's defaults."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests import processes

from layermatch import SemiSupervisedData
from layermatch.data.sources import Digits

SCRIPT = Path(__file__).with_name("own_trainer.py")


@pytest.mark.distributed
def test_each_process_gets_its_own_images_and_all_are_counted_once(tmp_path: Path) -> None:
    done = processes.run([sys.executable, str(SCRIPT), str(tmp_path)], ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    one = SemiSupervisedData(Digits(), num_labels=10, num_val=49, batch_size=8, mu=2)
    one.setup()
    for step in range(3):
        batch = one.batch_of_step(step)
        assert batch.unlabelled is not None
        assert found[0]["seen"][step] + found[1]["seen"][step] == batch.unlabelled.indices.tolist()
    assert [each["counted"] for each in found] == [360, 360]
