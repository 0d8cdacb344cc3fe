// What can be done on the review page, and the clicks and keys that do it.

function pick(i, on = !picked.has(i)) {
  if (on) picked.add(i);
  else picked.delete(i);
}

function pickTile(target, through) {
  const i = Number(target.dataset.i), row = $$(".tile", target.parentElement);
  const [from, to] = [row.findIndex((one) => Number(one.dataset.i) === anchor), row.indexOf(target)];
  const between = through && from >= 0 ? row.slice(Math.min(from, to), Math.max(from, to) + 1) : [];
  if (between.length) between.forEach((one) => pick(Number(one.dataset.i), true));
  else pick(i);
  [anchor, focused] = [i, target.dataset.i];
  draw();
}

function nearestCard() {
  const inside = document.activeElement.closest("[data-group]");
  return inside ? groupOf(state, Number(inside.dataset.group)) : undefined;
}

function selection() {
  const all = [...state.groups.flatMap((group) => group.pictures), ...state.loose, ...state.rejected];
  return all.filter((i) => picked.has(i));
}

function put(where, text) {
  const pictures = selection(), kind = where === "new" ? "split" : "move";
  picked.clear();
  const to = where === "new" ? state.next : where;
  const history = where === "rejected" ? [] : [{ kind, to, pictures: digests(data, pictures) }];
  become(moved(state, pictures, where, history), `${plural(pictures.length, "picture")} ${text}.`);
  if (where === "new") heading(to);
}

function heading(id) {
  const card = cards.get(id);
  if (!card || !card.isConnected) return;
  $("h2", card).focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
}

async function move() {
  const places = [...state.groups.map(({ id }) => id), "new", "loose", "rejected"];
  const where = await choose(`Move ${plural(picked.size, "picture")} to`, places);
  const names = { new: "a group of their own", loose: "no group", rejected: "the rejected" };
  if (where !== null) put(where, `moved to ${names[where] ?? `group ${where}`}`);
}

async function merge(group) {
  const others = state.groups.map(({ id }) => id).filter((id) => id !== group.id);
  const into = await choose(`Merge group ${group.id} with`, others);
  if (into === null) return;
  become(merged(state, group.id, into), `Group ${group.id} merged into group ${into}.`);
  heading(into);
}

function choose(title, places) {
  const dialog = $("#chooser"), names = { new: "A new group", loose: "No group", rejected: "Rejected" };
  $("h2", dialog).textContent = title;
  const options = places.map((place) => {
    const group = typeof place === "number" ? groupOf(state, place) : null;
    const option = element("button", { value: String(place) });
    for (const i of (group ? group.pictures : []).filter((one) => data.pictures[one].thumbnail).slice(0, 3)) {
      const image = element("img", { alt: "" });
      image.src = `data:image/jpeg;base64,${data.pictures[i].thumbnail}`;
      option.append(image);
    }
    option.append(element("bdi", {}, group ? titleOf(group) : names[place]));
    return option;
  });
  $(".targets", dialog).replaceChildren(...options);
  dialog.returnValue = "";
  dialog.showModal();
  options[0].focus();
  return new Promise((done) => {
    const chosen = () => places.find((place) => String(place) === dialog.returnValue) ?? null;
    dialog.addEventListener("close", () => done(chosen()), { once: true });
  });
}

function rename(group, name) {
  if (name === group.name) return;
  const next = renamed(state, group.id, name), said = judgedNames(next, data).get(group.id);
  become(next, said ? `Group ${group.id}: ${hintOf(said)}` : `Group ${group.id} has no name and stays unknown.`);
}

function reject(group) {
  become(moved(state, group.pictures, "rejected", []), `Group ${group.id} rejected.`);
}

function splitUp(group) {
  const id = state.next;
  become(split(state, data, group.id), `Group ${group.id} split along the tree; the smaller part is group ${id}.`);
  heading(id);
}

