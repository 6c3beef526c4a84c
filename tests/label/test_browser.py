"""The page in a real browser, by keyboard: label, undo, a server that is killed, training, other proposals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.label.given import COLOURS, write_pictures

from layermatch.data.manifest import Row, read_manifest, write_manifest

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no chromium on the PATH", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

#: A tiny run: what is trained is not the point.
TINY = (
    "model: wrn_small", "trainer: cpu", "trainer.precision: 32-true", "data.image_size: 8", "data.storage: ram",
    "data.batch_size: 4", "data.mu: 2", "trainer.max_steps: 12", "trainer.log_every: 4", "algorithm: supervised",
)  # fmt: skip
#: Milliseconds that anything may take on a machine with much to do.
PATIENCE = 300_000


class Server:
    """``python -m layermatch.label``, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def start(self, *, root: str = "pictures", port: int = 0) -> str:
        """The address of the page."""
        words = [
            f"data.root={root}",
            f"port={port}",
            "open=false",
            "sample=20",
            "clusters=6",
            f"train={{{','.join(TINY)}}}",
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "layermatch.label", *words], cwd=self.folder, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(self.folder / "cache")},
        )  # fmt: skip
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"http://\S+", line):
                return found[0]
        raise AssertionError("the server has ended")

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def open_page() -> Iterator[Callable[[str], Any]]:
    """Opens an address in a new window; what the page complains of fails the test."""
    complaints: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def call(address: str) -> Any:
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            page.set_default_timeout(PATIENCE)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
            page.goto(address)
            page.wait_for_selector(".cell[tabindex='0'] img")
            return page

        yield call
        browser.close()
    assert complaints == []


def labels_of(folder: Path) -> dict[str, str]:
    """The labels in the file, of those that have one."""
    manifest = folder / "pictures" / "labels.csv"
    return {row.path: row.label for row in read_manifest(manifest) if row.label} if manifest.exists() else {}


def wait_for(page: Any, selector: str, pattern: str) -> None:
    """Wait until the text of an element matches."""
    page.wait_for_function(
        "([selector, pattern]) => RegExp(pattern).test(document.querySelector(selector).textContent)",
        arg=[selector, pattern],
    )


def wait_for_labels(page: Any, count: int) -> None:
    wait_for(page, "#totals", f"^{count} labelled")


def focused(page: Any) -> str:
    """What a screen reader says of the picture that has the focus."""
    page.wait_for_function("() => (document.activeElement.getAttribute('aria-label') || 'loading') !== 'loading'")
    label: str = page.evaluate("document.activeElement.getAttribute('aria-label')")
    return label


def proposed(page: Any) -> list[str]:
    """The files of the first proposals."""
    page.wait_for_function("() => [...document.querySelectorAll('.cell')].every(each => each.title)")
    titles: list[str] = page.eval_on_selector_all(".cell", "cells => cells.slice(0, 12).map(each => each.title)")
    return titles


