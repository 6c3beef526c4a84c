"""The page: whole, self-contained, accessible, and deaf to what names of classes and folders say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import datetime
from html import escape
from importlib.resources import files
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from tests.report.html_page import Page
from tests.report.made_runs import make_run, rows_of, write_metrics

from layermatch.report.charts import COLOURS, DARK_SHADE, DASHES, SHADES
from layermatch.report.groups import choose_baseline, group_runs
from layermatch.report.page import render_html, render_markdown
from layermatch.report.runs import read_run
from layermatch.runs.plan import write_plan

EVIL = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b' onload='x", "{{ 7 * 7 }}")


def render(*paths: Path) -> tuple[str, str]:
    runs = [read_run(path) for path in paths]
    groups = group_runs(runs)
    baseline = choose_baseline(groups, None)
    page = render_html(runs, groups, baseline, written=datetime(2026, 1, 2, 3, 4))
    return page, render_markdown(runs, groups, baseline)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two settings with three and two seeds, a stopped run and an empty folder."""
    root = tmp_path_factory.mktemp("sweep")
    paths = [
        make_run(root / f"f{seed}", "algorithm=fixmatch", seed=seed, accuracy=0.8 + 0.05 * seed) for seed in (0, 1, 2)
    ]
    paths += [make_run(root / f"l{seed}", seed=seed, accuracy=0.9 + 0.01 * seed) for seed in (0, 1)]
    paths += [make_run(root / "stopped", seed=9, is_finished=False)]
    (root / "empty").mkdir()
    return [*paths, root / "empty"]


@pytest.fixture(scope="module")
def page(sweep: list[Path]) -> str:
    return render(*sweep)[0]