function save() {
  if (document.activeElement.matches("input")) document.activeElement.blur(); // what is being typed counts
  const wrong = [...judgedNames(state, data)].find(([, { error }]) => error);
  if (wrong) {
    $("input", cards.get(wrong[0])).focus();
    return say(wrong[1].error);
  }
  const review = reviewOf(state, data);
  if (!review.groups.length && !review.rejected.length) return say("Nothing to save yet: name or reject something.");
  const link = element("a", { download: "review.json" });
  link.href = URL.createObjectURL(new Blob([JSON.stringify(review, null, 1)], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  saved = state;
  return say("Saved. Next: clip-fewshot open-world apply STORE review.json");
}

function openOriginal(i) {
  const { original } = data.pictures[i] ?? {};
  if (!original) return say("Go to a picture first. Pictures that lay in no file have no original.");
  return element("a", { href: original, target: "_blank", rel: "noopener" }).click();
}

// The thumbnail at once, and the file itself once it is read: it may be large, or no longer there.
function look(i) {
  const spot = tiles.get(Number(i ?? NaN));
  if (!spot || !spot.isConnected) return say("Go to a picture first.");
  const { name, thumbnail, original } = data.pictures[i], image = element("img", { alt: name });
  if (thumbnail) image.src = `data:image/jpeg;base64,${thumbnail}`;
  if (original) {
    const whole = new Image();
    whole.addEventListener("load", () => { image.src = whole.src; });
    whole.src = original;
  }
  const [title, ...about] = spot.title.split("\n");
  $("#closer div").replaceChildren(image);
  $("#closer h2").textContent = title;
  $("#closer p").textContent = about.join("\n");
  looked = spot;
  if (!$("#closer").open) $("#closer").showModal();
}

function turn(by) {
  const row = $$(".tile", looked.parentElement), next = row[row.indexOf(looked) + by];
  if (by && next) look(next.dataset.i);
}

const ACTIONS = {
  merge, split: splitUp, move, save,
  reject: (group) => (group ? reject(group) : put("rejected", "rejected")),
  new: () => put("new", "in a group of their own"),
  clear: () => { picked.clear(); draw(); },
  undo: () => step(past, future, "undo", "Undone"),
  redo: () => step(future, past, "redo", "Done again"),
  keys: () => $("#keys").showModal(),
  look: () => look(anchor),
  all: (group, home) => { whole.add(home); draw(); $(".tile:nth-child(" + (data.drawn + 1) + ")", home).focus(); },
};

// ---- clicks and keys

document.addEventListener("click", (event) => {
  const target = event.target.closest("button");
  if (!target || target.closest("dialog")) return;
  if (target.matches(".tile")) return pickTile(target, event.shiftKey);
  const card = target.closest("[data-group]");
  const group = card ? groupOf(state, Number(card.dataset.group)) : undefined;
  if (target.dataset.do === "word") return rename(group, target.dataset.word);
  return ACTIONS[target.dataset.do](group, target.parentElement);
});

$("#closer").addEventListener("click", ({ target }) => {
  if (target.id === "closer") target.close(); // beside it
  turn(Number(target.dataset.by ?? 0));
});

$("#closer").addEventListener("close", () => {
  focused = looked.dataset.i;
  looked.focus();
});

document.addEventListener("change", (event) => {
  const card = event.target.closest("[data-group]");
  if (card) rename(groupOf(state, Number(card.dataset.group)), event.target.value.trim());
});

document.addEventListener("focusin", (event) => {
  if (event.target.matches(".tile")) focused = event.target.dataset.i;
});

function nextGroup(by) {
  const order = [...$$(".group"), ...$$(".bin:not([hidden])")], last = order.length - 1;
  const here = order.indexOf(document.activeElement.closest(".group, .bin"));
  const there = order[here < 0 ? (by > 0 ? 0 : last) : Math.min(Math.max(here + by, 0), last)];
  if (!there) return;
  $("h2", there).focus({ preventScroll: true });
  there.scrollIntoView({ block: "start" });
}

function arrow(event) {
  const row = $$(".tile", event.target.parentElement), here = row.indexOf(event.target);
  const across = row.filter((one) => one.offsetTop === row[0].offsetTop).length;
  const ends = { Home: -here, End: row.length - 1 - here };
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, ...ends };
  const there = row[here + by[event.key]];
  if (!there) return;
  if (event.shiftKey) [event.target, there].forEach((one) => pick(Number(one.dataset.i), true));
  focused = there.dataset.i;
  there.focus();
  draw();
}

function letter(key) {
  const group = nearestCard();
  if (key === "j" || key === "k") return nextGroup(key === "j" ? 1 : -1);
  if (key === "u" || key === "r") return ACTIONS[key === "u" ? "undo" : "redo"]();
  if (key === "?") return ACTIONS.keys();
  if (key === "v") return look($(".tile:focus")?.dataset.i ?? anchor);
  if (key === "o") return openOriginal($(".tile:focus")?.dataset.i ?? anchor);
  if (key === "m" && picked.size) return move();
  if (key === "g" && picked.size) return ACTIONS.new();
  if (key === "x" && picked.size) return put("rejected", "rejected");
  if (!group) return say("Press j to go to a group first.");
  if (key === "n") return $("input", cards.get(group.id)).focus();
  if (key === "m" && state.groups.length > 1) return merge(group);
  if (key === "s" && group.pictures.length > 1) return splitUp(group);
  if (key === "x") return reject(group);
  const word = /^[1-9]$/.test(key) ? $$("[data-word]", cards.get(group.id))[Number(key) - 1] : undefined;
  return word ? rename(group, word.dataset.word) : undefined;
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input"), held = event.ctrlKey || event.metaKey, key = event.key.toLowerCase();
  if ($("#closer").open) turn({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0);
  if ($("dialog[open]")) return;
  if (held && !event.altKey && key === "s") save();
  else if (held && !event.altKey && key === "z" && !typing) ACTIONS[event.shiftKey ? "redo" : "undo"]();
  else if (typing && key === "enter") nextName(event.target);
  else if (typing && key === "escape") event.target.closest(".group").querySelector("h2").focus();
  else if (!typing && key === "escape") ACTIONS.clear();
  else if (event.target.matches(".tile") && /^Arrow|^Home$|^End$/.test(event.key)) arrow(event);
  else if (!typing && !held && !event.altKey && "jkurmgxnsov?123456789".includes(key) && key.length === 1) letter(key);
  else return;
  event.preventDefault();
});

function nextName(input) {
  const order = $$(".group input"), there = order[order.indexOf(input) + 1];
  input.blur(); // commits the name
  if (there) there.focus();
  else cards.get(Number(input.closest("[data-group]").dataset.group)).querySelector("h2").focus();
}

addEventListener("beforeunload", (event) => {
  if (state !== saved) event.preventDefault();
});

draw();
say(past.length ? "Your last work on this page is back." : "Nothing decided yet.");