def test_thirty_labels_by_keyboard_undo_and_a_server_that_is_killed(
    server: Server, open_page: Callable[[str], Any], tmp_path: Path
) -> None:
    truth = write_pictures(tmp_path / "pictures", per_class=30)
    keys = {name: str(number) for number, name in enumerate(COLOURS, start=1)}
    page = open_page(server.start())
    assert "token" not in page.url
    for name in COLOURS:
        page.fill("#class-name", name)
        page.press("#class-name", "Enter")
        page.wait_for_selector(f"#classes button:has-text('{name}')")
    wait_for(page, "#model", r"\. 90 of 90 looked at")
    page.click("#more")
    page.wait_for_function("() => document.activeElement.classList.contains('cell')")

    # Each picture gets the class that it has, by its key; every answer is on the disk before the next is looked at.
    said: dict[str, str] = {}
    for count in range(1, 31):
        path = focused(page).split(", ")[0]
        said[path] = truth[path]
        page.keyboard.press(keys[truth[path]])
        wait_for_labels(page, count)
        assert labels_of(tmp_path) == said
    assert page.inner_text("#status") == f"{said[path]}: {path}. 30 labelled."

    # Undo, any number of times, and skip; of no class.
    last = list(said)[-3:]
    for count, path in zip((29, 28, 27), reversed(last), strict=True):
        page.keyboard.press("u")
        wait_for_labels(page, count)
        assert focused(page) == f"{path}, no label"
        del said[path]
    assert labels_of(tmp_path) == said
    page.keyboard.press("s")
    wait_for(page, "#status", f"^Skipped: {last[0]}")
    assert focused(page).split(", ")[0] != last[0]
    page.keyboard.press("x")
    wait_for(page, "#totals", " 1 of no class")
    page.keyboard.press("u")
    wait_for(page, "#totals", " 0 of no class")
    page.keyboard.press("u")
    wait_for(page, "#status", "^Skip taken back")

    # The server is killed: the page says so, nothing is lost, and it goes on.
    server.kill()
    page.keyboard.press("1")
    page.wait_for_selector("#alert:has-text('The server does not answer.')")
    assert labels_of(tmp_path) == said
    page = open_page(server.start())
    wait_for_labels(page, 27)
    names = page.eval_on_selector_all("#classes span:not(.count)", "all => all.map(each => each.textContent)")
    assert names == [*COLOURS]


def test_training_changes_what_is_proposed(server: Server, open_page: Callable[[str], Any], tmp_path: Path) -> None:
    truth = write_pictures(tmp_path / "pictures", per_class=30)
    said = dict(list(truth.items())[:27])
    write_manifest(tmp_path / "pictures" / "labels.csv", [Row(path, said.get(path, "")) for path in truth])
    page = open_page(server.start())
    wait_for(page, "#model", "90 of 90 looked at")
    page.click("#more")
    before = proposed(page)
    assert "as there is no model yet" in page.inner_text("#said-view")
    page.click("#train-button")
    page.wait_for_selector("#stop:visible")
    page.wait_for_selector("#train-said:has-text('Finished: 12 steps.')", timeout=3 * PATIENCE)
    wait_for(page, "#model", r"from \S+\.ckpt\. 90 of 90 looked at")
    page.select_option("#order", "uncertain")
    page.wait_for_selector("#said-view:has-text('by the model')")
    assert proposed(page) != before
    page.wait_for_selector(".cell[tabindex='0'][aria-label*='the model says']")

    # What the model thinks of the rest is confirmed at once, and taken back at once.
    page.click("nav button[data-view=guesses]")
    page.eval_on_selector("#least", "slider => { slider.value = 0; slider.dispatchEvent(new Event('change')); }")
    counts = {}
    for name in COLOURS:
        page.select_option("#guess-class", name)
        page.wait_for_load_state("networkidle")
        found = re.search(r"Confirm all (\d+) as", page.inner_text("#confirm") if page.is_visible("#confirm") else "")
        counts[name] = int(found[1]) if found else 0
    assert sum(counts.values()) == 63
    name = max(counts, key=lambda each: counts[each])
    page.select_option("#guess-class", name)
    page.wait_for_selector(f"#confirm:has-text('Confirm all {counts[name]} as {name}')")
    page.click("#confirm")
    wait_for_labels(page, 27 + counts[name])
    assert len(labels_of(tmp_path)) == 27 + counts[name]
    page.click("[data-do=undo]")
    wait_for_labels(page, 27)
    assert labels_of(tmp_path) == said
    assert sorted(path.name for path in (tmp_path / "pictures").glob("*.png")) == sorted(truth)

    # Beside a label that is doubted stands what the model says.
    page.click("nav button[data-view=doubts]")
    page.eval_on_selector("#below", "slider => { slider.value = 1; slider.dispatchEvent(new Event('change')); }")
    page.wait_for_selector(".cell .against")
    tags = page.eval_on_selector_all(
        ".cell", "all => all.map(e => [e.title, ...[...e.querySelector('.tag').childNodes].map(n => n.textContent)])"
    )
    for path, label, against in tags:
        assert label == said[path]
        assert re.fullmatch(r"(red|green|blue) \d+ %\?", against)


