"""What only reads runs starts at once: it imports neither torch nor Lightning, and no plotting before it draws."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.report.made_runs import make_run

#: Each takes seconds to import.
HEAVY = {"torch", "torchvision", "lightning", "torchmetrics", "hydra", "omegaconf", "wandb", "matplotlib", "scipy"}

SCRIPT = """if True:
    import importlib, json, pkgutil, sys
    import layermatch.runs
    from pathlib import Path
    for name in sys.argv[2:]:
        module = importlib.import_module(name)
        for part in pkgutil.iter_modules(getattr(module, "__path__", [])):
            importlib.import_module(f"{name}.{part.name}")
    from layermatch.report.runs import read_run
    from layermatch.watch.watcher import Watcher
    path = Path(sys.argv[1])
    run, seen = read_run(path), Watcher(path).look()
    print(json.dumps([run.is_finished, seen.state.kind, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def imported_by(run_dir: Path, *modules: str) -> set[str]:
    """The packages that are imported after modules, and all in them, were, and a run was read."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(run_dir), *modules], capture_output=True, text=True, check=True, timeout=300
    )
    is_finished, kind, names = json.loads(done.stdout)
    assert is_finished
    assert kind == "finished"
    return set(names)


def test_readers_of_runs_import_nothing_heavy(tmp_path: Path) -> None:
    names = imported_by(make_run(tmp_path / "run"), "layermatch.report", "layermatch.watch", "layermatch.runs")
    assert "layermatch" in names
    assert not HEAVY & names
