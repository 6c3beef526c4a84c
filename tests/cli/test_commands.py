"""``layermatch COMMAND`` lists every command, and starts each as ``python -m layermatch.COMMAND`` does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.distributed.test_ddp import SMALL

import layermatch
from layermatch.__main__ import commands, main

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
#: What an installation makes of the entry point in pyproject.toml.
ENTRY_POINT = "import sys\nfrom layermatch.__main__ import main\nsys.exit(main())\n"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    script = tmp_path / "bin" / "layermatch"
    script.parent.mkdir()
    script.write_text(ENTRY_POINT)
    return [sys.executable, str(script)]


def do(words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=cwd, env=ENVIRONMENT, timeout=240, capture_output=True, text=True, check=False
    )  # fmt: skip


def given(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["layermatch", *words])


def test_the_entry_point_is_the_one_of_the_project() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '[project.scripts]\nlayermatch = "layermatch.__main__:main"\n\n' in text


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_all_commands_are_listed(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, *words)
    main()
    lines = capsys.readouterr().out.splitlines()
    assert {"run", "evaluate", "report", "watch", "bench"} <= set(commands())
    for name, summary in commands().items():
        assert len(summary.split()) >= 3, name
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.endswith(summary)
        assert len(line) <= 120


def test_a_command_is_a_module_that_can_be_started() -> None:
    folder = Path(layermatch.__file__).parent
    packages = {path.parent.name for path in folder.glob("*/__main__.py")}
    assert packages <= set(commands())
    for name in set(commands()) - packages:
        assert (folder / f"{name}.py").is_file()


def test_listing_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("torch", "lightning", "hydra", "numpy", "rich", "wandb")
    check = f"import sys; sys.argv[1:] = []; {ENTRY_POINT.splitlines()[1]}; main(); " + (
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["rnu"],
            f"unknown command 'rnu': give layermatch run, or another of {', '.join(commands())}",
        ),
        (["__main__"], "unknown command '__main__': "),
        (["zzz", "--help"], f"unknown command 'zzz': choose one of {', '.join(commands())}"),
        (
            ["experiment=stl10", "data.root=my pictures"],
            "'experiment=stl10' is no command: settings come after one: "
            "layermatch run experiment=stl10 'data.root=my pictures'",
        ),
    ],
)
def test_what_is_no_command_is_one_line_with_the_nearest_one(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, *words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    output, errors = capsys.readouterr()
    assert not output
    (line,) = errors.splitlines()
    assert line.startswith(f"error: {said}")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["a b", "--no-such", "-m", "x=[1, 2]"], ["nowhere"]])
def test_words_arrive_as_they_were_typed(words: list[str], command: list[str], tmp_path: Path) -> None:
    ours = do([*command, "watch", *words], tmp_path)
    module = do([sys.executable, "-m", "layermatch.watch", *words], tmp_path)
    assert (ours.returncode, ours.stdout, ours.stderr) == (module.returncode, module.stdout, module.stderr)
    assert ours.stdout or ours.stderr


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("sweep", [[], ["-m", "seed=1"]], ids=["run", "sweep"])
def test_a_run_of_two_processes(sweep: list[str], command: list[str], tmp_path: Path) -> None:
    done = do([*command, "run", *sweep, "trainer=ddp_cpu", "run_dir=out 1", *SMALL], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    run_dir = tmp_path / "out 1" / ("0" if sweep else "")
    results = json.loads((run_dir / "results.json").read_text())
    assert results["steps"] == 3
    assert "2 x " in (run_dir / "run.log").read_text()