def test_the_page_is_one_for_keyboard_and_reader(
    server: Server, open_page: Callable[[str], Any], tmp_path: Path
) -> None:
    write_pictures(tmp_path / "pictures", per_class=400)
    evil = "<img src=x onerror=alert(1)>"
    (tmp_path / "pictures" / "labels.csv").write_text(f"path,label,split\nIMG_001.png,{evil},train\n")
    page = open_page(server.start())
    page.click("nav button[data-view=all]")
    page.wait_for_function("() => document.querySelector('#said-view').textContent.startsWith('1,200')")
    # Of 1,200 pictures only those that can be seen are there.
    assert page.eval_on_selector_all(".cell", "cells => cells.length") < 100
    page.focus(".cell[tabindex='0']")
    page.keyboard.press("End")
    page.wait_for_function("() => document.activeElement.getAttribute('aria-posinset') === '1200'")
    assert page.evaluate("document.activeElement.getAttribute('aria-setsize')") == "1200"
    assert focused(page) == "IMG_999.png, no label"
    assert page.eval_on_selector_all(".cell", "cells => cells.length") < 100
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.activeElement.getAttribute('aria-posinset') === '2'")
    assert focused(page) == f"IMG_001.png, label {evil}"  # as text
    assert page.eval_on_selector_all("img[src=x]", "found => found.length") == 0
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert page.eval_on_selector_all("[role=option][aria-selected=true]", "found => found.length") == 3
    page.keyboard.press("Escape")
    assert page.eval_on_selector_all("[role=option][aria-selected=true]", "found => found.length") == 0
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog#large[open] img")
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.activeElement.classList.contains('cell')")
    # Every control has a name, and the focus can be seen on each of them.
    assert page.evaluate(NAMELESS) == []
    places = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        place = page.evaluate("(e => e.id || e.dataset.view || e.dataset.do || e.textContent)(document.activeElement)")
        width = page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
        assert width >= 3 or place in {"", None} or page.evaluate("document.activeElement === document.body")
        places.add(place)
    assert {
        "next",
        "guesses",
        "doubts",
        "show",
        "class-name",
        "none",
        "skip",
        "undo",
        "steps",
        "train-button",
    } <= places
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(CONTRAST) == []


def test_a_slow_server_is_asked_for_proposals_once(server: Server, tmp_path: Path) -> None:
    """Asked again while it looks for them, the page would throw away each answer, and never show one."""
    write_pictures(tmp_path / "pictures", per_class=4)
    address = server.start()
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:  # before the first pictures were looked at
            route.fulfill(json={"ids": [], "said": "the first pictures are being looked at"})
        else:
            time.sleep(8)  # longer than between two questions for the state
            route.continue_()

    def state(route: Any) -> None:
        said = route.fetch().json()
        if not asked:  # the server may be ready before the browser is
            said["proposals"] |= {"version": -1, "is_ready": False}
        route.fulfill(json=said)

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.route("**/api/state", state)
        page.route("**/api/view*", answer)
        page.goto(address)
        page.wait_for_selector(".cell[tabindex='0'] img")
        browser.close()
    assert len(asked) == 2


