"use strict";
// Asks status.json each second and shows it. Addresses are relative: a proxy may have put the page below a path. Text reaches the document as text only, never as markup.

const SLOTS = 256;
const POLL_MS = 1000;
const HIDDEN_POLL_MS = 10000; // nobody looks
const PATIENCE_MS = 3000;
const SVG = "http://www.w3.org/2000/svg";
const STATES = {
  alive: ["✓ alive", "good"], suspect: ["? suspected", "warn"], failed: ["✕ failed", "bad"],
  dead: ["✕ dead", "bad"], absent: ["○ absent", "bad"],
};

const $ = (id) => document.getElementById(id);
let last = null; // the last status
let lastAt = 0;
let paused = false;
let timer = 0;
let chosen = -1; // slot
const HINT = $("slot-detail").textContent;
let litNode = null; // address of the member pointed at

// --- small helpers ---------------------------------------------------------------------------------------------

function setText(element, text) { if (element.textContent !== text) element.textContent = text; }
function setAttribute(element, name, value) { if (element.getAttribute(name) !== value) element.setAttribute(name, value); }
function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
function makeSvg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
function colour(line) {
  if (line === null || line === undefined) return "var(--quiet)";
  return line < 8 ? `var(--n${line})` : `hsl(${(line * 137.5) % 360} 55% var(--node-light))`;
}
const whole = new Intl.NumberFormat("en");
function count(number) { return number === null || number === undefined ? "–" : whole.format(Math.round(number)); }
function mib(bytes) { return `${(bytes / 1048576).toFixed(1)} MiB`; }
function share(bytes, of) { return `${(bytes / 1048576).toFixed(1)} of ${mib(of).replace(".0", "")}`; }
function shortRate(rate) { return rate >= 10000 ? `${(rate / 1000).toFixed(1)}k` : count(rate); }
function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}
function plural(number, one, many) { return `${count(number)} ${number === 1 ? one : many || `${one}s`}`; }
function clock(unix) { return new Date(unix * 1000).toLocaleTimeString("en-GB"); }
function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  return s < 172800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} days`;
}
function nodeNumber(member) { return member.line === null ? "?" : String(member.line + 1); }
function nodeName(member) { return `node ${nodeNumber(member)} (${member.address})`; }

// --- the ring --------------------------------------------------------------------------------------------------

function arc(slot, inner, outer, wider = 0) {
  const [a, b] = [slot - wider, slot + 1 + wider].map((n) => (n / SLOTS) * 2 * Math.PI - Math.PI / 2);
  const at = (r, angle) => `${(r * Math.cos(angle)).toFixed(2)} ${(r * Math.sin(angle)).toFixed(2)}`;
  return `M${at(outer, a)}A${outer} ${outer} 0 0 1 ${at(outer, b)}L${at(inner, b)}A${inner} ${inner} 0 0 0 ${at(inner, a)}Z`;
}

const WEDGE = [136, 196];
const CHOSEN_WEDGE = [132, 204, 0.9];
const wedges = [];
const copyMarks = [];
for (let slot = 0; slot < SLOTS; slot++) {
  const wedge = makeSvg("path", { d: arc(slot, ...WEDGE), class: "wedge", id: `slot-${slot}`, role: "option", "aria-selected": "false" });
  wedge.dataset.slot = slot;
  wedges.push(wedge);
  copyMarks.push(makeSvg("path", { d: arc(slot, 120, 130), class: "copy-full" }));
}
$("wedges").append(...wedges);
$("copies").append(...copyMarks);

function holders(slot) {
  const slots = last.slots, member = (place) => last.members[place];
  return { primary: member(slots.primary[slot]), backups: slots.backups[slot].map(member), learners: slots.learners[slot].map(member) };
}

function describe(slot) {
  const { primary, backups, learners } = holders(slot);
  const wanted = last.cluster.copies_wanted, missing = Math.max(0, wanted - 1 - backups.length - learners.length);
  const parts = [["Primary", nodeName(primary)]];
  parts.push([backups.length === 1 ? "Backup" : "Backups", backups.map(nodeName).join(", ") || "none"]);
  if (learners.length) parts.push(["Catching up", learners.map(nodeName).join(", ")]);
  if (missing) parts.push(["Missing", plural(missing, "copy", "copies")]);
  return parts;
}

function drawRing() {
  const slots = last.slots;
  for (let slot = 0; slot < SLOTS; slot++) {
    const wedge = wedges[slot], mark = copyMarks[slot];
    if (!slots) { wedge.style.removeProperty("--c"); setAttribute(wedge, "aria-label", `slot ${slot}: no view yet`); continue; }
    const { primary, backups, learners } = holders(slot);
    wedge.style.setProperty("--c", colour(primary.line));
    setAttribute(wedge, "aria-label", `slot ${slot}. ` + describe(slot).map(([what, who]) => `${what}: ${who}`).join(". "));
    const full = 1 + backups.length >= last.cluster.copies_wanted;
    setAttribute(mark, "class", full ? "copy-full" : learners.length ? "copy-learning" : "copy-missing");
  }
  light();
}

function light() {
  const slots = last && last.slots;
  const byNode = slots && litNode !== null ? last.members.findIndex((member) => member.address === litNode) : -1;
  $("ring").classList.toggle("choosing", Boolean(slots) && (chosen >= 0 || byNode >= 0));
  wedges.forEach((wedge, slot) => {
    let state = "wedge";
    if (slots && byNode >= 0) {
      if (slots.primary[slot] === byNode) state += " lit";
      else if (slots.backups[slot].includes(byNode)) state += " held";
    } else if (slots && chosen >= 0 && slots.primary[slot] === slots.primary[chosen]) state += " held";
    const isChosen = slot === chosen && byNode < 0;
    if (isChosen) state += " chosen";
    setAttribute(wedge, "d", isChosen ? arc(slot, ...CHOSEN_WEDGE) : arc(slot, ...WEDGE));
    setAttribute(wedge, "class", state);
    setAttribute(wedge, "aria-selected", String(slot === chosen));
  });
  if (chosen >= 0) $("wedges").append(wedges[chosen]); // drawn last, so that its outline is whole
  tell(slots, byNode);
}

function tell(slots, byNode) {
  const lines = ["", "", ""];
  if (!slots) lines[1] = "no view yet";
  else if (byNode >= 0) {
    const member = last.members[byNode];
    lines[0] = `node ${nodeNumber(member)}`;
    lines[1] = `primary of ${plural(member.primary || 0, "slot")}`;
    lines[2] = `backup of ${count(member.backup || 0)}`;
  } else if (chosen >= 0) {
    lines[0] = `slot ${chosen}`;
    lines[1] = `primary: node ${nodeNumber(holders(chosen).primary)}`;
    lines[2] = `${plural(1 + slots.backups[chosen].length, "copy", "copies")} in sync`;
  } else {
    const missing = last.cluster.copies_missing;
    lines[0] = count(SLOTS);
    lines[1] = "slots";
    lines[2] = missing ? `${plural(missing, "copy", "copies")} missing` : "all copies in sync";
  }
  lines.forEach((text, n) => setText($(`centre-${n + 1}`), text));
  const detail = $("slot-detail");
  if (!slots || chosen < 0) {
    delete detail.dataset.shown;
    setText(detail, HINT);
  } else {
    const text = describe(chosen);
    const wanted = `Slot ${chosen}` + JSON.stringify(text);
    if (detail.dataset.shown !== wanted) {
      detail.dataset.shown = wanted;
      detail.replaceChildren(make("b", "", `Slot ${chosen}. `));
      for (const [what, who] of text) detail.append(`${what}: `, make("b", "", who), ". ");
    }
  }
}

function choose(slot) {
  chosen = slot;
  if (slot >= 0) setAttribute($("wedges"), "aria-activedescendant", `slot-${slot}`);
  if (last) light();
}

const listbox = $("wedges");
const slotAt = (event) => { const at = event.target.dataset.slot; return at === undefined ? -1 : Number(at); };
listbox.addEventListener("pointerover", (event) => { if (event.pointerType !== "touch" && slotAt(event) >= 0) choose(slotAt(event)); });
listbox.addEventListener("pointerdown", (event) => { if (slotAt(event) >= 0) choose(slotAt(event)); });
listbox.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch" && document.activeElement !== listbox) choose(-1); });
listbox.addEventListener("focus", () => { if (chosen < 0) choose(0); });
listbox.addEventListener("blur", () => choose(-1));
listbox.addEventListener("keydown", (event) => {
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 16, PageUp: -16 };
  let next = null;
  if (event.key in steps) next = (Math.max(chosen, 0) + steps[event.key] + SLOTS) % SLOTS;
  else if (event.key === "Home") next = 0;
  else if (event.key === "End") next = SLOTS - 1;
  else if (event.key === "Escape") { listbox.blur(); return; }
  if (next === null || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  choose(next);
});

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return ~crc >>> 0;
}
function find() {
  const key = new TextEncoder().encode($("find-key").value);
  const tooLong = key.length > 32;
  setText($("find-slot"), tooLong ? "over 32 bytes" : key.length ? `slot ${crc32(key) & 0xff}` : "");
  choose(key.length && !tooLong ? crc32(key) & 0xff : -1);
}
$("find-key").addEventListener("input", find);
$("find").addEventListener("submit", (event) => { event.preventDefault(); find(); });

// --- members ---------------------------------------------------------------------------------------------------

const rows = new Map(); // by address

function newRow(member) {
  const row = make("tr"), cells = {}; // with roles, since the layout for phones takes the elements' own away
  row.setAttribute("role", "row");
  const cell = (name, label, className) => {
    cells[name] = make("td", `${className || ""} cell-${name}`.trim());
    cells[name].setAttribute("role", "cell");
    if (label) cells[name].dataset.label = label;
    row.append(cells[name]);
    return cells[name];
  };
  const node = make("span", "node"), name = make("span", "node-name");
  row.chip = make("span", "chip");
  row.link = make("a"); row.plain = make("span"); row.tags = make("span", "tag");
  name.append(row.link, row.plain, " ", row.tags);
  node.append(row.chip, name);
  cell("node").append(node);
  row.state = make("span", "badge");
  cell("state").append(row.state);
  for (const [field, label] of [["primary", "primary"], ["backup", "backup"], ["learner", "learner"]]) cell(field, label, "number");
  row.barText = make("span", "bar-text"); row.bar = make("span", "bar"); row.fill = make("span");
  row.bar.append(row.fill);
  cell("memory").append(row.barText, row.bar);
  cell("entries", "entries", "number");
  cell("rate", "requests/s", "number");
  row.parts = cells;
  row.addEventListener("pointerenter", () => { litNode = member.address; light(); });
  row.addEventListener("pointerleave", () => { litNode = null; light(); });
  row.addEventListener("focusin", () => { litNode = member.address; light(); });
  row.addEventListener("focusout", () => { litNode = null; light(); });
  return row;
}

function pageOf(member) {
  const port = member.vitals && member.vitals.http_port;
  if (!port || member.me) return null;
  return `http://${member.address.replace(/:\d+$/, "")}:${port}/`;
}

