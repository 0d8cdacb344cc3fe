"use strict";
// What a person has decided so far. A state is never changed, only followed by another; that is what undo goes back to.
//   groups    [{id, from, name, pictures}], from: the number of the group it began as, or null
//   loose     pictures in no group     rejected     pictures to be shown no more
//   steps     what was merged, split and moved, for the store's history
// Pictures are places in data.pictures throughout.

const LONGEST = 100; // characters of a class name
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;

function firstState(data) {
  const groups = data.groups.map(({ number, pictures }) => ({ id: number, from: number, name: "", pictures }));
  return { groups, loose: data.loose, rejected: [], steps: [], next: groups.length };
}

function groupOf(state, id) {
  return state.groups.find((group) => group.id === id);
}

function renamed(state, id, name) {
  return { ...state, groups: state.groups.map((group) => (group.id === id ? { ...group, name } : group)) };
}

// `where`: the id of a group, "loose", "rejected", or "new" for a group of their own.
function moved(state, pictures, where, step) {
  const gone = new Set(pictures);
  const rest = (own) => (own.some((i) => gone.has(i)) ? own.filter((i) => !gone.has(i)) : own);
  const after = { ...state, loose: rest(state.loose), rejected: rest(state.rejected) };
  after.steps = [...state.steps, ...step];
  const joined = (group) => (group.id === where ? [...rest(group.pictures), ...pictures] : rest(group.pictures));
  after.groups = state.groups.map((group) => ({ ...group, pictures: joined(group) }));
  if (where === "new") {
    const home = state.groups.find((group) => group.pictures.filter((i) => gone.has(i)).length === gone.size);
    after.groups.push({ id: state.next, from: home ? home.from : null, name: "", pictures });
    after.next = state.next + 1;
  } else if (where === "loose" || where === "rejected") {
    after[where] = [...after[where], ...pictures];
  }
  after.groups = after.groups.filter((group) => group.pictures.length);
  return after;
}

function merged(state, id, into) {
  const gone = groupOf(state, id), kept = groupOf(state, into);
  const after = moved(state, gone.pictures, into, [{ kind: "merge", groups: [into, id] }]);
  return kept.name ? after : renamed(after, into, gone.name);
}

// The two branches of the tree that a group's pictures hang on: apart where the merge between neighbours is highest.
function branches(data, pictures) {
  const order = [...pictures].sort((a, b) => data.pictures[a].place - data.pictures[b].place);
  let highest = -1, cut = 0;
  for (let k = 1; k < order.length; k += 1) {
    const between = data.heights.slice(data.pictures[order[k - 1]].place, data.pictures[order[k]].place);
    const height = between.reduce((a, b) => Math.max(a, b), 0);
    if (height > highest) [highest, cut] = [height, k];
  }
  const parts = [order.slice(0, cut), order.slice(cut)];
  return parts.sort((a, b) => b.length - a.length);
}

function split(state, data, id) {
  const smaller = new Set(branches(data, groupOf(state, id).pictures)[1]);
  const pictures = groupOf(state, id).pictures.filter((i) => smaller.has(i)); // the most typical first, as before
  return moved(state, pictures, "new", [{ kind: "split", group: id, pictures: digests(data, pictures) }]);
}

function digests(data, pictures) {
  return pictures.map((i) => data.pictures[i].digest);
}

// What two names share when a person would take them for the same.
function folded(name) {
  return name.normalize("NFKC").toLowerCase().replace(/\s+/gu, "");
}

function nameError(name) {
  if (UNPRINTABLE.test(name)) return "This name holds characters that do not print.";
  if ([...name].length > LONGEST) return `A name has at most ${LONGEST} characters.`;
  if (folded(name) === "unknown") return "“unknown” is what answers say where there is no class.";
  return "";
}

// id -> {name, existing, error, twin} of every group that has a name. What is there already keeps its own spelling.
function judgedNames(state, data) {
  const known = new Map(data.classes.map(({ name }) => [folded(name), name]));
  const first = new Map(), judged = new Map();
  for (const group of state.groups) {
    const typed = group.name.trim(), key = folded(typed);
    if (!typed) continue;
    const existing = known.has(key), twin = first.get(key) ?? null;
    const name = existing ? known.get(key) : twin === null ? typed : judged.get(twin).name;
    judged.set(group.id, { name, existing, error: existing ? "" : nameError(typed), twin });
    if (twin === null) first.set(key, group.id);
  }
  return judged;
}

// What `open_world apply` reads.
function reviewOf(state, data) {
  const judged = judgedNames(state, data), groups = new Map();
  for (const group of state.groups) {
    const said = judged.get(group.id);
    if (!said) continue;
    const entry = groups.get(said.name) ?? { name: said.name, existing: said.existing, pictures: [] };
    entry.pictures.push(...digests(data, group.pictures));
    groups.set(said.name, entry);
  }
  const rejected = digests(data, state.rejected);
  const made = { schema: 2, store: data.store, revision: data.revision };
  const review = { ...made, groups: [...groups.values()], rejected, steps: state.steps };
  return { ...review, crc32: checksum(review) };
}

// As Review.from_json of Python has it: of JSON in ASCII, without blanks, with sorted keys.
function checksum(record) {
  const sorted = (_, value) => Object.prototype.toString.call(value) !== "[object Object]" ? value
    : Object.fromEntries(Object.keys(value).sort().map((key) => [key, value[key]]));
  const escaped = (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`;
  let sum = -1;
  for (const letter of JSON.stringify(record, sorted).replace(/[\u007f-\uffff]/g, escaped)) {
    sum ^= letter.charCodeAt(0);
    for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? (sum >>> 1) ^ 0xedb88320 : sum >>> 1;
  }
  return ~sum >>> 0;
}
