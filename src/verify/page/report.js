// Draws the map of a report and shows the cell that is asked for. The verdict, the sentence and every
// table stand in the page already; this reads the report from its JSON (src/verify/report_json.c).
"use strict";

(() => {
const report = JSON.parse(document.getElementById("report").textContent);
const WORST = "";  // of the prompt selector
// Upper ends of the shades: error / bound. The first six are within the bound.
const SHADES = [["p0", 1e-3], ["p1", 1e-2], ["p2", 0.03], ["p3", 0.1], ["p4", 0.3], ["p5", 1],
                ["f0", 3], ["f1", 10], ["f2", 1e2], ["f3", 1e4], ["f4", 1e8], ["f5", Infinity]];
const BEFORE_LAYERS = ["embd"], AFTER_LAYERS = ["norm", "logits", "probs", "token"];
const KINDS = ["embd", "attn_norm", "q", "k", "v", "q_norm", "k_norm", "q_rope", "k_rope", "k_cache",
               "v_cache", "kq", "kq_soft_max", "attn", "attn_out", "ffn_inp", "ffn_norm", "ffn_gate",
               "ffn_up", "ffn_act", "ffn_out", "l_out", "norm", "logits", "probs", "token"];
const MEASURES = {element: "one element", NMSE: "NMSE of the row and head", bias: "bias, in standard errors",
                  bits: "equality of bits", sum: "sum of the weights", "not finite": "not finite",
                  shape: "width of the array"};

// --- small things -------------------------------------------------------------------------------

// make("p", {class: "hint"}, "text", node, ...): text is never taken for markup.
function make(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) e.setAttribute(name, value);
  }
  e.append(...children.filter(c => c !== null && c !== undefined));
  return e;
}

// As the terminal writes numbers (number_text in src/verify/report_words.c).
function number(x, digits = 3) {
  const size = Math.abs(x);
  if (size >= (digits > 2 ? 1000 : 100) && size < 9999.5) return x.toFixed(0);
  if (size === 0 || (size >= 1e-4 && size < 1000)) return String(Number(x.toPrecision(digits)));
  const [mantissa, exponent] = x.toExponential(digits - 1).split("e");
  return Number(mantissa) + "e" + Number(exponent);
}
const ratioText = x => number(x, 2);

// What fits into a cell.
function short(ratio) {
  if (ratio === 0) return "0";
  if (ratio < 0.001) return "\u2264.001";
  if (ratio < 1) return ratio.toPrecision(ratio < 0.01 ? 1 : 2).replace(/^0/, "");
  return ratio < 9.95 ? ratio.toFixed(1) : ratio < 999.5 ? ratio.toFixed(0) : number(ratio, 1);
}

function shade(row) {
  if (row.outcome === "skipped") return "skipped";
  const of = row.outcome === "fail" ? Math.max(row.ratio, 1.0001) : Math.min(row.ratio, 1);
  return SHADES.find(([, upTo]) => of <= upTo)[0];
}

function worse(a, b) {
  const rank = row => row.outcome === "fail" ? 3 : row.outcome === "skipped" ? 0 : row.equivalent ? 1 : 2;
  if (rank(a) !== rank(b)) return rank(a) > rank(b);
  return a.ratio > b.ratio;
}

