const byId = (id) => document.getElementById(id);

// Elements are only ever made with text nodes: no text of a token is read as markup.
function h(tag, attributes, ...children) {
  const svg = /^(svg|path|line|rect|g|text|circle|tspan)$/.test(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  for (const child of children.flat()) if (child !== null && child !== undefined) element.append(child);
  return element;
}

// ---- numbers and tokens as text
const MINUS = "\u2212";
function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "\u2013";
  const size = Math.abs(value);
  let text;
  if (size === 0) text = "0";
  else if (size >= 1e6 || size < 1e-3) text = value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace(/e\+?(-?)(\d+)/, (_, sign, power) => "\u00d710" + superscript(sign + power));
  else if (size >= 1000) text = Math.round(value).toLocaleString("en").replace(/,/g, "\u2009");
  else text = String(Number(value.toPrecision(digits)));
  return text.replace("-", MINUS);
}
const count = (value) => value.toLocaleString("en").replace(/,/g, "\u2009");
function superscript(text) { return [...String(text)].map((c) => c === "-" ? "\u207b" : "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[c]).join(""); }
function percent(share) {
  if (!(share > 0)) return "0 %";
  const p = 100 * share;
  return (p >= 10 ? p.toFixed(0) : p >= 1 ? p.toFixed(1) : p >= 0.001 ? String(Number(p.toPrecision(2))) : "< 0.001") + "\u202f%";
}
const HIDDEN = /[\n\r\t\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/;
function visible(character) {
  if (character === "\n") return "\u23ce";
  if (character === "\r") return "\u240d";
  if (character === "\t") return "\u21e5";
  const code = character.codePointAt(0);
  return code < 32 ? String.fromCharCode(0x2400 + code) : "\u25cc";
}
// A token's text as nodes: what would not be seen gets a faint mark; `spaces` marks blanks too.
function tokenNodes(text, spaces) {
  const nodes = [];
  let plain = "";
  for (const character of text) {
    const blank = spaces && (character === " " || character === "\u00a0");
    if (!blank && !HIDDEN.test(character)) { plain += character; continue; }
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(h("span", { class: "mark" }, blank ? "\u00b7" : visible(character)));
  }
  if (plain) nodes.push(plain);
  if (!nodes.length) nodes.push(h("span", { class: "mark" }, "\u2205"));
  return nodes;
}
const chip = (text) => h("span", { class: "chip", title: JSON.stringify(text) }, tokenNodes(text, true));

// ---- theme
const root = document.documentElement, themeButton = byId("theme");
function setTheme(dark) { root.dataset.theme = dark ? "dark" : "light"; themeButton.textContent = dark ? "Light" : "Dark"; }
const system = window.matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
try { chosen = localStorage.getItem("lapidary-theme"); } catch (_) { /* storage may be closed to files */ }
setTheme(chosen ? chosen === "dark" : system.matches);
system.addEventListener("change", (event) => { if (!chosen) setTheme(event.matches); });
themeButton.addEventListener("click", () => {
  chosen = root.dataset.theme === "dark" ? "light" : "dark";
  setTheme(chosen === "dark");
  try { localStorage.setItem("lapidary-theme", chosen); } catch (_) { /* as above */ }
});

// As many columns as fill the rows evenly, at most `most`.
const columns = (n, most) => String(Math.ceil(n / Math.ceil(n / most)) || 1);

// ---- firing density
// Draws how many latents fire how often into a card: `bins` of `width` in log10 density, the first one beginning at `first` * `width`,
// the last one ending at 1. Returns the bars as [from, element].
function drawDensity(card, bins, first, width10, pick) {
  const bars = [];
  const W = Math.max(320, Math.min(1300, card.clientWidth - 40)), H = 190, left = 8, right = 8, top = 22, bottom = 26, most = bins.reduce((a, b) => Math.max(a, b));
  const x = (log) => left + (log / width10 - first) / bins.length * (W - left - right), y = (n) => top + (1 - n / most) * (H - top - bottom);
  const svg = h("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Histogram of log10 firing density" });
  svg.append(h("line", { class: "grid-line", x1: left, x2: W - right, y1: H - bottom + .5, y2: H - bottom + .5 }));
  bins.forEach((n, at) => {
    const from = (at + first) * width10, gap = W > 700 ? 1.5 : .75, x0 = x(from) + gap, width = x(from + width10) - x(from) - 2 * gap;
    const label = h("text", { x: x0 + width / 2, y: y(n) - 6, "text-anchor": "middle", style: "font-size:12px" }, n && width > 22 ? count(n) : "");
    const group = h("g", { class: "bar-group" }, h("title", {}, `${count(n)} latents fire on ${percent(10 ** from)} to ${percent(10 ** (from + width10))} of tokens. Click to list them.`),
      h("rect", { class: "bar-rect", x: x0, y: y(n), width, height: H - bottom - y(n), rx: 2 }), label,
      h("rect", { class: "bar-hit", x: x0 - gap, y: top - 14, width: width + 2 * gap, height: H - top - bottom + 14 }));
    group.addEventListener("click", () => pick(from));
    bars.push([from, group]);
    svg.append(group);
  });
  for (let power = Math.ceil(first * width10); power <= 0; power++) {
    if (power === first * width10 && x(power + 1) - x(power) < 90) continue; // it would cover the next one
    svg.append(h("text", { x: x(power), y: H - 8, "text-anchor": power === 0 ? "end" : power === first * width10 ? "start" : "middle", style: "font-size:12px" }, power === 0 ? (W > 700 ? "every token" : "all") : "1 in " + (10 ** -power >= 1e6 ? count(10 ** (-power - 6)) + " M" : W < 700 && power <= -3 ? count(10 ** (-power - 3)) + " k" : count(10 ** -power))));
  }
  card.replaceChildren(svg);
  return bars;
}
const densityNote = (median, dead, all) => `share of tokens on which a latent is active, logarithmic \u00b7 median ${percent(median)} \u00b7 ` + (dead ? `${count(dead)} of ${count(all)} never fired` : `all ${count(all)} fired`);

// ---- parts of a feature's page
const BANDS = ["Strongest contexts", "Around the upper quartile", "Around the median", "Around the lower quartile"];
// Tokens with a bar each: [text, what stands behind the bar, its long form, length of the bar from 0 to 1].
function tokenList(title, kind, tokens) {
  return h("div", { class: kind }, h("h3", {}, title), tokens.length ? tokens.map(([token, figure, hint, share]) => h("div", { class: "token-row" }, chip(token),
    h("span", { class: "track" }, h("i", { style: `width:${(100 * Math.max(0, Math.min(1, share))).toFixed(1)}%` })), h("span", { class: "figure num", title: hint }, figure))) : h("p", { class: "note" }, "none"));
}
// Logits as such tokens; `size` is the largest of all, and bars are of logits of this sign.
const logitTokens = (tokens, size, sign) => tokens.map(([token, logit]) => [token, number(logit), "added to the logit by one unit of activation", sign * logit / size]);
function ruler(max, q) {
  const x = (value) => max > 0 ? (1000 * value / max).toFixed(1) : 0;
  const tick = (value, kind) => h("line", { class: kind, x1: x(value), x2: x(value), y1: 3, y2: 17, "vector-effect": "non-scaling-stroke" });
  const svg = h("svg", { viewBox: "0 0 1000 20", preserveAspectRatio: "none", role: "img", "aria-label": "Quantiles of the activation" },
    h("line", { class: "axis", x1: 0, x2: 1000, y1: 10, y2: 10, "vector-effect": "non-scaling-stroke" }), h("rect", { class: "box", x: x(q[0]), width: Math.max(0, x(q[2]) - x(q[0])), y: 4, height: 12, rx: 2 }),
    tick(q[3], "tick"), tick(q[4], "tick"), tick(max, "tick"), tick(q[1], "median"));
  const names = ["25 %", "median", "75 %", "90 %", "99 %"];
  return h("div", { class: "ruler" }, h("h3", {}, "Activation where it fires"), svg, h("dl", { class: "quantiles num" }, names.map((name, i) => h("div", {}, h("dt", {}, name), h("dd", {}, number(q[i])))), h("div", {}, h("dt", {}, "max"), h("dd", {}, number(max)))));
}
// The text of a context, or of any tokens: shaded by activation, up to `scale`; `peak` is the place of the underlined token, and
// `made` sees each token's element.
function shadedText(tokens, activations, scale, peak, made) {
  const text = h("div", { class: "text" });
  tokens.forEach((token, place) => {
    const value = activations[place] || 0;
    // A leading blank stays outside the shading, where a line can break cleanly.
    const blank = token.length > 1 && token[0] === " " && token.trim() ? " " : "";
    if (blank && place > 0) text.append(blank);
    const shade = value > 0 ? 0.08 + 0.72 * Math.min(1, value / (scale || 1)) : 0;
    const style = shade ? `background:rgba(var(--gold),${shade.toFixed(3)})` : null;
    const element = h("span", { class: "t" + (shade > 0.6 ? " strong" : "") + (place === peak ? " top" : ""), style, title: `${JSON.stringify(token)}  ${value > 0 ? number(value) : "0"}` }, tokenNodes(blank ? token.slice(1) : token, false));
    if (made) made(element, place);
    text.append(element);
  });
  return text;
}
function contextRow(text, peak, doc, position) {
  return h("div", { class: "context" }, h("span", { class: "peak num" }, number(peak)), text, h("span", { class: "place num", title: `document ${doc}, token ${position}` }, `${doc}\u2009:\u2009${position}`));
}

// ---- windows of tokens: numbers in a table of texts, of so many base-64 digits each
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const digitOf = Object.fromEntries([...ALPHABET].map((c, i) => [c, i]));
function decodeTokens(text, tokens, digits) {
  const out = [];
  for (let at = 0; at < text.length; at += digits) {
    let place = 0;
    for (let digit = 0; digit < digits; digit++) place = place * 64 + digitOf[text[at + digit]];
    out.push(tokens[place]);
  }
  return out;
}

// ---- labels and other latents; what a latent is about: its label, else the usual token at its peaks
const aboutNodes = (it) => it.label !== null ? h("span", { class: "short", title: it.label }, tokenNodes(it.label.trim(), false)) : it.peak !== null ? chip(it.peak) : h("span", { class: "mark" }, "no firing");
function relatedList(title, hint, items, figure) {
  const most = items.length ? Math.max(...items.map((it) => Math.abs(figure(it)))) : 1;
  return h("div", { class: "up" }, h("h3", { title: hint }, title), items.length ? items.map((it) => h("a", { class: "token-row related", href: "#feature=" + it.id }, h("span", { class: "who" }, h("b", { class: "num" }, String(it.id)), aboutNodes(it)),
    h("span", { class: "track" }, h("i", { style: `width:${(100 * Math.max(0, figure(it)) / (most || 1)).toFixed(1)}%` })), h("span", { class: "figure num" }, number(figure(it))))) : h("p", { class: "note" }, "none"));
}
// How many tokens have which activation; the axis is logarithmic, as the bins are.
function activationChart(bins) {
  const W = Math.max(280, byId("detail").clientWidth), H = 120, bottom = 18, low = Math.log2(bins[0][0]), high = Math.log2(bins[bins.length - 1][1]);
  if (!Number.isFinite(low) || !(high > low)) return null;
  const x = (value) => (Math.log2(value) - low) / (high - low) * W, most = bins.reduce((a, bin) => Math.max(a, bin[2]), 1);
  const svg = h("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Histogram of the activation" }, h("line", { class: "grid-line", x1: 0, x2: W, y1: H - bottom + .5, y2: H - bottom + .5 }));
  for (const [from, to, n] of bins) {
    const height = Math.max(1.5, n / most * (H - bottom - 4));
    svg.append(h("g", { class: "bar-group" }, h("title", {}, `${count(n)} tokens with an activation of ${number(from)} to ${number(to)}`), h("rect", { class: "bar-rect", x: x(from) + 1, y: H - bottom - height, width: Math.max(1, x(to) - x(from) - 2), height, rx: 1.5 })));
  }
  // Powers of two that are far enough apart to be read.
  const step = Math.max(1, Math.ceil((high - low) / (W / 64)));
  for (let power = Math.ceil(low); power <= high; power += step) svg.append(h("text", { x: x(2 ** power), y: H - 3, "text-anchor": x(2 ** power) < 30 ? "start" : x(2 ** power) > W - 30 ? "end" : "middle", style: "font-size:12px" }, number(2 ** power)));
  return h("div", { class: "activation-chart" }, h("h3", {}, "Tokens by activation, logarithmic"), svg);
}
function labelLines(labels) {
  const score = (name, value) => value === null ? null : `${name} ${number(value, 2)}`;
  return labels.map((label) => h("div", { class: "label-line" }, h("span", { class: "name" }, tokenNodes(label.label.trim(), false)),
    h("span", { class: "note num", title: "Scores of the label on other documents; 0.5 is chance" }, [score("detection", label.detection), score("fuzzing", label.fuzzing), score("clamping", label.clamping), label.method].filter(Boolean).join(" \u00b7 "))));
}
const relatedLists = (coactive, similar) => [coactive ? relatedList("Fires together with", "Correlation (phi) of the two firings", coactive, (it) => it.phi) : null, similar ? relatedList("Similar decoder row", "Cosine of the decoder rows", similar, (it) => it.cosine) : null].filter(Boolean);
