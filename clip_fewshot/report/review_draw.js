// A state on the screen. Text from the store is only ever set as text, never as HTML: the page's policy refuses that.

const $ = (selector, inside = document) => inside.querySelector(selector);
const $$ = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const data = JSON.parse($("#data").textContent);
const DRAFT = `clip_fewshot review ${data.token}`; // a reload finds its way back; another page has another token
const KEPT = 50; // steps that can be undone after a reload
const { state: begun, past } = draft() ?? { state: firstState(data), past: [] };
const future = [], picked = new Set(), whole = new Set(), tiles = new Map(), cards = new Map();
let state = begun, saved = state, anchor = null, focused = null, looked = null;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function button(action, text, attributes = {}) {
  return element("button", { type: "button", "data-do": action, ...attributes }, text);
}

function plural(n, what) {
  return `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
}

function titleOf(group) {
  const named = judgedNames(state, data).get(group.id);
  return named ? `Group ${group.id}: ${named.name}` : `Group ${group.id}`;
}

function draft() {
  try {
    return JSON.parse(localStorage.getItem(DRAFT));
  } catch {
    return null; // no storage for pages of this kind: then nothing outlives a reload, and leaving is asked about
  }
}

function keep() {
  try {
    localStorage.setItem(DRAFT, JSON.stringify({ state, past: past.slice(-KEPT) }));
  } catch {
    // as above, or full
  }
}

// ---- from one state to another

function say(text) {
  $("#said").textContent = text;
}

function become(next, text) {
  if (next === state) return;
  past.push([state, text]);
  future.length = 0;
  state = next;
  show(text);
}

function step(from, to, verb, done) {
  if (!from.length) return say(`Nothing to ${verb}.`);
  const [other, what] = from.pop();
  to.push([state, what]);
  state = other;
  return show(`${done}: ${what}`);
}

function show(text) {
  for (const i of picked) if (!$(`[data-i="${i}"]`)) picked.delete(i);
  keep();
  draw();
  say(text);
}

// ---- drawing

function tile(i) {
  if (!tiles.has(i)) {
    const { name, thumbnail, p, answered } = data.pictures[i];
    const image = thumbnail ? element("img", { alt: name, loading: "lazy", draggable: "false" })
      : element("bdi", { class: "title" }, name);
    if (thumbnail) image.src = `data:image/jpeg;base64,${thumbnail}`;
    const was = answered === null ? "" : data.classes[answered].shown;
    const title = `${name}\n${(100 * p).toPrecision(2)} % of known pictures look as strange${was && `\nanswered: ${was}`}`;
    const made = element("button", { type: "button", class: "tile", "data-i": i, title, tabindex: "-1" }, image);
    if (was) made.append(element("bdi", { class: "was" }, was));
    tiles.set(i, made);
  }
  tiles.get(i).setAttribute("aria-pressed", picked.has(i));
  return tiles.get(i);
}

// The first of them, and all once that is asked for: thousands of tiles would make every step slow.
function fill(home, pictures) {
  const grid = $(".grid", home), more = $(".more", home);
  const wanted = (whole.has(home) ? pictures : pictures.slice(0, data.drawn)).map(tile);
  if (wanted.length !== grid.children.length || wanted.some((one, k) => grid.children[k] !== one)) {
    grid.replaceChildren(...wanted);
  }
  for (const one of wanted) one.tabIndex = -1;
  const entry = wanted.find((one) => one.dataset.i === focused) ?? wanted[0];
  if (entry) entry.tabIndex = 0; // one stop per grid; arrows go on from there
  more.hidden = wanted.length === pictures.length;
  more.textContent = `Show all ${pictures.length.toLocaleString("en")}`;
}

function suggestions(group) {
  const found = group.from === null ? null : data.groups[group.from];
  const chips = element("div", { class: "chips", role: "group", "aria-label": "Suggested names" });
  if (!found) return chips;
  const likely = found.words.filter(([, p]) => p >= Math.max(0.01, found.words[0][1] / 20)); // less is in the way
  const words = likely.map(([word, p]) => button("word", `${word} ${Math.round(100 * p)} %`, { "data-word": word }));
  const doubt = !words.length ? "No word stands out" : found.none_fits ? "None may fit:" : "";
  if (found.words.length && doubt) chips.append(element("span", { class: "soft small" }, doubt));
  chips.append(...words);
  if (found.nearest) {
    const { name, shown } = data.classes[found.nearest.place];
    const cosine = found.nearest.cosine.toFixed(2);
    chips.append(button("word", `nearest known: ${shown} (cosine ${cosine})`, { class: "near", "data-word": name }));
  }
  return chips;
}

function cardOf(group) {
  const heading = element("h2", { tabindex: "-1", id: `title-${group.id}` });
  const plain = { type: "text", autocomplete: "off", spellcheck: "false", maxlength: "200" };
  const input = element("input", { ...plain, placeholder: "no name: stays unknown" });
  const acts = element("div", { class: "acts" });
  acts.append(button("merge", "Merge…"), button("split", "Split"), button("reject", "Reject"));
  const naming = element("div", { class: "naming" }, element("label", {}, "Name ", input), suggestions(group));
  const about = { "data-group": group.id, "data-from": group.from, "aria-labelledby": `title-${group.id}` };
  const card = element("section", { class: "group", ...about });
  card.append(element("div", { class: "top" }, heading, acts), naming, element("p", { class: "hint small" }));
  card.append(element("div", { class: "grid" }), button("all", "", { class: "more" }));
  return card;
}

function drawGroup(group, judged) {
  const from = String(group.from); // after an undo another group may bear the number
  if (cards.get(group.id)?.dataset.from !== from) cards.set(group.id, cardOf(group));
  const card = cards.get(group.id), input = $("input", card), swatch = element("span", { class: "swatch" });
  swatch.style.background = group.from === null ? "transparent" : data.groups[group.from].colour;
  const size = element("span", { class: "soft" }, plural(group.pictures.length, "picture"));
  $("h2", card).replaceChildren(swatch, `Group ${group.id} `, size);
  if (input.value.trim() !== group.name) input.value = group.name;
  const said = judged.get(group.id), hint = $(".hint", card);
  input.setAttribute("aria-invalid", Boolean(said && said.error));
  card.classList.toggle("named", Boolean(said && !said.error));
  hint.classList.toggle("bad", Boolean(said && said.error));
  hint.textContent = said ? hintOf(said) : "";
  $("[data-do=split]", card).disabled = group.pictures.length < 2;
  $("[data-do=merge]", card).disabled = state.groups.length < 2;
  fill(card, group.pictures);
  return card;
}

// What `open_world apply` will do with the review as it is.
function drawDecisions() {
  const { groups, rejected } = reviewOf(state, data), told = [];
  for (const { name, existing, pictures } of groups) {
    const many = plural(pictures.length, "picture");
    told.push(existing ? `The class “${name}” gets ${many} more and is trained again.` : `New class “${name}”: ${many}.`);
  }
  if (rejected.length) told.push(`${plural(rejected.length, "picture")} rejected: shown no more.`);
  const decided = groups.reduce((sum, { pictures }) => sum + pictures.length, rejected.length);
  told.push(decided ? `All else stays as it is: ${plural(data.pictures.length - decided, "picture")}.` : "Nothing yet.");
  $("#decides ul").replaceChildren(...told.map((text) => element("li", {}, text)));
}

function hintOf({ name, existing, error, twin }) {
  if (error) return error;
  if (existing) return `Joins the known class “${name}”, which is trained again.`;
  return twin === null ? `Becomes the new class “${name}”.` : `One class “${name}” together with group ${twin}.`;
}

function draw() {
  const judged = judgedNames(state, data), home = $("#groups");
  const wanted = state.groups.map((group) => drawGroup(group, judged));
  for (const card of [...home.children]) if (!wanted.includes(card)) card.remove();
  wanted.forEach((card, k) => {
    if (home.children[k] !== card) home.insertBefore(card, home.children[k] ?? null);
  });
  for (const bin of $$(".bin")) {
    const pictures = state[bin.dataset.bin];
    bin.hidden = !pictures.length;
    fill(bin, pictures);
    $("[data-count]", bin).textContent = plural(pictures.length, "picture");
  }
  $("#picked").hidden = !picked.size;
  $("#count").textContent = `${picked.size} selected:`;
  const { name, original } = data.pictures[anchor] ?? {};
  $("#original").hidden = !original || !picked.has(anchor);
  $("#original").setAttribute("href", original ?? "");
  $("#original").textContent = `Open ${String(name).split("/").pop()}`;
  drawDecisions();
  $("#tally").textContent = state.groups.length ? `${judged.size} of ${plural(state.groups.length, "group")} named` : "";
  $("[data-do=undo]").disabled = !past.length;
  $("[data-do=redo]").disabled = !future.length;
}