function drawMember(row, member) {
  const cells = row.parts, vitals = member.vitals || {}, [stateText, stateClass] = STATES[member.state] || [member.state, ""];
  row.chip.style.setProperty("--c", member.state === "absent" ? "var(--quiet)" : colour(member.line));
  setText(row.chip, nodeNumber(member));
  const page = pageOf(member);
  row.link.hidden = !page;
  row.plain.hidden = Boolean(page);
  if (page) { setText(row.link, member.address); setAttribute(row.link, "href", page); } else setText(row.plain, member.address);
  const tags = [];
  if (member.me) tags.push("this node");
  if (member.address === last.cluster.coordinator && member.state !== "absent") tags.push("coordinator");
  if (!member.me && member.state === "alive" && !member.link) tags.push("no link");
  if (member.queued_bytes > 65536) tags.push(`${mib(member.queued_bytes)} queued`);
  setText(row.tags, tags.join(" · "));
  setText(row.state, member.leaving ? "→ leaving" : stateText);
  row.state.className = `badge ${member.leaving ? "warn" : stateClass}`;
  for (const role of ["primary", "backup", "learner"]) setText(cells[role], count(member[role]));
  const known = vitals.resident_bytes !== undefined && vitals.max_memory_bytes;
  setText(row.barText, known ? share(vitals.resident_bytes, vitals.max_memory_bytes) : "–");
  row.bar.hidden = !known;
  row.fill.style.setProperty("width", known ? `${Math.min(100, (100 * vitals.resident_bytes) / vitals.max_memory_bytes)}%` : "0");
  setText(cells.entries, count(vitals.entries));
  setText(cells.rate, member.rate === null || member.rate === undefined ? "–" : count(member.rate));
}

