// The page of `python -m layermatch.label`. Text of pictures and classes is only ever put in as textContent.
"use strict";

const $ = (id) => document.getElementById(id);
const GAP = 10; // pixels between two cells
const ROWS_BEYOND = 2; // rows that are there though they cannot be seen
const MOST_ITEMS = 200; // pictures of one request
const MOST_ANSWERED = 2000; // pictures of one answer; a confirmation is for any number
const MOST_KNOWN = 4000; // pictures of which is known what is said of them

// The address had the token: it is kept for this server's pages alone, and nobody should see it over a shoulder. A cookie
// would go to every server of this machine, and the one that there is lets read only.
const given = new URLSearchParams(location.search).get("token");
if (given) localStorage.setItem("token", given);
const token = localStorage.getItem("token") || "";
if (location.search) history.replaceState(null, "", location.pathname);

// Undo is for this window: a name that outlives a reload. A window that another one opened begins with a copy of its names.
const isReload = performance.getEntriesByType("navigation")[0]?.type === "reload";
const windowName = (isReload && sessionStorage.getItem("window")) || crypto.randomUUID();
sessionStorage.setItem("window", windowName);

let server = null; // the newest state
let view = "next";
let ids = []; // the pictures of the view, in order
let current = 0; // place of the picture that has the focus, among ids
let anchor = 0; // where a selection with Shift began
let columns = 1;
let cell = 136;
let guessed = ""; // the class that the model takes these pictures for
let version = -1; // of the proposals that are shown
let hasBegun = false; // whether a view was loaded
let asking = 0; // number of the newest request for a view
let answered = 0; // number of the newest one that is answered
let queue = Promise.resolve(); // answers go out one after another
const selected = new Set(); // numbers of pictures
const items = new Map(); // number -> what is said of the picture
const waiting = new Map(); // number -> the request that asked for it
const cells = new Map(); // place -> element
const steps = []; // what was done, in the order of the keys, for undo: { skipped: numbers }, or { isTaken } of an answer
const skipped = new Set();

// ------------------------------------------------------------------------------------------------------------ server

async function ask(path, body) {
  const options = {};
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "content-type": "application/json", "x-layermatch-token": token };
    options.body = JSON.stringify({ ...body, session: server.session, window: windowName });
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. What it has answered is on the disk: start it again, and open its new address.");
  }
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = { error: text };
  }
  if (response.status === 410) location.reload();
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

function say(text) {
  $("status").textContent = text;
}

function warn(text) {
  const isNew = $("alert").textContent !== text;
  if (isNew) $("alert").textContent = text;
  $("alert").hidden = !text;
}

// -------------------------------------------------------------------------------------------------------------- state

const number = (value) => value.toLocaleString("en");
const percent = (value) => `${Math.floor(value * 100)} %`;

function take(state, { isOwn = false } = {}) {
  const before = server;
  server = state;
  if (before && before.session !== state.session) location.reload();
  warn(state.notice);
  $("root").textContent = state.root;
  document.title = `Label ${state.root}`;
  const left = Object.entries(state.left_out).map(([why, count]) => `${number(count)} not shown: ${why}`);
  $("totals").textContent = `${number(state.labelled)} labelled, ${number(state.ignored)} of no class, ${number(state.pictures)} in all`;
  $("totals").title = left.join("\n");
  showClasses(state.classes, before && before.classes);
  showTraining(state.training, before && before.training);
  showProposals(state.proposals);
  const own = isOwn ? 1 : 0; // one change is this window's, and its pictures are known
  const isOther = before && before.proposals.version !== state.proposals.version; // the model says something else
  if (before && (isOther || before.revision + own < state.revision)) renew();
}

async function poll() {
  let pause = 5000;
  try {
    take(await ask("/api/state"));
    if (server.proposals.is_working || server.training.kind === "running") pause = 1500;
    if (document.hidden) pause = 15000;
  } catch (error) {
    warn(error.message);
  }
  setTimeout(poll, pause);
}

