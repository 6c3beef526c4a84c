"""The installed wheel: configuration inside, and a run in an empty directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_wheel_runs_in_an_empty_directory(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    configuration = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert {f"layermatch/{name}" for name in configuration} <= set(names)
    assert "layermatch/py.typed" in names
    assert {f"layermatch/report/templates/{name}" for name in ("page.html", "style.css")} <= set(names)
    assert {f"layermatch/label/static/{name}" for name in ("page.html", "page.css", "page.js")} <= set(names)

    empty = tmp_path / "empty"
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "layermatch.run", "experiment=digits", "debug=fast", "run_dir=out"]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((empty / "out" / "results.json").read_text())["steps"] == 2
    where = subprocess.run(
        [sys.executable, "-c", "import layermatch.cli as c; print(c.config_dir())"],
        cwd=empty, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.strip() == str(tmp_path / "site" / "layermatch" / "conf")  # not the checkout's


def test_importing_the_package_is_light() -> None:
    check = "import sys, layermatch; print([m for m in ('torch', 'lightning', 'wandb', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_running_does_not_import_what_is_not_used(tmp_path: Path) -> None:
    check = "import sys, layermatch.run; print([m for m in ('wandb', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