function drawMembers() {
  const body = $("members").tBodies[0], addresses = new Set(last.members.map((member) => member.address));
  for (const [address, row] of rows) if (!addresses.has(address)) { row.remove(); rows.delete(address); }
  const order = [...last.members].sort((a, b) => (a.line ?? 1e9) - (b.line ?? 1e9));
  order.forEach((member, n) => {
    let row = rows.get(member.address);
    if (!row) { row = newRow(member); rows.set(member.address, row); }
    if (body.rows[n] !== row) body.insertBefore(row, body.rows[n] || null);
    drawMember(row, member);
  });
  const inside = last.members.filter((member) => member.state !== "absent");
  const alive = inside.filter((member) => member.state === "alive").length;
  setText($("members-count"), `${alive} alive of ${last.members.length}`);
}

// --- memory and sparklines -------------------------------------------------------------------------------------

function drawMemory() {
  const m = last.memory, meter = $("memory-meter"), width = (bytes) => `${Math.min(100, (100 * bytes) / m.limit_bytes)}%`;
  setText($("memory-now"), mib(m.resident_bytes));
  setText($("memory-limit"), `of ${mib(m.limit_bytes).replace(".0", "")}`);
  meter.querySelector(".meter-fill").style.setProperty("width", width(m.resident_bytes));
  meter.querySelector(".meter-mark").style.setProperty("left", `calc(${width(m.peak_bytes)} - 3px)`);
  setAttribute(meter, "aria-valuemax", String(m.limit_bytes));
  setAttribute(meter, "aria-valuenow", String(m.resident_bytes));
  setAttribute(meter, "aria-valuetext", `${mib(m.resident_bytes)} of ${mib(m.limit_bytes)}, peak ${mib(m.peak_bytes)}`);
  const parts = [
    ["Peak (the mark)", mib(m.peak_bytes)], ["Store", share(m.store_bytes, m.store_limit_bytes)],
    ["Entries", count(m.entries)], ["Evicted", count(m.evictions)],
    ["Replies kept", `${count(m.replies)} in ${mib(m.replies_bytes)}`],
  ];
  const list = $("memory-parts");
  while (list.children.length < 2 * parts.length) list.append(make("dt"), make("dd"));
  parts.forEach(([name, value], n) => { setText(list.children[2 * n], name); setText(list.children[2 * n + 1], value); });
}

