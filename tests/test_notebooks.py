"""The notebooks: whole, clean, and made of things that exist. `make notebooks` executes them; nothing here does."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pytest
import torch

from layermatch.networks import wrn_small
from layermatch.parts import Problem, Step
from layermatch.policies import Predictions

ROOT = Path(__file__).parents[1]
NAMES = (
    "1_ten_minutes",
    "2_two_losses_one_backward",
    "3_do_pseudo_labels_benefit_all_layers",
    "4_your_own_folder",
    "5_add_a_method",
)
PAGES = ROOT / "docs" / "notebooks"

#: Modules that are there when a notebook runs, but not in every environment that tests run in.
OF_JUPYTER = {"IPython"}
WRITE_FILE = re.compile(r"^%%writefile (\w+)\.py\n")
#: Places of one machine. A link has letters before its slashes.
ABSOLUTE = re.compile(r"(?<![\w.:/)\]])/(home|root|tmp|work|Users|mnt|opt|usr|var)/|\b[A-Z]:\\")


def read(name: str) -> Any:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def code_cells(name: str) -> list[str]:
    """The code of each cell; a file that a cell writes is code too."""
    return [WRITE_FILE.sub("", cell.source) for cell in read(name).cells if cell.cell_type == "code"]


def written_modules(name: str) -> dict[str, str]:
    found = ((WRITE_FILE.match(cell.source), cell.source) for cell in read(name).cells if cell.cell_type == "code")
    return {match[1]: WRITE_FILE.sub("", source) for match, source in found if match}


def links(text: str) -> list[str]:
    """The files that a page names; whether a page has the heading after a `#` is checked where the site is built."""
    return [
        link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))
    ]


def test_there_are_these_and_no_others() -> None:
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_valid_and_has_no_outputs(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        assert cell.source.strip()
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    # Neither a path nor a version of the machine that it was written on.
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        assert not ABSOLUTE.search(cell.source), cell.source


def test_absolute_paths_are_found() -> None:
    assert ABSOLUTE.search('Path("/home/me/runs")')
    assert ABSOLUTE.search("read /tmp/x")
    assert not ABSOLUTE.search("../build/tmp/x, https://example.org/home/, a/work/b")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_begins_with_a_title_and_ends_with_what_to_read_next(name: str) -> None:
    cells = read(name).cells
    assert cells[0].cell_type == cells[-1].cell_type == "markdown"
    assert re.match(r"# \w.*\n\n\w", cells[0].source), "a title, and what it is about"
    assert "**What to read next:**" in cells[-1].source
    assert links(cells[-1].source)
    for cell in cells:
        for link in links(cell.source) if cell.cell_type == "markdown" else []:
            assert (ROOT / "notebooks" / link).exists(), link


@pytest.mark.parametrize("name", NAMES)
def test_code_compiles(name: str) -> None:
    for number, source in enumerate(code_cells(name)):
        compile(source, f"{name}, code cell {number}", "exec")


@pytest.mark.parametrize("name", NAMES)
def test_imports_resolve(name: str) -> None:
    nodes = [node for source in code_cells(name) for node in ast.walk(ast.parse(source))]
    elsewhere = OF_JUPYTER | set(written_modules(name)) | {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    imported = [(alias.name, None) for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    imported += [
        (node.module, alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    is_imported = any(module.partition(".")[0] == "layermatch" for module, _ in imported)
    assert is_imported or any('"-m", f"layermatch.' in source for source in code_cells(name))
    for module, member in imported:
        if module.partition(".")[0] in elsewhere:
            continue
        assert find_spec(module), module
        if member and module.startswith("layermatch"):
            found = import_module(module)
            assert member in found.__all__, f"{module}.{member} is not public"


def test_the_page_of_notebooks_names_every_one_and_readme_names_it() -> None:
    links_of = links((PAGES.parent / "notebooks.md").read_text())
    assert [name for name in NAMES if f"notebooks/{name}.md" not in links_of] == []
    assert [name for name in NAMES if f"../notebooks/{name}.ipynb" not in links_of] == []
    assert "docs/notebooks.md" in links((ROOT / "README.md").read_text())


# ---------------------------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize("name", NAMES)
def test_its_page_shows_this_notebook_with_its_pictures(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    squeezed = "".join(page.split())
    for cell in read(name).cells:
        source = cell.source.replace(".ipynb)", ".md)").replace("](../", "](../../")
        assert "".join(source.split()) in squeezed, f"make notebook-pages: the page is older than\n{source}"
    assert not ABSOLUTE.search(page)
    assert "\x1b" not in page
    assert "Traceback" not in page
    for link in links(page):
        assert (PAGES / link).exists(), link
    pictures = re.findall(r"!\[png\]\(([^)]+)\)", page)
    assert pictures
    for picture in pictures:
        assert (PAGES / picture).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (PAGES / f"{name}_files").iterdir()} == {Path(picture).name for picture in pictures}


# ------------------------------------------------------------------------------------------------ the method of the 5th


@pytest.fixture(scope="module")
def flexmatch() -> ModuleType:
    ((name, source),) = written_modules("5_add_a_method").items()
    module = ModuleType(name)
    exec(source, module.__dict__)  # noqa: S102 -- our own notebook's
    return module


@pytest.fixture
def problem() -> Problem:
    return Problem(
        num_classes=4, num_features=64, num_labelled=8, num_unlabelled=50, image_shape=(1, 8, 8), max_steps=12
    )


@pytest.fixture
def step() -> Step:
    network = wrn_small(num_classes=4)
    return Step(network, network, number=0, max_steps=12, record=lambda *_: None, watch=lambda *_: None)


def test_flexmatch_against_its_definition(flexmatch: ModuleType, problem: Problem, step: Step) -> None:
    """The paper's learning status and thresholds, image by image in numpy; a step has one batch, or two."""
    num_classes, pool, tau = problem.num_classes, problem.num_unlabelled, 0.7
    policy = flexmatch.FlexMatch(threshold=tau)
    policy.prepare(problem)
    generator = torch.Generator().manual_seed(0)
    latest: dict[int, int] = {}
    for number in range(12):
        status = [sum(seen == k for seen in latest.values()) for k in range(num_classes)]
        beta = np.array(status) / max(*status, pool - sum(status))
        thresholds = beta / (2 - beta) * tau
        shown: dict[int, int] = {}
        for _ in range(1 + number % 2):
            indices = torch.randperm(pool, generator=generator)[:20]
            probs = (2.5 * torch.randn(20, num_classes, generator=generator)).softmax(dim=1)
            found = policy(Predictions(probs, indices))
            for i, row in enumerate(probs.numpy()):
                k = int(row.argmax())
                assert found.target[i] == k
                assert found.weight[i] == float(row[k] >= thresholds[k])
                if row[k] >= tau:
                    shown[int(indices[i])] = k
        policy.after_step(step)
        latest |= shown
        assert policy.latest.tolist() == [latest.get(i, num_classes) for i in range(pool)]
    assert len(set(latest.values())) == num_classes
    resumed = flexmatch.FlexMatch(threshold=tau)
    resumed.prepare(problem)
    resumed.load_state_dict(policy.state_dict())
    assert torch.equal(resumed.thresholds(), policy.thresholds())


def test_flexmatch_remembers_nothing_of_a_step_that_is_not_applied(
    flexmatch: ModuleType, problem: Problem, step: Step
) -> None:
    policy = flexmatch.FlexMatch()
    policy.prepare(problem)
    before = policy.latest.clone()
    sure = torch.eye(4)
    policy(Predictions(sure, torch.arange(4)))
    policy.discard_step()
    policy.after_step(step)
    assert torch.equal(policy.latest, before)
    policy(Predictions(sure, torch.arange(10, 14)))
    assert torch.equal(policy.latest, before)
    policy.after_step(step)
    assert policy.latest.tolist() == [4] * 10 + [0, 1, 2, 3] + [4] * 36


def test_flexmatch_is_about_thirty_lines(flexmatch: ModuleType) -> None:
    source = written_modules("5_add_a_method")[flexmatch.__name__]
    body = ast.parse(source).body
    (klass,) = [node for node in body if isinstance(node, ast.ClassDef)]
    assert klass.end_lineno is not None
    assert klass.end_lineno - klass.lineno < 35
