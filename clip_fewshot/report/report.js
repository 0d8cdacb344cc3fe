// Filters, sorts and pages the pictures. Without it every picture is shown, the most instructive first.
const PAGE = 24;
const list = document.querySelector("#predictions .cards");
const cards = list ? [...list.children] : [];
const tools = document.getElementById("tools");
const more = document.getElementById("more");
const told = document.getElementById("told");
let room = PAGE;

const orders = {
  instructive: (a, b) => a.place - b.place,
  unsure: (a, b) => a.sure - b.sure || a.place - b.place,
  sure: (a, b) => b.sure - a.sure || a.place - b.place,
  class: (a, b) => a.true - b.true || a.place - b.place,
  file: (a, b) => a.file.localeCompare(b.file) || a.place - b.place,
};
const facts = new Map(cards.map((card, place) => [card, {
  place, kind: card.dataset.kind, true: Number(card.dataset.true), sure: Number(card.dataset.sure),
  answers: card.dataset.answers.split(" "), file: card.dataset.file,
}]));
const chosen = name => tools.elements[name].value;

function fits(fact) {
  return (!chosen("kind") || fact.kind === chosen("kind"))
    && (!chosen("true") || fact.true === Number(chosen("true")))
    && (!chosen("answer") || fact.answers.includes(chosen("answer")));
}

function show() {
  const order = orders[chosen("sort")];
  const kept = cards.filter(card => fits(facts.get(card))).sort((a, b) => order(facts.get(a), facts.get(b)));
  list.append(...kept);  // in reading order, for those who do not see it
  cards.forEach(card => { card.hidden = true; });
  kept.slice(0, room).forEach(card => { card.hidden = false; });
  more.hidden = kept.length <= room;
  told.textContent = kept.length ? `${Math.min(room, kept.length)} of ${kept.length} pictures` : "No picture here is like this.";
}

function choose(values) {
  tools.reset();
  for (const [name, value] of Object.entries(values)) tools.elements[name].value = value;
  room = PAGE;
  show();
}

// A picture of the first screen may be on no page yet.
function reveal() {
  const card = location.hash.startsWith("#picture-") && document.getElementById(location.hash.slice(1));
  if (!card || !facts.has(card)) return;
  if (card.hidden) {
    choose({});
    room = Math.max(room, facts.get(card).place + 1);
    show();
  }
  card.focus();
}

const closer = document.getElementById("closer");
let looked;

function look(card) {
  looked = card;
  const [name, verdict] = ["p.name", "p:not(.name)"].map(part => card.querySelector(part)?.textContent.trim() ?? "");
  closer.querySelector("div").replaceChildren(card.querySelector("img").cloneNode());
  const texts = [name, verdict, card.dataset.file];
  closer.querySelectorAll("p:not(:last-child)").forEach((line, i) => { line.textContent = texts[i]; });
  if (!closer.open) closer.showModal();
}

function turn(by) {
  const seen = [...list.querySelectorAll(".card:not([hidden])")];
  const next = seen[seen.indexOf(looked) + by];
  if (next) look(next);
}

if (closer) {
  list.addEventListener("click", event => {
    if (event.target.closest(".look")) look(event.target.closest(".card"));
  });
  closer.addEventListener("click", event => {
    if (event.target === closer) closer.close();  // beside it
    turn(Number(event.target.dataset.by ?? 0));
  });
  closer.addEventListener("keydown", event => turn({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0));
  closer.addEventListener("close", () => looked.querySelector(".look").focus());
}

if (tools) {
  tools.hidden = false;
  tools.addEventListener("change", () => { room = PAGE; show(); });
  document.getElementById("all").addEventListener("click", () => choose({}));
  more.addEventListener("click", () => {
    const next = room;
    room = cards.length;
    show();
    list.querySelectorAll(".card:not([hidden])")[next].focus();
  });
  for (const cell of document.querySelectorAll("[data-cell]")) {
    cell.addEventListener("click", event => {
      event.preventDefault();
      const [row, answer] = cell.dataset.cell.split(" ");
      choose({ true: row, answer });
      document.getElementById("predictions").scrollIntoView();
      told.focus();
    });
  }
  window.addEventListener("hashchange", reveal);
  show();
  reveal();
}