const shell = s => /^[\w./:=,@%+-]+$/.test(s) ? s : "'" + s.replace(/'/g, "'\\''") + "'";

// --- the rows, by component ---------------------------------------------------------------------

const byName = new Map();  // "blk.0.q" -> rows, one a prompt
const kindsSeen = new Set();
let nLayers = report.n_layers;
for (const row of report.components) {
  row.kind = row.layer < 0 ? row.component : row.component.slice(row.component.lastIndexOf(".") + 1);
  kindsSeen.add(row.kind);
  nLayers = Math.max(nLayers, row.layer + 1);
  if (!byName.has(row.component)) byName.set(row.component, []);
  byName.get(row.component).push(row);
}
const nameOf = (kind, layer) => layer < 0 ? kind : `blk.${layer}.${kind}`;

function rowOf(name, prompt) {
  const rows = byName.get(name);
  if (!rows) return null;
  if (prompt !== WORST) return rows.find(r => r.prompt === prompt) || null;
  return rows.reduce((a, b) => worse(b, a) ? b : a);
}

// --- the map ------------------------------------------------------------------------------------

const tables = document.getElementById("tables");
const panel = document.getElementById("panel");
const select = document.getElementById("prompt");
let grid = [];      // rows of buttons or null, for the arrow keys
let current = null;  // the cell whose details are shown

function drawCell(name) {
  const row = rowOf(name, select.value);
  if (!row) {
    return [make("td", {class: "none"}, make("span", {"aria-hidden": "true"}, "\u00b7"),
                 make("span", {class: "sr"}, `${name}: not captured`)), null];
  }
  const fails = row.outcome === "fail", skipped = row.outcome === "skipped";
  const label = skipped ? `${name}: skipped` : `${name}: ratio ${ratioText(row.ratio)}, ${row.outcome}` +
                (row.equivalent ? ", a harmless difference" : "");
  const button = make("button", {type: "button", class: `cell ${shade(row)} ${row.outcome}`, "aria-label": label,
                                 title: label, "aria-pressed": "false", "data-name": name,
                                 tabindex: fails ? "0" : "-1"},
                      skipped ? "\u2013" : row.equivalent ? "\u2248" : (fails ? "\u2715" : "") + short(row.ratio));
  return [make("td", null, button), button];
}

function drawTable(caption, kinds, layers) {
  const head = make("tr", null, make("td"));
  for (const kind of kinds) {
    head.append(make("th", {scope: "col"}, make("div", {class: "stand"}, kind)));
  }
  const body = make("tbody");
  for (const layer of layers) {
    const line = make("tr", null, make("th", {scope: "row"}, layer < 0 ? "" : String(layer)));
    const buttons = [];
    for (const kind of kinds) {
      const [cell, button] = drawCell(nameOf(kind, layer));
      line.append(cell);
      buttons.push(button);
    }
    body.append(line);
    grid.push(buttons);
  }
  return make("div", {class: "part"}, make("p", {class: "hint", "aria-hidden": "true"}, caption),
              make("table", null, make("caption", {class: "sr"}, caption), make("thead", null, head), body));
}

function drawMap() {
  const inLayers = KINDS.filter(k => !BEFORE_LAYERS.includes(k) && !AFTER_LAYERS.includes(k) && kindsSeen.has(k));
  const before = BEFORE_LAYERS.filter(k => kindsSeen.has(k)), after = AFTER_LAYERS.filter(k => kindsSeen.has(k));
  grid = [];
  tables.replaceChildren();
  if (before.length) tables.append(drawTable("Input", before, [-1]));
  if (inLayers.length) tables.append(drawTable("Layers, from the first down", inLayers, [...Array(nLayers).keys()]));
  if (after.length) tables.append(drawTable("Output", after, [-1]));
  const buttons = grid.flat().filter(Boolean);
  if (!buttons.length) tables.append(make("p", {class: "hint"}, "No component was captured for this prompt."));
  else if (!buttons.some(b => b.tabIndex === 0)) buttons[0].tabIndex = 0;
  mark();
}

const buttonOf = name => grid.flat().find(b => b && b.dataset.name === name) || null;

function mark() {
  for (const b of grid.flat()) {
    if (b) b.setAttribute("aria-pressed", String(b.dataset.name === current));
  }
}

// Arrow keys go over what was not captured; Home and End to the ends of a row.
function move(event) {
  const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
  const from = event.target.closest("button.cell");
  if (!from || (!step && event.key !== "Home" && event.key !== "End")) return;
  const row = grid.findIndex(buttons => buttons.includes(from)), column = grid[row].indexOf(from);
  let to = null;
  if (!step) {
    const there = grid[row].filter(Boolean);
    to = event.key === "Home" ? there[0] : there[there.length - 1];
  } else if (step[0]) {
    for (let r = row + step[0]; !to && r >= 0 && r < grid.length; r += step[0]) {
      to = grid[r][Math.min(column, grid[r].length - 1)];
    }
  } else {
    for (let c = column + step[1]; !to && c >= 0 && c < grid[row].length; c += step[1]) to = grid[row][c];
  }
  event.preventDefault();
  if (!to) return;
  if (!from.classList.contains("fail")) from.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

// --- details ------------------------------------------------------------------------------------

function numbers(row) {
  const list = make("dl", {class: "numbers"});
  const add = (name, value) => list.append(make("dt", null, name), make("dd", null, value));
  add("error / bound", ratioText(row.ratio));
  add("decided by", MEASURES[row.measure] || row.measure);
  if (row.measure !== "not finite" && row.measure !== "shape") {
    add("error", number(row.error));
    add("bound", row.error_bound === 0 ? "0: equal to the bit" : number(row.error_bound));
  }
  if (row.measure !== "NMSE") {
    add("NMSE", number(row.nmse));
    add("its bound", number(row.bound));
  }
  const rows = row.heads > 1 ? row.cells / row.heads : row.cells;
  add("looked at", `${rows} token${rows === 1 ? "" : "s"}` + (row.heads > 1 ? ` \u00d7 ${row.heads} heads` : ""));
  if (row.failing) add("of which fail", String(row.failing));
  if (row.outcome === "fail" && (row.first_bad_token !== row.token || row.first_bad_head !== row.head)) {
    add("first to fail", place(row.first_bad_token, row.first_bad_head, null));
  }
  if ("drift" in row) add("drift along the chain", "NMSE " + number(row.drift));
  return list;
}

function place(token, head, prompt) {
  return `token ${token}` + (head === null ? "" : `, head ${head}`) + (prompt ? `, prompt ${prompt}` : "");
}

function cause(row) {
  const out = [make("h4", null, "Cause")];
  const ifSo = fit => make("span", {class: "hint"},
                           ` NMSE ${number(fit.nmse)}, error / bound ${ratioText(fit.ratio)} if so`);
  if (row.certainty === "certain") {
    out.push(make("p", {class: "cause"}, row.fits[0].text), make("p", null, ifSo(row.fits[0])));
  } else if (row.certainty === "ambiguous") {
    out.push(make("p", {class: "cause"}, "One of these; each fits within the bounds:"));
    out.push(make("ul", null, ...row.fits.map(f => make("li", null, f.text, ifSo(f)))));
    if (row.apart) out.push(make("p", null, "Told apart by " + row.apart));
  } else if (row.certainty === "unknown") {
    out.push(make("p", {class: "cause"}, "Unknown: none of the known faults explains it."));
  } else {
    out.push(make("p", null, "Not looked for: too many components fail before this one."));
  }
  if (row.pattern) out.push(make("h4", null, "Pattern"), make("p", null, row.pattern));
  return out;
}

function remarks(row) {
  const out = [];
  if (row.equivalent) out.push(make("h4", null, "Harmless difference"), make("p", null, row.equivalent));
  if (row.coarse) {
    out.push(make("h4", null, "Coarse"),
             make("p", null, `What it reads was recomputed from ${row.since} on, not taken from what was captured.`));
  }
  if (row.rounding) out.push(make("h4", null, "Rounding"), make("p", null, `What it reads is rounded as ${row.rounding}.`));
  return out;
}

// Bytes as src/verify/report_json.c packs them: 85 is the last that passes; 0: not looked at.
function miniMap(row) {
  const r = row.ratios;
  if (!r) return [];
  const bytes = atob(r.log), tokens = report.token_lists[r.tokens];
  const head = make("tr", null, make("td"));
  for (let h = 0; h < r.heads; h++) head.append(make("th", {scope: "col"}, make("span", {class: "sr"}, `head ${h}`)));
  const body = make("tbody");
  for (let i = 0; i < r.rows; i++) {
    const token = tokens ? tokens[i] : i;
    const line = make("tr", null, make("th", {scope: "row"}, String(token)));
    for (let h = 0; h < r.heads; h++) {
      const code = bytes.charCodeAt(i * r.heads + h), ratio = 10 ** ((code - 85) / 14), fails = code > 85;
      const kind = code ? shade({outcome: fails ? "fail" : "pass", ratio}) : "skipped";
      const says = `token ${token}${r.heads > 1 ? `, head ${h}` : ""}: ${code ? "ratio " + ratioText(ratio) : "not looked at"}${fails ? ", fail" : ""}`;
      line.append(make("td", {class: kind, title: says, "aria-label": says}, fails ? "\u2715" : ""));
    }
    body.append(line);
  }
  const more = r.rows * r.heads < row.cells ? ", several tokens or heads taken together: the worst of them" : "";
  return [make("h4", null, r.heads > 1 ? "Tokens (down) and heads (across)" : "Tokens"),
          make("div", {class: "mini", role: "region", tabindex: "0", "aria-label": "Ratios of rows and heads" + more},
               make("table", null, make("thead", null, head), body))];
}

function otherPrompts(row) {
  const rows = byName.get(row.component);
  if (rows.length < 2) return [];
  const list = make("ul", {class: "prompts-list"});
  for (const r of rows) {
    const button = make("button", {type: "button", class: "plain", "aria-current": r === row ? "true" : null},
                        make("span", {class: `tag ${r.outcome}`}, r.outcome), r.prompt || "(no name)",
                        make("span", {class: "ratio"}, ratioText(r.ratio)));
    button.addEventListener("click", () => show(r, true));
    list.append(make("li", null, button));
  }
  return [make("h4", null, "On each prompt"), list];
}

function boundOf(row) {
  const line = [...document.querySelectorAll("[data-components]")]
    .find(tr => tr.dataset.components.split(" ").includes(row.kind));
  if (!line) return [];
  const [each, all, why] = [...line.querySelectorAll("td")].map(td => td.textContent);
  return [make("h4", null, "Bound"), make("p", null, each), all === "-" ? null : make("p", null, all),
          make("p", {class: "hint"}, why)];
}

function reproduce(row) {
  const out = [];
  if (report.command) out.push(make("pre", null, make("code", null, report.command)));
  const prompt = report.prompts.find(p => p.name === row.prompt);
  if (prompt && prompt.tokens.length && prompt.tokens.length <= 64 && report.model) {
    out.push(make("p", {class: "hint"}, "What Plumb computes for it, to hold beside yours:"),
             make("pre", null, make("code", null, `plumb trace -m ${shell(report.model)} --tokens "${prompt.tokens.join(",")}" --components ${row.kind} -o right.gguf`)));
  }
  return out.length ? [make("h4", null, "To reproduce it"), ...out] : [];
}

function show(row, focus) {
  const back = make("button", {type: "button", class: "plain back"}, "Back to the map");
  back.addEventListener("click", leave);
  const title = make("h3", {tabindex: "-1"}, row.component);
  current = row.component;
  panel.replaceChildren(...[
    focus ? back : null, title, make("span", {class: `tag ${row.outcome}`}, row.outcome),
    make("p", {class: "where"}, row.outcome === "skipped" ? "not looked at" :
         (row.outcome === "fail" ? "worst at " : "nearest to its bound at ") + place(row.token, row.head, row.prompt)),
    row.outcome === "skipped" ? null : numbers(row),
    ...(row.outcome === "fail" ? cause(row) : []), ...remarks(row), ...miniMap(row), ...otherPrompts(row),
    ...boundOf(row), ...reproduce(row)].filter(Boolean));
  panel.setAttribute("aria-label", `Details of ${row.component}`);
  panel.scrollTop = 0;
  mark();
  if (!focus) return;
  title.focus({preventScroll: true});
  const box = title.getBoundingClientRect();
  if (box.top < 0 || box.bottom > innerHeight) panel.scrollIntoView({block: "start"});
}

function leave() {
  const button = buttonOf(current);
  if (button) button.focus();
}

// --- start --------------------------------------------------------------------------------------

function legend() {
  const scale = make("span", {class: "scale"});
  for (const [name, upTo] of SHADES) {
    scale.append(make("i", {class: name + (name === "f0" ? " mid" : ""), title: `up to ${upTo}`}));
  }
  document.getElementById("legend").append("\u2264 0.001", scale, "> 1e8", make("span", null, "bar: 1, the bound"),
                                           make("span", null, "\u2715 fails"), make("span", null, "\u00b7 not captured"));
}

function choosePrompt() {
  const prompt = report.prompts.find(p => p.name === select.value && select.value !== WORST);
  const what = document.getElementById("prompt-what");
  what.textContent = prompt ? `${prompt.tokens.length} token${prompt.tokens.length === 1 ? "" : "s"}${prompt.what ? ": " + prompt.what : ""}` : "";
  drawMap();
}

function start() {
  const named = report.prompts.filter(p => p.name);
  select.append(make("option", {value: WORST}, "the worst of all"));
  if (named.length > 1 && !report.worst_only) {
    for (const p of named) select.append(make("option", {value: p.name}, p.name));
  } else {
    document.getElementById("prompt-label").hidden = true;
  }
  select.value = WORST;
  select.addEventListener("change", choosePrompt);
  tables.addEventListener("click", event => {
    const button = event.target.closest("button.cell");
    if (button) show(rowOf(button.dataset.name, select.value), true);
  });
  tables.addEventListener("keydown", move);
  panel.addEventListener("keydown", event => {
    if (event.key === "Escape") leave();
  });
  let opened = [];  // what is folded is printed too
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const d of opened) d.open = true;
  });
  addEventListener("afterprint", () => opened.forEach(d => { d.open = false; }));
  legend();
  choosePrompt();
  const f = report.first_component;
  const first = f ? byName.get(f.component).find(r => r.prompt === f.prompt) || rowOf(f.component, WORST)
                  : [...byName.values()].flat().reduce((a, b) => !a || worse(b, a) ? b : a, null);
  if (first) show(first, false);
  else panel.append(make("p", {class: "hint"}, "No component was checked."));
  document.getElementById("no-script").hidden = true;
  document.getElementById("map-body").hidden = false;
}

start();
})();