@pytest.fixture(scope="module")
def evil_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Markup wherever a run holds text."""
    root = tmp_path_factory.mktemp("evil")
    paths = []
    for seed, name in enumerate(("<script>alert(2)<br>", 'x" onmouseover="y', "control\x1b[2J\u202e\udcff")):
        path = make_run(root / name, classes=EVIL, seed=seed)
        settings = yaml.safe_load((path / "config.yaml").read_text())
        settings["name"] = "</title><script>alert(3)</script>"
        settings["algorithm"]["name"] = "<b>bold</b>"
        settings["<i>key</i>"] = f"<u>{seed == 0}</u>"
        (path / "config.yaml").write_text(yaml.safe_dump(settings))
        results = json.loads((path / "results.json").read_text())
        results["versions"] = {"<s>torch</s>": "<s>2</s>"}
        (path / "results.json").write_text(json.dumps(results))
        write_plan(path, {"<em>device</em>": "<em>GPU</em>"})
        (path / "metrics.csv").unlink()
        extra = {"loss/<b>part</b>": 1.0, "layers/<b>stem</b>/cosine": 0.5, "<b>own</b>": 1.0}
        write_metrics(path, [row | extra for row in rows_of(0.9, classes=EVIL)])
    return [*paths, *sorted(root.iterdir())]


def test_the_page_is_whole_and_accessible(page: str) -> None:
    parsed = Page(page)
    assert parsed.faults == []
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert parsed.all("html") == [{"lang": "en"}]
    assert all(image.get("alt") for image in parsed.all("img"))
    assert len(parsed.all("img")) == 2
    for place, (tag, attributes) in enumerate(parsed.tags):
        if tag == "svg":
            assert attributes["role"] == "img"
            assert "title" in parsed.children[place]
        if tag == "table":
            assert "caption" in parsed.children[place]
        if tag == "th":
            assert attributes["scope"] in {"row", "col"}
        for name in ("aria-labelledby", "href"):
            targets = (attributes.get(name) or "").split()
            assert all(target.removeprefix("#") in ids for target in targets)
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_every_chart_says_in_words_what_it_shows(page: str) -> None:
    parsed = Page(page)
    charts = [place for place, (tag, a) in enumerate(parsed.tags) if tag == "svg" and "aria-labelledby" in a]
    assert len(charts) > 10
    assert all({"title", "desc"} <= set(parsed.children[place]) for place in charts)
    assert "fixmatch 85.0\xa0% ± 5.0 (n 3) at step 30" in parsed.text
    assert "Cosine of the angle" in parsed.text


def test_the_page_needs_nothing_else(page: str) -> None:
    parsed = Page(page)
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "link", "iframe", "object", "base", "form"})
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in parsed.all("img"))
    assert "url(" not in page
    assert "@import" not in page
    assert "http:" not in page
    assert "https:" not in page
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)


def test_figures_are_right_and_have_their_n(page: str, sweep: list[Path]) -> None:
    text = Page(page).text
    for fancy, plain in {"\N{NO-BREAK SPACE}": " ", "\N{MINUS SIGN}": "-", "\N{EN DASH}": "-"}.items():
        text = text.replace(fancy, plain)
    assert "5 finished runs of 2 settings, 3 seeds; 7 run directories in all." in text
    assert "2 of them are not counted" in text
    assert "fixmatch 3 85.0 % ± 5.0 84.0 % ± 5.0" in text
    assert "layermatch 2 90.5 % ± 0.7" in text
    # Differences are +10 and +6 points: mean 8, s = 2.83, t(0.975, 1) = 12.71.
    assert "layermatch Test, EMA weights +8.0 -17.4 to +33.4 2 of 2 n 2" in text
    assert "The two runs of a pair have the same labelled images." in text
    assert "seed 0 seed 1 seed 2 fixmatch 80.0 % 85.0 % 90.0 % layermatch 90.0 % 91.0 % -" in text
    assert "stopped layermatch 9 stopped 30 - stopped before its end: at step 30 of 30" in text
    assert "there is nothing of a run in it" in text


def test_the_title_has_the_names_of_all_runs(tmp_path: Path) -> None:
    """The name is no part of the setting: runs of one group may have several."""
    same = [make_run(tmp_path / name, f"name={name}", seed=seed) for seed, name in enumerate(("pilot", "again"))]
    other = make_run(tmp_path / "other", "algorithm=fixmatch", "name=pilot", is_finished=False)
    page, text = render(*same, other)
    assert Page(page).text.count("Runs of pilot, again") == 2  # the title of the window, and the heading
    assert "# Runs of pilot, again\n" in text


def test_a_single_seed_has_no_deviation_and_no_comparison(tmp_path: Path) -> None:
    text, markdown = render(make_run(tmp_path / "a"))
    shown = Page(text).text
    assert "layermatch 1 90.0\xa0% 89.0\xa0%" in shown
    assert "Difference to" not in shown
    assert "±\xa0" not in markdown
    assert 'class="band' not in text


def test_what_nobody_described_is_shown_too(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a")
    (path / "metrics.csv").unlink()
    many = {f"bank/size/{name}": 1.0 + place for place, name in enumerate(range(30))}
    write_metrics(path, [{"step": step, "mine/own": step, **many} for step in (10, 30)])
    parsed = Page(render(path)[0])
    assert parsed.faults == []
    assert "mine/own" in parsed.texts  # a chart of its own
    assert "bank/size, at the last log line" in parsed.texts  # one table for what would be 30 charts
    assert "bank/size/0" not in parsed.text
    assert "#curves" in [link.get("href") for link in parsed.all("a")]


def test_pairs_with_other_labelled_images_are_told(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", "algorithm=fixmatch", labelled=(1, 2))
    other = make_run(tmp_path / "b", labelled=(3, 4))
    assert "Careful: some pairs have different labelled images." in render(one, other)[1]
    (other / "split.json").unlink()
    assert "is not known" in render(one, other)[1]


def test_only_broken_runs_make_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.yaml").write_text("a: [")
    text, markdown = render(tmp_path / "a", tmp_path / "b")
    assert Page(text).faults == []
    for shown in (Page(text).text, markdown):
        assert "0 finished runs of 0 settings, 0 seeds; 2 run directories in all." in shown
        assert "there is nothing of a run in it" in shown
        assert "config.yaml cannot be read" in shown


def test_unfinished_runs_alone_have_curves_that_say_so(tmp_path: Path) -> None:
    text, _ = render(make_run(tmp_path / "a", is_finished=False))
    shown = Page(text).text
    assert "layermatch (n 1, not finished)" in shown
    assert "Drawn from unfinished runs" in shown
    assert "Results" not in shown


def test_a_layer_group_looks_the_same_in_every_setting(tmp_path: Path) -> None:
    """Also where a setting has none of it: Grad-ReLU leaves the classifier no pseudo-label gradient."""
    paths = [make_run(tmp_path / "a", "algorithm=fixmatch"), make_run(tmp_path / "b")]
    (paths[0] / "metrics.csv").unlink()
    write_metrics(paths[0], [{"layers/a/cosine": 0.1, "layers/classifier/cosine": 0.0} | row for row in rows_of(0.9)])
    text = render(*paths)[0].partition('id="layers"')[2].partition("</section>")[0]
    looks = re.findall(r'<g class="k(\d)">\s*<path class="line d(\d)".*?dy=".35em">([^<]+)<', text, flags=re.DOTALL)
    assert [name for *_, name in looks].count("stem") == 2
    assert len(set(looks)) == len({name for *_, name in looks}) == 4


def test_markup_in_a_run_stays_text(evil_runs: list[Path]) -> None:
    text, markdown = render(*evil_runs)
    parsed = Page(text)
    assert parsed.faults == []
    assert not {"script", "b", "i", "u", "s", "em", "br"} & {tag for tag, _ in parsed.tags}
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert all((image["src"] or "").startswith("data:") for image in parsed.all("img"))
    shown = "".join(parsed.texts)
    for evil in (
        *EVIL,
        "<b>bold</b>",
        "<i>key</i>",
        "<s>torch</s>",
        "<em>device</em>",
        "<b>own</b>",
        "<script>alert(2)",
    ):
        assert evil.replace(" ", "") in shown.replace(" ", ""), evil
    assert "</title><script>" in shown
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    text.encode()  # no half of a surrogate pair is left
    assert "<script" not in markdown
    assert "<img" not in markdown


def test_many_settings_and_classes_are_split_and_left_out_with_a_word(tmp_path: Path) -> None:
    names = [f"class {place}" for place in range(120)]
    paths = [make_run(tmp_path / f"{n}", f"data.num_val={n}", classes=names if n < 12 else None) for n in range(10, 20)]
    text, _ = render(*paths)
    shown = Page(text).text
    assert Page(text).faults == []
    assert "Validation accuracy, EMA weights, part 2 of 2" in shown
    assert "The 10 lowest and the 10 highest of 120 classes." in shown
    assert "layermatch, num_val=19 (n 1)" in shown
    assert len(text) < 2_000_000


# -------------------------------------------------------------------------------------------------------------- colour

#: How people without red, green or blue cones see: Machado, Oliveira and Fernandes 2009, severity 1, linear RGB.
COLOUR_BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
STYLE = (files("layermatch.report") / "templates" / "style.css").read_text()


def scheme(number: int) -> dict[str, NDArray[np.float64]]:
    """The colours of light (0), dark (1) or print (2), linear RGB."""
    block = STYLE.split(":root {")[number + 1].partition("}")[0]
    found = {}
    for name, code in re.findall(r"--([\w-]+): #([0-9a-f]{6})", block):
        found[name] = decode(np.array([int(code[place : place + 2], 16) / 255 for place in (0, 2, 4)]))
    return found


def decode(coded: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light of sRGB values."""
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