def test_undo_takes_back_the_last_key_also_before_the_server_has_replied(
    server: Server, open_page: Callable[[str], Any], tmp_path: Path
) -> None:
    write_pictures(tmp_path / "pictures", per_class=4)
    page = open_page(server.start())
    page.fill("#class-name", "red")
    page.press("#class-name", "Enter")
    page.wait_for_selector("#classes button:has-text('red')")
    page.focus(".cell[tabindex='0']")
    skipped = focused(page).split(", ")[0]
    held: list[Any] = []
    page.route("**/api/label", lambda route: held.append(route))  # noqa: PLW0108 -- playwright marks it
    page.keyboard.press("s")
    labelled = focused(page).split(", ")[0]
    for key in ("1", "u"):
        page.keyboard.press(key)
    page.wait_for_timeout(500)
    assert page.inner_text("#status") == f"Skipped: {skipped}"
    held.pop().continue_()
    wait_for(page, "#status", f"^Taken back: {labelled}: red$")
    assert labels_of(tmp_path) == {}
    page.keyboard.press("u")
    wait_for(page, "#status", "^Skip taken back")

    # A skip after an answer that has no reply yet is taken back first.
    page.keyboard.press("1")
    page.keyboard.press("s")
    page.keyboard.press("u")
    held.pop().continue_()
    wait_for(page, "#status", "^Skip taken back")
    wait_for_labels(page, 1)
    page.unroute_all()
    page.keyboard.press("u")
    wait_for_labels(page, 0)

    # What is said of the pictures is still being asked: the key waits for it.
    page.route("**/api/items*", lambda route: held.append(route))  # noqa: PLW0108
    page.reload()
    page.wait_for_selector(".cell[tabindex='0'] img")
    page.focus(".cell[tabindex='0']")
    assert page.get_attribute(".cell[tabindex='0']", "aria-label") == "loading"
    page.keyboard.press("1")
    page.wait_for_timeout(500)
    assert labels_of(tmp_path) == {}
    for route in held:
        route.continue_()
    wait_for_labels(page, 1)
    assert list(labels_of(tmp_path).values()) == ["red"]


#: The colour of the picture in the cell of IMG_000.png, as it is drawn.
COLOUR = """async () => {
  const picture = document.querySelector(".cell[title='IMG_000.png'] img");
  await picture.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  canvas.getContext("2d").drawImage(picture, 0, 0, 1, 1);
  const [r, g, b] = canvas.getContext("2d").getImageData(0, 0, 1, 1).data;
  return r > b ? "red" : "blue";
}"""


def test_another_folder_on_the_same_port_shows_its_own_pictures(
    server: Server, open_page: Callable[[str], Any], tmp_path: Path
) -> None:
    """The browser keeps pictures by their address."""
    for folder in ("pictures", "others"):
        write_pictures(tmp_path / folder)
    shutil.copy(tmp_path / "others" / "IMG_002.png", tmp_path / "others" / "IMG_000.png")
    address = server.start()
    page = open_page(address)
    page.wait_for_selector(".cell[title='IMG_000.png'] img")
    assert page.evaluate(COLOUR) == "red"
    server.kill()
    page.goto(server.start(root="others", port=int(re.findall(r":(\d+)/", address)[0])))
    page.wait_for_selector(".cell[title='IMG_000.png'] img")
    assert page.evaluate(COLOUR) == "blue"


def test_a_window_that_another_one_opened_takes_back_its_own_answers(
    server: Server, open_page: Callable[[str], Any], tmp_path: Path
) -> None:
    write_pictures(tmp_path / "pictures")
    (tmp_path / "pictures" / "labels.csv").write_text("path,label,split\nIMG_000.png,red,train\n")
    page = open_page(server.start())
    page.focus(".cell[tabindex='0']")
    page.keyboard.press("1")
    wait_for_labels(page, 2)
    with page.expect_popup() as opened:  # it begins with a copy of what the session of the first one holds
        page.evaluate("() => { window.open('/'); }")
    other = opened.value
    other.wait_for_selector(".cell[tabindex='0'] img")
    other.focus(".cell[tabindex='0']")
    other.keyboard.press("u")
    wait_for(other, "#status", "^Nothing is left to take back")
    other.keyboard.press("1")  # it has the token all the same
    wait_for_labels(other, 3)
    page.reload()
    page.wait_for_selector(".cell[tabindex='0'] img")
    page.focus(".cell[tabindex='0']")
    page.keyboard.press("u")
    wait_for_labels(page, 2)
    page.keyboard.press("u")
    wait_for(page, "#status", "^Nothing is left to take back")