function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((n) => n * power).find((top) => top >= value);
}

function drawSpark(id, values, show, label) {
  const svg = $(id), width = 360, height = 90, present = values.filter((value) => value !== null);
  const newest = values.length ? values[values.length - 1] : null, highest = Math.max(0, ...present), top = niceTop(highest);
  setText($(`${id}-now`), show(newest));
  setText($(`${id}-top`), present.length ? `highest ${show(highest)}` : "nothing yet");
  const span = Math.max(values.length - 1, 1), seconds = Math.round(span * last.history.interval_s);
  setText($(`${id}-span`), values.length > 1 ? `${duration(seconds)} ago` : "");
  setAttribute(svg, "aria-label", `${label}, last ${duration(seconds)}: now ${show(newest)}, highest ${show(highest)}`);
  const x = (n) => ((n / span) * width).toFixed(1), y = (value) => (height - 2 - (value / top) * (height - 6)).toFixed(1);
  let curve = "", area = "", start = -1;
  const close = (end) => { if (start >= 0) area += `L${x(end)} ${height}L${x(start)} ${height}Z`; start = -1; };
  values.forEach((value, n) => {
    if (value === null) { close(n - 1); return; }
    const step = `${start < 0 ? "M" : "L"}${x(n)} ${y(value)}`;
    if (start < 0) start = n;
    curve += step; area += step;
  });
  close(values.length - 1);
  if (!svg.firstChild) {
    svg.append(makeSvg("path", { class: "area" }), makeSvg("line", { class: "base", x1: 0, x2: width, y1: height, y2: height }), makeSvg("path", { class: "curve" }));
  }
  setAttribute(svg.children[0], "d", area);
  setAttribute(svg.children[2], "d", curve);
}

// --- changes ---------------------------------------------------------------------------------------------------