const hueOf = (name) => {
  const place = server.classes.findIndex((each) => each.name === name);
  return place < 0 ? "" : `h${place % 6}`;
};

function showClasses(classes, before) {
  const same = before && before.length === classes.length && before.every((each, place) => each.name === classes[place].name);
  if (same) {
    classes.forEach((each, place) => { $("classes").children[place].lastChild.textContent = number(each.count); });
    return;
  }
  $("classes").replaceChildren(...classes.map((each, place) => {
    const button = element("button", { type: "button", className: `h${place % 6}` });
    if (each.key) {
      button.append(element("kbd", { textContent: each.key }));
      button.setAttribute("aria-keyshortcuts", each.key);
    }
    button.append(element("span", { textContent: each.name }), element("span", { className: "count", textContent: number(each.count) }));
    button.addEventListener("click", (event) => { answer(each.name, false); back(event); });
    return button;
  }));
  $("classes-title").textContent = classes.length ? "This is a …" : "Add two classes to begin";
  const isOther = fill($("show"), [["all", "all"], ["unlabelled", "without a label"], ["labelled", "with a label"], ["ignored", "of no class"], ...classes.map((each) => [`class:${each.name}`, `label ${each.name}`])]);
  if (isOther && hasBegun && view === "all") load();
}

function showProposals(proposals) {
  const model = proposals.model;
  const parts = [model ? `Proposals are from ${model}.` : "No model yet: proposals are from simple features (small pixels)."];
  if (proposals.problem) parts.push(`Looking at the pictures failed: ${proposals.problem}`);
  else if (proposals.is_working) parts.push(`${number(proposals.looked)} of ${number(server.pictures)} looked at${proposals.next_model !== model ? ` with ${proposals.next_model}` : ""}.`);
  else parts.push(`${number(proposals.known)} of ${number(server.pictures)} looked at.`);
  $("model").textContent = parts.join(" ");
  const uncertain = $("order").querySelector('[value="uncertain"]');
  uncertain.disabled = !proposals.classes.length;
  uncertain.textContent = proposals.classes.length ? "most uncertain" : "most uncertain (needs a model)";
  const isOther = fill($("guess-class"), proposals.classes.map((name) => [name, name]));
  const isNew = proposals.version !== version && proposals.is_ready;
  $("more").classList.toggle("news", isNew && ids.length > 0);
  if (isOther && hasBegun && view === "guesses") load(); // the pictures are of a class that this model does not know
  else if (isNew && hasBegun && !ids.length && view !== "all" && answered === asking) load(); // one at a time: it may take long
  else if (isNew && hasBegun && $("more").dataset.said !== String(proposals.version)) {
    $("more").dataset.said = String(proposals.version);
    say(`New proposals are ready: ${number(proposals.known)} pictures looked at.`);
  }
}

function showTraining(training, before) {
  const runs = training.kind === "running";
  $("train-button").hidden = runs;
  $("stop").hidden = $("train-progress").hidden = !runs;
  $("stop").disabled = training.is_stopping;
  if (runs && training.max_steps) {
    $("train-progress").max = training.max_steps;
    $("train-progress").value = training.step;
  } else {
    $("train-progress").removeAttribute("value");
  }
  const shown = Object.entries(training.shown || {}).map(([name, value]) => `${name} ${value}`);
  const step = training.max_steps ? `step ${number(training.step)} of ${number(training.max_steps)}` : "starting";
  const said = {
    none: "", running: [training.is_stopping ? "stopping" : step, ...shown].join(", "),
    finished: `Finished: ${number(training.step || 0)} steps.`, stopped: `Stopped at step ${number(training.step || 0)}.`,
    failed: `Failed: ${training.said}`,
  }[training.kind];
  $("train-said").textContent = training.left_out ? `${said} (${training.left_out})` : said;
  if (before && before.kind === "running" && !runs) say(`Training: ${said}`);
}

// --------------------------------------------------------------------------------------------------------------- view

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}

