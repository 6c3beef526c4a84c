"""Which settings a study finds that no run can have, before it starts one."""

from __future__ import annotations

import pytest
from tests.report.made_runs import settings_of

from layermatch.study.prepare import _refusal


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["algorithm=linear_probe", "trainer.max_steps=1"], ""),
        (["algorithm=linear_probe", "trainer.max_steps=30"], "trainer.max_steps=30 is not legal with algorithm=linear"),
        (["algorithm=supervised", "layerwise=grad_relu"], "algorithm=supervised reads no layerwise"),
    ],
)
def test_a_setting_is_refused_as_its_run_would_be(words: list[str], reason: str) -> None:
    found = _refusal(settings_of(*words, seed=0))
    assert found.startswith(reason)
    assert bool(found) is bool(reason)