def test_a_key_that_is_held_moves_on_and_answers_once(
    server: Server, open_page: Callable[[str], Any], tmp_path: Path
) -> None:
    write_pictures(tmp_path / "pictures")
    (tmp_path / "pictures" / "labels.csv").write_text("path,label,split\nIMG_000.png,red,train\n")
    page = open_page(server.start())
    page.focus(".cell[tabindex='0']")
    for key, selector, said in (
        ("1", "#totals", "^2 labelled"),
        ("x", "#totals", " 1 of no class"),
        ("s", "#status", "^Skipped"),
    ):
        for _ in range(4):
            page.keyboard.down(key)
        page.keyboard.up(key)
        wait_for(page, selector, said)
    page.click("nav button[data-view=skipped]")
    wait_for(page, "#said-view", "^1: ")
    page.click("nav button[data-view=all]")
    wait_for(page, "#said-view", "^12: ")
    page.wait_for_timeout(500)
    assert re.search(r"^2 labelled, 1 of no class", page.inner_text("#totals"))
    page.focus(".cell[tabindex='0']")
    for _ in range(4):
        page.keyboard.down("ArrowRight")
    page.keyboard.up("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-posinset')") == "5"


def test_pictures_of_one_class_are_not_confirmed_as_another_of_a_new_model(
    server: Server, open_page: Callable[[str], Any], tmp_path: Path
) -> None:
    """The models are made up: what the page is told of them is what counts."""
    write_pictures(tmp_path / "pictures")
    rows = [Row("IMG_009.png", "red"), Row("IMG_010.png", "green"), Row("IMG_011.png", "blue")]
    write_manifest(tmp_path / "pictures" / "labels.csv", rows)
    page = open_page(server.start())
    classes, held = ["red", "green"], []
    are_let_go = False

    def tell(route: Any) -> None:
        state = route.fetch().json()
        state["proposals"] |= {"classes": classes, "version": 90 + len(classes)}
        route.fulfill(json=state)

    def guess(route: Any) -> None:
        if "class=red" in route.request.url:
            route.fulfill(json={"ids": [0, 3], "said": "red"})
        else:
            held.append(route)
        if are_let_go:
            let_go()

    def let_go() -> None:
        while held:
            held.pop().fulfill(json={"ids": [1], "said": "blue"})

    page.route("**/api/state", tell)
    page.route("**/api/view?kind=guesses*", guess)
    page.wait_for_selector("#guess-class option[value=red]", state="attached")
    page.click("nav button[data-view=guesses]")
    page.wait_for_selector("#confirm:has-text('Confirm all 2 as red')")
    classes[:] = ["blue", "green", "grey"]
    page.wait_for_selector("#guess-class option[value=blue]", state="attached")
    while not held:
        page.wait_for_timeout(50)
    assert page.inner_text("#confirm") == "Confirm all 2 as red"
    page.click("#confirm")
    wait_for_labels(page, 5)
    assert labels_of(tmp_path) == {row.path: row.label for row in rows} | {"IMG_000.png": "red", "IMG_003.png": "red"}
    are_let_go = True
    let_go()
    page.wait_for_selector("#confirm:has-text('Confirm all 1 as blue')")


#: The texts whose contrast is below 4.5 (WCAG 2.2, success criterion 1.4.3), with their contrast.
CONTRAST = """() => {
  const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const colour = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = each => {
    for (; each; each = each.parentElement) {
      const found = colour(getComputedStyle(each).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const each of document.querySelectorAll('body *')) {
    const says = [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!says || !each.offsetParent || each.disabled || each.tagName === 'OPTION') continue;
    const [a, b] = [light(colour(getComputedStyle(each).color)), light(ground(each))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.push([each.outerHTML.slice(0, 80), contrast]);
  }
  return found;
}"""

#: The controls that can be seen and have no name.
NAMELESS = """() => {
  const kinds = 'button, input, select, progress, [role=option], [role=listbox]';
  const isNamed = each => each.textContent.trim() || (each.labels && each.labels.length)
    || each.getAttribute('aria-label') || each.getAttribute('aria-labelledby');
  return [...document.querySelectorAll(kinds)].filter(each => each.offsetParent && !isNamed(each))
    .map(each => each.outerHTML);
}"""