// Gives a choice its options; true where what was chosen is none of them any more.
function fill(select, options) {
  const wanted = JSON.stringify(options);
  if (select.dataset.options === wanted) return false;
  const value = select.value;
  select.dataset.options = wanted;
  select.replaceChildren(...options.map(([key, text]) => element("option", { value: key, textContent: text })));
  if (options.some(([key]) => key === value)) select.value = value;
  return select.value !== value;
}

function asked() {
  const words = new URLSearchParams({ kind: view });
  if (view === "next") words.set("order", $("order").value);
  if (view === "guesses") {
    words.set("class", $("guess-class").value);
    words.set("least", $("least").value);
  }
  if (view === "doubts") words.set("below", $("below").value);
  if (view === "all") {
    const [show, ...name] = $("show").value.split(":");
    words.set("show", show || "all");
    words.set("class", name.join(":"));
  }
  return words;
}

async function load({ focus = false } = {}) {
  const mine = ++asking;
  const known = server.proposals.version; // it may be another one when the answer comes
  const name = $("guess-class").value; // as well
  for (const button of document.querySelectorAll("nav button")) button.setAttribute("aria-pressed", String(button.dataset.view === view));
  for (const part of document.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== view;
  let found;
  try {
    found = view === "skipped" ? { ids: [...skipped], said: "skipped in this window" } : await ask(`/api/view?${asked()}`);
  } catch (error) {
    warn(error.message);
    return;
  } finally {
    answered = Math.max(answered, mine);
  }
  if (mine !== asking) return; // another one was asked for since
  version = known;
  guessed = name;
  hasBegun = true;
  ids = view === "next" ? found.ids.filter((id) => !skipped.has(id)) : found.ids;
  selected.clear();
  current = anchor = 0;
  for (const each of cells.values()) each.remove();
  cells.clear();
  $("more").classList.remove("news");
  $("said-view").textContent = ids.length ? `${number(ids.length)}: ${found.said}` : "";
  $("empty").textContent = { next: `Nothing to propose: ${found.said}.`, guesses: `No picture: ${found.said}.`, doubts: `No label is doubted: ${found.said}.`, all: "No such picture.", skipped: "Nothing is skipped." }[view];
  $("empty").hidden = ids.length > 0;
  $("grid").hidden = !ids.length;
  $("grid").scrollTop = 0;
  confirmText();
  measure();
  if (focus && ids.length) go(0);
}

function confirmText() {
  $("confirm").hidden = view !== "guesses" || !ids.length;
  const count = selected.size || ids.length;
  $("confirm").textContent = `Confirm ${selected.size ? "the" : "all"} ${number(count)} as ${guessed}`;
}

// --------------------------------------------------------------------------------------------------------------- grid

function measure() {
  const width = $("space").clientWidth;
  const wish = Math.min(Number($("size").value), 256);
  columns = Math.max(width < 480 ? 3 : 1, Math.floor((width + GAP) / (wish + GAP)));
  cell = Math.max(1, Math.floor((width - GAP * (columns - 1)) / columns)); // no gap is left at the side
  document.documentElement.style.setProperty("--cell", `${cell}px`);
  $("space").style.height = `${Math.ceil(ids.length / columns) * (cell + GAP)}px`;
  for (const [place, each] of cells) position(each, place);
  if ($("grid").contains(document.activeElement)) reveal();
  draw();
}

function position(each, place) {
  each.style.transform = `translate(${(place % columns) * (cell + GAP)}px, ${Math.floor(place / columns) * (cell + GAP)}px)`;
}

// Only the cells that can be seen are there, and the one that has the focus.
function draw() {
  const grid = $("grid");
  const row = cell + GAP;
  const first = Math.max(0, Math.floor(grid.scrollTop / row) - ROWS_BEYOND) * columns;
  const last = Math.min(ids.length, (Math.ceil((grid.scrollTop + grid.clientHeight) / row) + ROWS_BEYOND) * columns);
  for (const [place, each] of cells) {
    if ((place < first || place >= last) && place !== current) {
      each.remove();
      cells.delete(place);
    }
  }
  for (let place = first; place < last; place += 1) if (!cells.has(place)) make(place);
  if (ids.length && !cells.has(current)) make(current);
  fetchItems([...cells.keys()].map((place) => ids[place]));
}

function make(place) {
  const each = element("div", { className: "cell", id: `place-${place}`, tabIndex: place === current ? 0 : -1 });
  each.setAttribute("role", "option");
  each.setAttribute("aria-posinset", String(place + 1));
  each.setAttribute("aria-setsize", String(ids.length));
  const picture = element("img", { alt: "", decoding: "async", draggable: false });
  picture.addEventListener("error", () => { each.classList.add("broken"); paint(place); });
  // The browser keeps pictures by their addresses, and a number is of one session.
  picture.src = `/picture/${ids[place]}?session=${server.session}`;
  each.append(picture, element("span", { className: "tag", ariaHidden: "true" }));
  each.addEventListener("click", (event) => choose(place, event));
  each.addEventListener("dblclick", look);
  position(each, place);
  // In the order of the view, for readers that follow the document.
  const after = [...cells.keys()].filter((other) => other > place).sort((a, b) => a - b)[0];
  $("space").insertBefore(each, after === undefined ? null : cells.get(after));
  cells.set(place, each);
  paint(place);
}

const isDone = (item) => Boolean(item && (item.label || item.split === "ignored"));

function words(item) {
  if (item.split === "ignored") return "no class";
  return item.label || "";
}

function paint(place) {
  const each = cells.get(place);
  if (!each) return;
  const id = ids[place];
  const item = items.get(id);
  const isBroken = each.classList.contains("broken");
  each.setAttribute("aria-selected", String(selected.has(id)));
  each.tabIndex = place === current ? 0 : -1;
  const tag = each.lastChild;
  if (!item) {
    tag.textContent = "";
    each.setAttribute("aria-label", "loading");
    return;
  }
  const guess = item.guess === undefined ? "" : `${item.guess} ${percent(item.confidence)}`;
  const given = words(item);
  const part = item.split === "val" || item.split === "test" ? ` (${item.split})` : "";
  tag.textContent = isBroken && !given ? "cannot be read" : given ? given + part : skipped.has(id) ? "skipped" : guess && `${guess}?${part}`;
  if (view === "doubts" && given && guess) tag.append(element("span", { className: "against", textContent: `${guess}?` }));
  each.className = ["cell", isDone(item) ? "done" : "", item.pending ? "pending" : "", isBroken ? "broken" : "", hueOf(item.label || (isDone(item) ? "" : item.guess))].filter(Boolean).join(" ");
  tag.className = given ? "tag" : "tag guess";
  const said = [item.path, given ? `label ${given}` : "no label", guess && `the model says ${guess}`, part && `for ${item.split}`, skipped.has(id) && "skipped", isBroken && "cannot be read"];
  each.setAttribute("aria-label", said.filter(Boolean).join(", "));
  each.title = item.path;
}

function repaint() {
  for (const place of cells.keys()) paint(place);
  confirmText();
  if ($("large").open) showLarge();
}

async function fetchItems(wanted, { again = false } = {}) {
  const missing = wanted.filter((id) => (again || !items.has(id)) && !waiting.has(id));
  const others = new Set(wanted.map((id) => waiting.get(id)).filter(Boolean)); // somebody else has asked for these
  for (let begin = 0; begin < missing.length; begin += MOST_ITEMS) {
    const part = missing.slice(begin, begin + MOST_ITEMS);
    const request = fetchPart(part);
    part.forEach((id) => waiting.set(id, request));
    await request;
  }
  await Promise.all(others);
  if (missing.length) repaint();
}

async function fetchPart(part) {
  try {
    keep((await ask(`/api/items?ids=${part.join(",")}`)).items);
  } catch (error) {
    warn(error.message);
  } finally {
    part.forEach((id) => waiting.delete(id));
  }
}

function keep(found) {
  for (const item of found) if (!(items.get(item.id) || {}).pending) items.set(item.id, item);
  if (items.size > MOST_KNOWN) {
    const needed = new Set([...cells.keys()].map((place) => ids[place]));
    for (const id of items.keys()) if (!needed.has(id) && !items.get(id).pending) items.delete(id);
  }
}

// Another window, or somebody in the file, has changed something.
function renew() {
  const seen = new Set([...cells.keys()].map((place) => ids[place]));
  for (const id of items.keys()) if (!seen.has(id) && !items.get(id).pending) items.delete(id);
  fetchItems([...seen], { again: true });
}

// -------------------------------------------------------------------------------------------------- moving, selecting

function go(place, { extend = false } = {}) {
  if (!ids.length) return;
  const before = current;
  current = Math.max(0, Math.min(ids.length - 1, place));
  if (extend) {
    selected.clear();
    for (let each = Math.min(anchor, current); each <= Math.max(anchor, current); each += 1) selected.add(ids[each]);
  } else {
    anchor = current;
  }
  reveal();
  draw();
  paint(before);
  repaint();
  if (!$("large").open) cells.get(current).focus({ preventScroll: true });
}

function reveal() {
  const top = Math.floor(current / columns) * (cell + GAP);
  const grid = $("grid");
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top + cell + 3 * GAP > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + cell + 3 * GAP - grid.clientHeight;
}

function choose(place, event) {
  if (event.shiftKey) {
    go(place, { extend: true });
  } else if (event.ctrlKey || event.metaKey || $("several").getAttribute("aria-pressed") === "true") {
    toggle(place);
    go(place);
  } else {
    selected.clear();
    go(place);
  }
}

function toggle(place) {
  const id = ids[place];
  if (!selected.delete(id)) selected.add(id);
  repaint();
}

function selectAll() {
  ids.forEach((id) => selected.add(id));
  repaint();
  say(`${number(selected.size)} pictures are selected.`);
}

function selectNone() {
  selected.clear();
  repaint();
}

// The next picture that has no answer yet; where all have one, the one after this.
function advance() {
  if (view === "all" || view === "doubts") return go(current + 1);
  const isOpen = (place) => !isDone(items.get(ids[place])) && (view === "skipped" || !skipped.has(ids[place]));
  for (let step = 1; step <= ids.length; step += 1) {
    const place = (current + step) % ids.length;
    if (isOpen(place)) return go(place);
  }
  if (view === "next") queue = queue.then(() => load({ focus: !$("large").open }));
  return undefined;
}

// A click on an answer gives the focus back to the pictures; the keyboard stays where it is.
function back(event) {
  if (event.detail > 0 && cells.has(current) && !$("large").open) cells.get(current).focus({ preventScroll: true });
}

const chosen = () => (selected.size ? [...selected] : ids.length ? [ids[current]] : []);

// ---------------------------------------------------------------------------------------------------------- answering

async function answer(label, ignored) {
  const meant = chosen();
  if (!meant.length) return;
  if (meant.length > MOST_ANSWERED) {
    say(`Not taken: at most ${number(MOST_ANSWERED)} pictures at a time.`);
    return;
  }
  const step = { isTaken: false };
  steps.push(step);
  selected.clear();
  const mark = () => {
    const old = meant.map((id) => items.get(id));
    if (old.some((item) => item === undefined)) return null;
    meant.forEach((id, place) => items.set(id, { ...old[place], label, split: ignored ? "ignored" : old[place].split === "ignored" ? "train" : old[place].split, pending: true }));
    return old;
  };
  const shown = mark(); // null where it is still being asked what is said of them
  queue = queue.then(async () => {
    let old = shown;
    if (old === null) {
      await fetchItems(meant);
      old = mark();
    }
    const which = meant.length === 1 ? (old ? old[0].path : "1 picture") : `${number(meant.length)} pictures`;
    try {
      if (old === null) throw new Error("What is said of the picture could not be asked: answer once more.");
      const done = await ask("/api/label", { ids: meant, label, ignored, seen: old.map((item) => [item.label, item.split]) });
      step.isTaken = true;
      meant.forEach((id) => items.delete(id));
      keep(done.items);
      meant.forEach((id) => skipped.delete(id));
      take(done.state, { isOwn: true });
      const others = done.left.map((id) => items.get(id)).filter(Boolean).map((item) => `${item.path} is ${words(item) || "without a label"}`);
      const what = ignored ? "no class" : label || "label removed";
      const parts = new Set(meant.filter((id, place) => !ignored && old[place].split === "ignored").map((id) => (items.get(id) || {}).split));
      const again = parts.size ? ` Put aside no more: for ${[...parts].filter(Boolean).join(" and ")}.` : "";
      say(others.length ? `Changed elsewhere, so left as it is: ${others.slice(0, 3).join("; ")}` : `${what}: ${which}. ${number(server.labelled)} labelled.${again}`);
    } catch (error) {
      if (old) meant.forEach((id, place) => items.set(id, old[place]));
      forget(step);
      warn(error.message);
      say(`Not taken: ${which}`);
    }
    await fetchItems([...cells.keys()].map((place) => ids[place]));
    repaint();
  });
  if (label || ignored) advance();
  repaint();
  await queue;
}

// All of the view, or what is selected of it; the server leaves out what has an answer by now.
async function confirmAll() {
  const label = guessed;
  const meant = selected.size ? [...selected] : ids;
  const step = { isTaken: false };
  steps.push(step);
  queue = queue.then(async () => {
    try {
      const before = server.labelled;
      const done = await ask("/api/label", { ids: meant, label, ignored: false, seen: null });
      step.isTaken = true;
      meant.forEach((id) => items.delete(id));
      take(done.state, { isOwn: true });
      await load({ focus: true });
      say(`${number(server.labelled - before)} pictures are confirmed as ${label}. u takes it back.`);
    } catch (error) {
      forget(step);
      warn(error.message);
    }
  });
  await queue;
}

// An answer that was not taken cannot be taken back.
function forget(step) {
  const place = steps.indexOf(step);
  if (!step.isTaken && place >= 0) steps.splice(place, 1);
}

function skip() {
  const meant = chosen();
  meant.forEach((id) => skipped.add(id));
  steps.push({ skipped: meant });
  selected.clear();
  say(`Skipped: ${meant.length === 1 ? (items.get(meant[0]) || {}).path || "1 picture" : `${number(meant.length)} pictures`}`);
  advance();
  repaint();
}

// Takes back what was done last when the key was pressed, once the answers before it have been replied to.
async function undo() {
  const last = steps.pop();
  queue = queue.then(async () => {
    if (last && last.skipped) {
      last.skipped.forEach((id) => skipped.delete(id));
      say("Skip taken back.");
      show(last.skipped);
      return;
    }
    if (last && !last.isTaken) return; // it was said that it was not taken
    try {
      const done = await ask("/api/undo", {}); // also where this window was loaded again, and knows of no step
      done.ids.forEach((id) => items.delete(id));
      keep(done.items);
      take(done.state, { isOwn: true });
      say(done.said ? `Taken back: ${done.said}` : "Nothing is left to take back.");
      show(done.ids);
    } catch (error) {
      if (last) steps.push(last);
      warn(error.message);
    }
  });
  await queue;
}

// Puts the focus on a picture of the view that was answered.
function show(numbers) {
  const meant = new Set(numbers);
  const place = ids.findIndex((id) => meant.has(id));
  if (place >= 0) go(place);
  repaint();
}

// -------------------------------------------------------------------------------------------------------------- large

function look() {
  if (!ids.length) return;
  if (!$("large").open) $("large").showModal();
  showLarge();
}

function showLarge() {
  const item = items.get(ids[current]);
  const source = `/picture/${ids[current]}?size=large&session=${server.session}`;
  if ($("large-picture").getAttribute("src") !== source) $("large-picture").src = source;
  const text = cells.has(current) ? cells.get(current).getAttribute("aria-label") : "";
  $("large-picture").alt = item ? item.path : "";
  $("large-name").textContent = text;
}

// --------------------------------------------------------------------------------------------------------------- keys

const DO = {
  none: () => answer("", true), skip, undo, clear: () => answer("", false), look,
};
const LETTERS = { x: "none", s: "skip", u: "undo", Delete: "clear", Backspace: "clear", Enter: "look" };

// What a key does; nothing where it is none of ours.
function actionOf({ key, ctrlKey, metaKey, altKey, shiftKey }, moves) {
  const command = ctrlKey || metaKey;
  const inLarge = $("large").open;
  if (inLarge && (key === "Enter" || key === " ")) return undefined; // on its button: it closes
  if (command && key.toLowerCase() === "z") return undo;
  if (command && key.toLowerCase() === "a") return selectAll;
  if (command || altKey) return undefined;
  if (key in moves) return () => go(moves[key], { extend: shiftKey });
  if (key === " ") return () => toggle(current);
  if (key === "?") return () => $("help").showModal();
  if (key === "Escape" && !inLarge) return selectNone;
  if (key in LETTERS) return DO[LETTERS[key]];
  const found = server && server.classes.find((each) => each.key && each.key === key);
  return found && (() => answer(found.name, false));
}

function onKey(event) {
  const page = Math.max(1, Math.floor($("grid").clientHeight / (cell + GAP))) * columns;
  const moves = { ArrowRight: current + 1, ArrowLeft: current - 1, ArrowDown: current + columns, ArrowUp: current - columns, Home: 0, End: ids.length - 1, PageDown: current + page, PageUp: current - page };
  const act = actionOf(event, moves);
  if (!act) return;
  event.preventDefault();
  if (!event.repeat || event.key in moves) act(); // a key that is held moves on, and answers once
}

$("grid").addEventListener("keydown", onKey);
$("large").addEventListener("keydown", onKey);
$("large").addEventListener("close", () => { if (cells.has(current)) cells.get(current).focus({ preventScroll: true }); });
document.addEventListener("keydown", (event) => {
  if (event.altKey && event.key === "n" && view === "next") {
    event.preventDefault();
    if (!event.repeat) load({ focus: true });
  }
});

// ------------------------------------------------------------------------------------------------------------ controls

$("grid").addEventListener("scroll", draw, { passive: true });
new ResizeObserver(measure).observe($("grid"));
$("size").addEventListener("input", measure);
$("help-button").addEventListener("click", () => $("help").showModal());
$("several").addEventListener("click", () => $("several").setAttribute("aria-pressed", String($("several").getAttribute("aria-pressed") !== "true")));
$("options").addEventListener("submit", (event) => { event.preventDefault(); load({ focus: true }); });
$("confirm").addEventListener("click", confirmAll);
for (const name of ["order", "guess-class", "show"]) $(name).addEventListener("change", () => load());
for (const name of ["least", "below"]) {
  $(name).addEventListener("input", () => { $(`${name}-said`).textContent = percent(Number($(name).value)); });
  $(name).addEventListener("change", () => load());
}
for (const button of document.querySelectorAll("nav button")) button.addEventListener("click", () => { view = button.dataset.view; load(); });
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", (event) => { DO[button.dataset.do](); back(event); });

$("new-class").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const done = await ask("/api/class", { name: $("class-name").value });
    take(done.state, { isOwn: true });
    const key = (server.classes.find((each) => each.name === done.name) || {}).key;
    say(`Class ${done.name}${key ? `, key ${key}` : ""}.`);
    $("class-name").value = "";
  } catch (error) {
    say(error.message);
  }
});

$("train-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    take((await ask("/api/train", { steps: $("steps").value ? Number($("steps").value) : null })).state);
    say("Training has started.");
  } catch (error) {
    $("train-said").textContent = error.message;
    say(error.message);
  }
});

$("stop").addEventListener("click", async () => {
  try {
    take((await ask("/api/stop", {})).state);
    say("Training is asked to stop.");
  } catch (error) {
    warn(error.message);
  }
});

async function begin() {
  try {
    take(await ask("/api/state"));
    await load({ focus: true });
  } catch (error) {
    warn(error.message);
  }
  setTimeout(poll, 1000);
}

begin();