function drawChanges() {
  const list = $("changes"), key = last.changes.map((change) => `${change.unix_s}`).join();
  if (list.dataset.shown === key) return;
  list.dataset.shown = key;
  list.replaceChildren(...last.changes.map((change) => {
    const item = make("li"), time = make("time", "", clock(change.unix_s));
    time.dateTime = new Date(change.unix_s * 1000).toISOString();
    const effects = [plural(change.members, "member")];
    if (change.came.length) effects.push(`+ ${change.came.join(", ")}`);
    if (change.went.length) effects.push(`− ${change.went.join(", ")}`);
    if (change.moved) effects.push(`${plural(change.moved, "slot")} with another primary`);
    if (!change.is_member) effects.push("this node is no member");
    item.append(time, make("span", "epoch", `epoch ${change.epoch}`), make("span", "cause", change.cause || "–"), make("span", "effects", effects.join(" · ")));
    return item;
  }));
  if (!last.changes.length) list.append(make("li", "quiet", "None yet."));
}

// --- what is wrong ---------------------------------------------------------------------------------------------

function drawFaults() {
  const list = $("faults"), told = [...last.reasons, ...last.lacking], key = JSON.stringify(told);
  list.hidden = !told.length;
  setAttribute(list, "class", last.ready ? "banner lacking" : "banner");
  if (list.dataset.shown === key) return;
  list.dataset.shown = key;
  list.replaceChildren(...told.map((sentence) => make("li", "", sentence)));
}

// --- the whole -------------------------------------------------------------------------------------------------

function draw() {
  const { node, cluster } = last;
  document.title = `${last.ready ? "" : "! "}${node.address} – kv-node`;
  setText($("address"), node.address);
  const facts = [`up for ${duration(last.time - node.started)}`, `process ${node.pid}`];
  if (last.slots) facts.push(`epoch ${cluster.epoch}`, last.whole ? "cluster whole" : "cluster not whole");
  if (cluster.is_member) facts.push(cluster.lease_s === null || cluster.lease_s > 0 ? "lease held" : "without a lease");
  if (cluster.is_member) facts.push(`${plural(cluster.reads, "slot")} open for reads, ${count(cluster.writes)} for writes`);
  if (cluster.closed) facts.push(`${plural(cluster.closed, "slot")} closed`);
  facts.push(`version ${node.version}`, node.policy, node.core === "compiled" ? "compiled core" : "plain Python");
  setText($("facts"), facts.join(" · "));
  setText($("ready"), last.ready ? "✓ ready" : "✕ not ready");
  $("ready").className = `badge ${last.ready ? "good" : "bad"}`;
  setText($("slow"), last.slow.threshold_ms === null ? " (off)" : ` (${count(last.slow.total)})`);
  drawFaults();
  drawRing();
  drawMembers();
  drawMemory();
  drawSpark("rate", last.history.rate, (value) => (value === null ? "–" : shortRate(value)), "requests per second");
  drawSpark("p99", last.history.p99_ms, milliseconds, "time within which 99 percent were answered");
  drawChanges();
}

async function refresh() {
  let isLost = false;
  clearTimeout(timer);
  try {
    const response = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    last = await response.json();
    lastAt = Date.now();
    $("lost").hidden = true;
    document.body.classList.remove("stale");
  } catch {
    isLost = true;
    const since = lastAt ? ` What is shown is from ${new Date(lastAt).toLocaleTimeString("en-GB")}.` : "";
    setText($("lost"), `This node does not answer.${since}`);
    $("lost").hidden = false;
    document.body.classList.add("stale");
    setText($("ready"), "✕ no answer");
    $("ready").className = "badge bad";
    document.title = "! no answer – kv-node";
  }
  setText($("updated"), paused ? "paused" : lastAt ? `as of ${new Date(lastAt).toLocaleTimeString("en-GB")}, each second anew` : "");
  clearTimeout(timer); // another refresh may have set it meanwhile
  if (!paused) timer = setTimeout(refresh, document.hidden ? HIDDEN_POLL_MS : POLL_MS);
  if (!isLost) draw(); // last: a fault in it shows in the console, and the next status is asked for all the same
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  setAttribute($("pause"), "aria-pressed", String(paused));
  setText($("pause"), paused ? "Go on" : "Pause");
  if (paused) { clearTimeout(timer); setText($("updated"), "paused"); } else refresh();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) refresh(); });
refresh();