def encode(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def contrast(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """WCAG 2.2."""
    light, dark = sorted((float(colour @ [0.2126, 0.7152, 0.0722]) for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* of linear sRGB, D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ np.clip(linear, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_text_and_lines_stand_out_from_the_page(number: int) -> None:
    colours = scheme(number)
    page = colours["page"]
    assert contrast(colours["ink"], page) >= 7
    for name in ("soft", "link", "warn"):
        if name in colours:
            assert contrast(colours[name], page) >= 4.5, name
    for place in range(COLOURS):
        assert contrast(colours[f"c{place}"], page) >= 4.5, place  # labels have the colour of their line
    for level in range(1, SHADES + 1):
        share = level / SHADES
        # Browsers mix the coded values, not the light.
        cell = decode(share * encode(colours["heat"]) + (1 - share) * encode(page))
        assert contrast(colours["on-heat" if level >= DARK_SHADE else "ink"], cell) >= 4.5, level


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
@pytest.mark.parametrize("number", [0, 1])
def test_colours_differ_for_the_colour_blind(kind: str, number: int) -> None:
    seen = [lab(COLOUR_BLINDNESS[kind] @ scheme(number)[f"c{place}"]) for place in range(COLOURS)]
    distances = {pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in combinations(range(COLOURS), 2)}
    # A just noticeable difference is about 2.3; neighbouring lines also differ in their dashes.
    assert min(distances.values()) >= 20, distances


def test_every_colour_and_dash_has_a_style() -> None:
    assert all(f".k{place} {{ --c: var(--c{place})" in STYLE for place in range(COLOURS))
    assert all(f".d{place} {{ stroke-dasharray:" in STYLE for place in range(1, DASHES))


# ------------------------------------------------------------------------------------------------------------- browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

#: A phone in a window, which itself cannot be made as narrow; and what reaches beyond its edge, outside of the boxes
#: that scroll by themselves.
PHONE = """<!DOCTYPE html><html><head><meta name="color-scheme" content="light dark"></head><body>
<iframe style="width: 390px; height: 800px; border: 0" srcdoc="{}"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, inner = page.defaultView.innerWidth;
  const style = page.defaultView.getComputedStyle(page.body);
  const all = [...page.querySelectorAll("body *")].filter(e => !e.closest(".scroll") && !e.closest(".skip"));
  document.documentElement.dataset.seen = JSON.stringify({{
    inner: inner, width: page.documentElement.scrollWidth, ink: style.color, page: style.backgroundColor,
    beyond: all.filter(e => e.getBoundingClientRect().right > inner + 1).map(e => e.tagName),
    boxes: [...page.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth).length}});
}};
</script></body></html>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("kind", ["usual", "evil"])
def test_in_a_browser_no_page_is_wider_than_the_phone(
    kind: str, page: str, evil_runs: list[Path], tmp_path: Path
) -> None:
    text = page if kind == "usual" else render(*evil_runs)[0]
    (tmp_path / "phone.html").write_text(PHONE.format(escape(text.replace("<details>", "<details open>"))))
    seen = {}
    for scheme_name, flags in {"light": [], "dark": ["--blink-settings=preferredColorScheme=0"]}.items():
        command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", *flags]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "phone.html").as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        measured = Page(done.stdout).all("html")[0]["data-seen"]
        assert measured is not None
        seen[scheme_name] = json.loads(measured)
    light, dark = seen["light"], seen["dark"]
    assert light["inner"] == 390
    assert light["width"] <= 390, light
    assert light["beyond"] == []
    assert light["boxes"] > 0  # wide tables scroll on their own
    assert (light["page"], dark["page"]) == ("rgb(255, 255, 255)", "rgb(13, 17, 23)")
    assert light["ink"] != dark["ink"]
