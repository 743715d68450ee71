// Draws the page from the numbers that lie inside it. Every sum shown here is added up here, and
// compared with what the network itself made.
"use strict";
(async () => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const MINUS = "−";
  const fix = (v, n = 3) => (v < 0 && Number(v.toFixed(n)) !== 0 ? MINUS : "") + Math.abs(v).toFixed(n);
  const plain = (v) => (v !== 0 && Math.abs(v) < 5e-4 ? v.toExponential(0).replace("-", MINUS).replace("e-", "e" + MINUS) : fix(v, Math.abs(v) >= 100 ? 1 : 3));
  const percent = (v, n = 0) => `${(100 * v).toFixed(n)} %`;
  const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

  function el(tag, given = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(given)) {
      if (name === "class") made.className = value;
      else if (name === "style") Object.assign(made.style, value);
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== false && value !== undefined) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  async function unpack(text, Kind) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Kind(await new Response(stream).arrayBuffer());
  }

  const I = D.image, F = D.first, k = F.kernel, C = F.channels, side = I.side;
  const [values, weights, maps, stored] = await Promise.all([
    unpack(I.values, Uint8Array), unpack(F.weights, Float32Array), unpack(F.maps, Float32Array),
    F.given ? unpack(F.given, Float32Array) : null,
  ]);
  const ratio = side / I.size; // 1, unless the graph enlarges its images
  const NAMES = C === 3 ? ["red", "green", "blue"] : [...Array(C).keys()].map((c) => `channel ${c}`);
  const SHOWN = I.channels === 3 ? ["red", "green", "blue"] : ["grey"];

  const value = (y, x, c) => values[(y * I.size + x) * I.channels + (I.channels === 1 ? 0 : c)];
  // what the first convolution gets at (y, x); null outside, where zeros are padded
  function given(c, y, x) {
    if (y < 0 || x < 0 || y >= side || x >= side) return null;
    if (stored) return stored[(c * side + y) * side + x];
    return (value(y, x, c) - F.mean[c]) / F.spread[c];
  }

  // ---- colours -----------------------------------------------------------------------------
  const SIGNED = [[8, 20, 92], [42, 92, 190], [128, 128, 128], [238, 150, 48], [255, 240, 176]];
  function signed(share) {
    const place = clamp((share + 1) / 2, 0, 1) * 4, low = Math.min(3, Math.floor(place)), part = place - low;
    return SIGNED[low].map((v, c) => Math.round(v + part * (SIGNED[low + 1][c] - v)));
  }
  const dark = ([r, g, b]) => 0.2126 * (r / 255) ** 2.2 + 0.7152 * (g / 255) ** 2.2 + 0.0722 * (b / 255) ** 2.2 < 0.18;
  const paint = (rgb) => ({ background: `rgb(${rgb})`, color: dark(rgb) ? "#fff" : "#000" });
  const fill = (name, text) => document.querySelectorAll(`[data-fill="${name}"]`).forEach((n) => { n.textContent = text; });
  const reveal = (name) => document.querySelectorAll(`[data-only="${name}"]`).forEach((n) => { n.hidden = false; });

  function table(caption, rows, paintOf, textOf) {
    return el("table", { class: "num" }, el("caption", {}, caption),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((v) =>
        v === null ? el("td", { class: "pad", title: "outside the image: padded with 0" }, "0") : el("td", { style: paintOf(v) }, textOf(v)))))));
  }
  function canvas(width, height, colour, name) {
    const made = el("canvas", { width, height, role: "img", "aria-label": name });
    const context = made.getContext("2d"), data = context.createImageData(width, height);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) data.data.set([...colour(y, x), 255], 4 * (y * width + x));
    context.putImageData(data, 0, 0);
    return made;
  }
  const place = (node, top, left, height, width, whole) => Object.assign(node.style, {
    top: `${100 * top / whole}%`, left: `${100 * left / whole}%`, height: `${100 * height / whole}%`, width: `${100 * width / whole}%` });
  // pointer and arrow keys on a picture: `go` gets shares of the side, `step` whole steps
  function steer(node, go, step) {
    const at = (event) => { const box = node.getBoundingClientRect(); go((event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width); };
    node.addEventListener("pointerdown", (event) => { node.setPointerCapture(event.pointerId); at(event); });
    node.addEventListener("pointermove", (event) => { if (event.buttons) at(event); });
    node.addEventListener("keydown", (event) => {
      const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (by) { event.preventDefault(); step(by[0] * (event.shiftKey ? 8 : 1), by[1] * (event.shiftKey ? 8 : 1)); }
    });
  }
  const ready = (good, yes, no) => el("span", { class: good ? "ok" : "bad" }, good ? `✓ ${yes}` : `✗ ${no}`);

  // ---- state: one place in the first map, and the loupe over it ------------------------------
  const OWN = [["blur: the mean of the patch", () => 1 / (k * k)],
    ["edges that run up and down", (_y, x) => Math.sign(x - (k - 1) / 2) / k],
    ["edges that run left to right", (y) => Math.sign(y - (k - 1) / 2) / k],
    ["spots: the middle less its surroundings", (y, x) => (y === k >> 1 && x === k >> 1 ? 1 : 0) - 1 / (k * k)]];
  const loupe = { y: clamp(I.best[0], 0, I.size - 8), x: clamp(I.best[1], 0, I.size - 8) };
  const unit = { y: 0, x: 0 };
  let chosen = F.kept.includes(F.best) ? F.best : F.kept[0];
  const own = () => chosen < 0;
  const weight = (c, y, x) => own() ? OWN[-1 - chosen][1](y, x) / C : weights[((chosen * C + c) * k + y) * k + x];
  const bias = () => (own() || !F.bias ? 0 : F.bias[chosen]);
  const reach = () => own() ? Math.max(...[...Array(k * k).keys()].map((n) => Math.abs(weight(0, Math.floor(n / k), n % k)))) : F.reach[chosen];
  const corner = () => [unit.y * F.stride - F.padding, unit.x * F.stride - F.padding];

  function convolve(y, x) {
    const top = y * F.stride - F.padding, left = x * F.stride - F.padding;
    let sum = bias(), size = Math.abs(sum);
    for (let c = 0; c < C; c++) for (let i = 0; i < k; i++) for (let j = 0; j < k; j++) {
      const product = (given(c, top + i, left + j) ?? 0) * weight(c, i, j);
      sum += product; size += Math.abs(product);
    }
    return [sum, size];
  }
  let ownMap = null;
  function mapValue(y, x) {
    if (own()) return ownMap[y * F.side + x];
    return maps[(F.kept.indexOf(chosen) * F.side + y) * F.side + x];
  }
  function fromLoupe() {
    for (const a of ["y", "x"]) unit[a] = clamp(Math.round(((loupe[a] + 4) * ratio - k / 2 + F.padding) / F.stride), 0, F.side - 1);
  }
  function fromUnit() {
    const at = corner();
    ["y", "x"].forEach((a, n) => { loupe[a] = clamp(Math.round((at[n] + k / 2) / ratio - 4), 0, I.size - 8); });
  }

  // ---- 1 numbers ---------------------------------------------------------------------------
  const loupeFrame = el("span", { class: "frame hot" });
  function drawNumbers() {
    place(loupeFrame, loupe.y, loupe.x, 8, 8, I.size);
    const rows = (c) => [...Array(8).keys()].map((i) => [...Array(8).keys()].map((j) => value(loupe.y + i, loupe.x + j, c)));
    const tint = (c) => (v) => paint(SHOWN.length === 1 ? [v, v, v] : [0, 1, 2].map((n) => (n === c ? v : Math.round(v * 0.22))));
    const under = (y, x) => [0, 1, 2].map((c) => value(loupe.y + y, loupe.x + x, c));
    $("values").replaceChildren(el("figure", { class: "under" }, canvas(8, 8, under, "the pixels under the loupe"), el("figcaption", {}, "under the loupe")),
      ...SHOWN.map((name, c) => table(name, rows(c), tint(c), String)));
    const all = SHOWN.map((_, c) => rows(c).flat());
    $("loupe-says").textContent = `Rows ${loupe.y}–${loupe.y + 7}, columns ${loupe.x}–${loupe.x + 7}. ` +
      all.map((v, c) => `${SHOWN[c]} ${Math.min(...v)} to ${Math.max(...v)}`).join(", ") + ".";
  }

  // ---- 2 one convolution -------------------------------------------------------------------
  const closeFrame = el("span", { class: "frame hot" }), mapSpot = el("span", { class: "spot" });
  const around = Math.max(10, k + 6);
  function drawClose() {
    const at = corner(), top = at[0] - ((around - k) >> 1), left = at[1] - ((around - k) >> 1);
    const shown = (y, x) => [0, 1, 2].map((c) => (y < 0 || x < 0 || y >= side || x >= side ? 60 : value(Math.floor(y / ratio), Math.floor(x / ratio), c)));
    $("close").replaceChildren(canvas(around, around, (y, x) => shown(top + y, left + x), "close up"), closeFrame);
    place(closeFrame, at[0] - top, at[1] - left, k, k, around);
  }
  function drawMap() {
    if (own()) {
      ownMap = new Float32Array(F.side ** 2);
      for (let n = 0; n < ownMap.length; n++) ownMap[n] = convolve(Math.floor(n / F.side), n % F.side)[0];
    }
    const sizes = Float64Array.from({ length: F.side ** 2 }, (_, n) => Math.abs(mapValue(Math.floor(n / F.side), n % F.side))).sort();
    const most_ = sizes[sizes.length - 1], limit = Math.max(1e-12, own() ? sizes[Math.floor(0.995 * sizes.length)] || most_ : Math.max(F.limits[chosen], Math.max(...F.limits) / 1000));
    $("map").replaceChildren(canvas(F.side, F.side, (y, x) => signed(mapValue(y, x) / limit), "feature map"), mapSpot);
    const most = reach();
    // three equal channels: only the sum of the three tables counts
    const grey = I.channels === 1 || C !== 3, level = (v, top) => Math.round(127.5 + 127.5 * clamp(v / top, -1, 1));
    const mean = (y, x) => [...Array(C).keys()].reduce((sum, c) => sum + weight(c, y, x), 0) / C;
    const top = Math.max(1e-12, ...[...Array(k * k).keys()].map((n) => Math.abs(mean(Math.floor(n / k), n % k))));
    $("kernel").replaceChildren(canvas(k, k, (y, x) => (grey ? Array(3).fill(level(mean(y, x), top)) : [0, 1, 2].map((c) => level(weight(c, y, x), most))), "filter"));
    const total = [...Array(C * k * k).keys()].reduce((sum, n) => sum + weight(Math.floor(n / k / k), Math.floor(n / k) % k, n % k), 0);
    fill("kernelSays", `The filter, ${k} × ${k} for each of ${C} channels. Middle grey is 0; the largest weight is ${plain(most)}.${grey ? " The picture is grey, so the tables act together: shown is their mean." : ""} All weights add up to ${plain(total)}.`);
    fill("mapSays", `The map that it makes, ${F.side} × ${F.side}: blue below 0, grey 0, yellow above; full colour at ${plain(limit)}, the strongest half per cent reaches ${plain(most_)}. Click a place.`);
  }
  const line = (c) => {
    const at = corner(), span = [...Array(k).keys()], most = reach();
    const patch = span.map((i) => span.map((j) => given(c, at[0] + i, at[1] + j)));
    const own_ = span.map((i) => span.map((j) => weight(c, i, j)));
    const products = span.map((i) => span.map((j) => (patch[i][j] ?? 0) * own_[i][j]));
    const sum = products.flat().reduce((a, b) => a + b, 0);
    const digits = k > 5 ? 1 : 2;
    const toned = (limit) => (v) => paint(signed(v / limit));
    const peak = Math.max(1e-9, ...products.flat().map(Math.abs));
    return [sum, el("div", { class: "line" },
      table(`${NAMES[c]}, normalised`, patch, toned(2.2), (v) => fix(v, digits)), el("span", { class: "op" }, "×"),
      table("weights", own_, toned(most), (v) => fix(v, 2)), el("span", { class: "op" }, "="),
      table("products", products, toned(peak), (v) => fix(v, digits)), el("span", { class: "op" }, "→"), el("strong", {}, `sum ${fix(sum)}`))];
  };
  function drawHand() {
    const lines = [...Array(C).keys()].map(line), [sum, size] = convolve(unit.y, unit.x), theirs = mapValue(unit.y, unit.x);
    $("hand").replaceChildren(...lines.map(([, node]) => node));
    Object.assign(mapSpot.style, { top: `${100 * (unit.y + 0.5) / F.side}%`, left: `${100 * (unit.x + 0.5) / F.side}%` });
    const parts = lines.map(([s], n) => (n ? (s < 0 ? ` ${MINUS} ` : " + ") : s < 0 ? MINUS : "") + Math.abs(s).toFixed(3)).join("");
    const added = F.bias && !own() ? ` ${bias() < 0 ? MINUS : "+"} ${Math.abs(bias()).toFixed(3)} (bias)` : "";
    const good = Math.abs(sum - theirs) <= 1e-5 * Math.max(1, size);
    $("total").replaceChildren(`${parts}${added} = `, el("strong", { id: "result" }, fix(sum)), "  ",
      own() ? el("span", { class: "quiet" }, "(your own filter, not the network's)") : ready(good, `the network's own map says ${fix(theirs)} here`, `the network's own map says ${fix(theirs)}`));
    $("sum").textContent = `Row ${unit.y}, column ${unit.x} of the map: ${fix(sum)}. It comes from image rows ${corner()[0]} to ${corner()[0] + k - 1}, columns ${corner()[1]} to ${corner()[1] + k - 1}.`;
    drawClose(); drawAfterSum(theirs);
  }
  function drawAll() { drawNumbers(); drawHand(); }
  function go(dy, dx) { unit.y = clamp(unit.y + dy, 0, F.side - 1); unit.x = clamp(unit.x + dx, 0, F.side - 1); fromUnit(); drawAll(); }
  let timer = 0;
  function slide(on) {
    clearInterval(timer); timer = 0;
    $("slide").setAttribute("aria-pressed", String(on)); $("slide").textContent = on ? "Stop" : "Slide along the row";
    $("sum").setAttribute("role", on ? "presentation" : "status");
    if (on) timer = setInterval(() => { if (unit.x + 1 < F.side) go(0, 1); else go(unit.y + 1 < F.side ? 1 : -unit.y, -unit.x); }, 350);
  }
  function choose(which) {
    chosen = which; $("filter").value = String(which);
    document.querySelectorAll("#gallery button").forEach((b) => b.setAttribute("aria-pressed", String(Number(b.dataset.filter) === which)));
    drawMap(); drawAfter(); drawHand();
  }
  function words() {
    const after = Math.max(0, (F.side - 1) * F.stride + k - F.padding - side), rows_ = (n) => `${n} row${n === 1 ? "" : "s"}`;
    const pad = F.padding || after ? `${rows_(F.padding)} of zeros above and to the left of the picture, ${after} below and to the right, so that the filter can also stand on the edge` : "none: the filter stays inside the picture";
    const rows = [["Channels", `${C} in, ${F.filters} out. Each filter has a ${k} × ${k} table for every channel; the ${C} sums are added to one number. ${F.filters} filters make ${F.filters} maps.` + (I.channels === 1 ? " This picture is grey, so the same numbers are given three times." : "")],
      ["Stride", F.stride === 1 ? "1: the filter moves pixel by pixel, and the map is as large as the picture." : `${F.stride}: the filter moves ${F.stride} pixels at a time, so that a picture of ${side} × ${side} gives a map of ${F.side} × ${F.side}.`],
      ["Padding", `${pad}.`],
      ["Before", `${D.contrast ? "the surroundings are taken away, as said above; before that, " : ""}each value v has become (v − mean) / spread, as in red (${I.channels === 1 ? values[0] : value(loupe.y, loupe.x, 0)} − ${F.mean[0].toFixed(1)}) / ${F.spread[0].toFixed(1)}: numbers near 0, which learn better.`],
      ["Weights", `${F.filters} × ${C} × ${k} × ${k} = ${(F.filters * C * k * k).toLocaleString("en")}, the same at every place: what is learned in one corner is known in all.`]];
    $("words").replaceChildren(...rows.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
  }

  // ---- 3 filters ---------------------------------------------------------------------------
  function gallery() {
    $("gallery").replaceChildren(...[...Array(F.filters).keys()].map((f) => {
      const kept = F.kept.includes(f), inside = [el("img", { src: F.filter_pictures[f], alt: `filter ${f}` }), el("img", { src: F.map_pictures[f], alt: `map of filter ${f}` }),
        el("small", {}, F.reach[f] < Math.max(...F.reach) / 1000 ? `${f}: unused, all weights about 0` : `${f}: weights to ${plain(F.reach[f])}, map to ${plain(F.largest[f])}`)];
      return kept ? el("button", { type: "button", "data-filter": f, "aria-pressed": "false", onclick: () => choose(f) }, ...inside) : el("div", { class: "still" }, ...inside);
    }));
    const few = F.kept.length < F.filters ? ` The ${F.kept.length} that can be chosen lie in this page number by number (those that answer most to changes in this image); the others as pictures.` : "";
    fill("filtersSay", `${F.filters} filters, ${F.filters} maps. Filters that look like a step find edges that run along it; a coloured one finds that colour against its opposite; an even one passes the picture on.${few}`);
  }
  const activationSays = { ReLU: "ReLU sets every number below 0 to 0", ReLU6: "ReLU6 sets every number below 0 to 0, and what is above 6 to 6", SiLU: "SiLU presses numbers below 0 towards 0", GELU: "GELU presses numbers below 0 towards 0" };
  function drawAfter() {
    const show = !own() && (F.normed || F.activated);
    $("after").hidden = $("after-says").hidden = $("after-title").hidden = !show;
    if (!show) return;
    const box = (src, text) => (src ? el("figure", {}, el("img", { class: "picture", src, alt: text }), el("figcaption", {}, text)) : null);
    const zeros = F.zeros ? ` ${percent(F.zeros[chosen])} of this map is now exactly 0` : "";
    $("after").replaceChildren(...[box(F.map_pictures[chosen], `Filter ${chosen}: what the convolution made`),
      box(F.normed?.[chosen], `after ${F.norm}`), box(F.activated?.[chosen], `after ${F.activation}.${zeros}`)].filter(Boolean));
  }
  function drawAfterSum(v) {
    if (own()) return;
    const kind = activationSays[F.activation] ?? (F.activation ? `${F.activation} bends the numbers` : "no activation follows here");
    let text = F.scale ? `Batch normalisation brings every map to a common scale, with one factor and one summand per map: ` : F.norm ? `${F.norm} brings the maps of each place to a common scale. ` : "";
    if (F.scale) {
      const n = v * F.scale[chosen] + F.shift[chosen];
      text += `${fix(v)} × ${fix(F.scale[chosen])} ${F.shift[chosen] < 0 ? MINUS : "+"} ${Math.abs(F.shift[chosen]).toFixed(3)} = ${fix(n)} at the chosen place. `;
      if (F.activation === "ReLU" || F.activation === "ReLU6") text += `Then ${kind}: ${fix(n)} becomes ${fix(clamp(n, 0, F.activation === "ReLU6" ? 6 : Infinity))}. Without such a bend, any number of layers would be no more than one.`;
      else text += `Then ${kind}.`;
    } else text += F.activation ? `Then ${kind}.` : `Here ${kind}.`;
    $("after-says").textContent = text;
  }

  // ---- 4 depth -----------------------------------------------------------------------------
  function stages() {
    $("stages").replaceChildren(...D.stages.map((s, n) => {
      const cut = s.zeros === null ? "It has no ReLU: nothing is cut to 0." : `Its ReLUs set ${percent(s.zeros)} of their numbers to exactly 0.`;
      const norm = s.normed ? ` Its last normalisation took mean ${fix(s.normed[0], 2)}, s.d. ${fix(s.normed[1], 2)} to ${fix(s.normed[2], 2)}, ${fix(s.normed[3], 2)}.` : "";
      return el("div", { class: "stage" }, el("div", {}, el("h3", {}, `Stage ${n + 1}: ${s.channels} maps of ${s.side}\u00a0×\u00a0${s.side}`),
        el("p", { class: "quiet" }, `One unit for every ${Number(s.stride.toFixed(1))} pixels. ${cut}${norm}`)),
      el("div", { class: "thumbs" }, ...s.maps.map((m) => el("figure", {}, el("img", { src: m.png, alt: `stage ${n + 1}, channel ${m.channel}: ${plain(m.low)} to ${plain(m.high)}` }),
        el("figcaption", { title: `channel ${m.channel}: ${plain(m.low)} to ${plain(m.high)}, s.d. ${plain(m.sd)}` }, `channel ${m.channel}: ${fix(m.low, 1)} to ${fix(m.high, 1)}`)))));
    }));
  }

  // ---- 5 receptive fields ------------------------------------------------------------------
  const levelName = (s, n) => (n === D.field.stages.length - 1 ? "Evidence map" : `Stage ${n + 1} (${s.side} × ${s.side})`);
  function drawUnit(n, which) {
    const s = D.field.stages[n], u = s.units[which], [top, left, height, width] = u.box, evidence = n === D.field.stages.length - 1;
    const box = el("span", { class: "box" }), inner = el("span", { class: "inner" });
    place(box, top, left, height, width, side);
    place(inner, u.centre[0] - u.inner / 2, u.centre[1] - u.inner / 2, u.inner, u.inner, side);
    const heat = u.heat ? el("img", { class: "heat", src: u.heat, alt: "" }) : null;
    if (heat) place(heat, top, left, height, width, side);
    const dots = s.units.map((v, m) => el("button", { type: "button", class: v.peak ? "unit peak" : "unit", "aria-pressed": String(m === which), "data-unit": m,
      "aria-label": `unit in row ${v.row}, column ${v.column}${v.peak ? ", the strongest evidence" : ""}`, style: { top: `${100 * v.centre[0] / side}%`, left: `${100 * v.centre[1] / side}%` },
      onclick: () => { drawUnit(n, m); document.querySelector(`#units [data-unit="${m}"]`).focus({ preventScroll: true }); } }));
    $("units").replaceChildren(...[el("img", { src: I.png, alt: "the image", width: I.size, height: I.size }), heat, u.inner ? inner : null, box, ...dots].filter(Boolean));
    const g = D.field.growth, whole = g.sides[Math.min(n, g.sides.length - 1)];
    $("unit-says").textContent = `${evidence ? "Evidence cell" : "Unit"} in row ${u.row}, column ${u.column} of ${s.side} × ${s.side}` + (u.peak ? ", where the evidence is strongest" : "") + `: value ${plain(u.value)}.`;
    const cut = height < whole || width < whole ? `; ${width} × ${height} of them lie inside the image` : "";
    const facts = [["Can see", g.agrees ? `${whole} × ${whole} pixels${cut}` : `${width} × ${height} pixels inside the image (${whole} × ${whole} by the convolutions alone)`],
      ["Does look at", u.inner ? `90 % of the gradient lies in the dashed square of ${u.inner} × ${u.inner} pixels round its middle` : "nothing: no pixel changes it, its activation is cut to 0"],
      ["Which unit", evidence ? `the evidence for ${D.answer.primary}` : `channel ${u.channel}, the strongest at this place`]];
    if (u.outside > 1e-6) facts.push(["Beyond the frame", `${percent(u.outside, 1)} of the gradient, through the gates`]);
    $("unit-facts").replaceChildren(...facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
    document.querySelectorAll("#levels button").forEach((b, m) => b.setAttribute("aria-pressed", String(m === n)));
  }
  function fields() {
    $("levels").replaceChildren(...D.field.stages.map((s, n) => el("button", { type: "button", "aria-pressed": "false",
      onclick: () => drawUnit(n, D.field.stages[n].units[0].peak ? 0 : D.field.stages[n].units.length >> 1) }, levelName(s, n))));
    if (D.gates) { fill("gates", "Gates: this network also weighs whole channels by their mean over the image. Through them every unit depends a little on every pixel; the frame shows what it sees through the convolutions."); reveal("gates"); }
    const g = D.field.growth;
    $("growth").querySelector("div").replaceChildren(el("p", { class: "quiet" }, "A layer with kernel k widens the field by (k − 1) × jump, where the jump is how many pixels lie between two neighbouring units before it; a stride multiplies the jump for all layers after it. 1 × 1 layers and short cuts don't widen it. " +
      (g.agrees ? "These sizes agree with what following every connection of the network gives." : "Something besides these layers widens the field here (a local mean, or gates), so the frames are larger: they come from following every connection of the network.")),
      el("div", { class: "wide" }, el("table", {}, el("thead", {}, el("tr", {}, ...["layer", "stage", "kernel", "stride", "jump before", "adds", "field"].map((h, n) => el("th", { scope: "col", class: n ? "n" : "" }, h)))),
        el("tbody", {}, ...g.layers.map((l) => el("tr", {}, el("td", {}, l.layer), ...[l.stage + 1, l.kernel, l.stride, l.jump, (l.kernel - 1) * l.jump, l.side].map((v) => el("td", { class: "n" }, String(v)))))))));
    // the deepest stage whose window doesn't yet cover the image teaches most
    const last = D.field.stages.length - 1, part = D.field.stages.map((s) => s.units.some((u) => u.box[2] < side && u.box[3] < side));
    const start = Math.max(0, part.lastIndexOf(true)) || last;
    drawUnit(start, D.field.stages[start].units[0].peak ? 0 : D.field.stages[start].units.length >> 1);
  }

  // ---- 6 evidence --------------------------------------------------------------------------
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  let output = D.answer.outputs.find((o) => o.label === D.answer.primary), column = output.columns[0];
  const cell = { y: 0, x: 0 };
  const scaled = (o, c) => logitOf(c) / o.temperature + c.shift;
  const meanOf = (c) => { const all = c.cells.flat(); return all.reduce((a, b) => a + b, 0) / all.length; };
  const logitOf = (c) => meanOf(c) + c.bias;
  function shares(o) {
    const x = o.columns.map((c) => scaled(o, c));
    if (o.link === "sigmoid") return [1 - sigmoid(x[0]), sigmoid(x[0])];
    if (o.link === "softmax") { const top = Math.max(...x), e = x.map((v) => Math.exp(v - top)), all = e.reduce((a, b) => a + b, 0); return e.map((v) => v / all); }
    let least = 1;
    const reached = [1, ...x.map((v) => (least = Math.min(least, sigmoid(v)))), 0];
    return reached.slice(0, -1).map((v, n) => v - reached[n + 1]);
  }
  function drawCell() {
    const all = column.cells, wide = all[0].length;
    $("cells").querySelectorAll(".here").forEach((n) => n.classList.remove("here"));
    $("cells").children[cell.y * wide + cell.x].classList.add("here");
    const v = all[cell.y][cell.x];
    $("cell-says").textContent = `Row ${cell.y}, column ${cell.x}: ${fix(v)}, which adds ${fix(v / all.flat().length, 4)} to the mean.`;
  }
  function drawEvidence() {
    const all = column.cells, rows = all.length, wide = all[0].length, flat = all.flat(), limit = column.unit, small = wide > 14;
    $("overlay").src = column.overlay; $("overlay").alt = `Evidence for ${column.name} over the picture`;
    $("cells").className = small ? "small" : "";
    $("cells").style.gridTemplateColumns = `repeat(${wide}, minmax(0, ${small ? "0.8rem" : wide > 8 ? "2.5rem" : "3.1rem"}))`;
    $("cells").replaceChildren(...flat.map((v) => el("span", { style: paint(signed(v / limit)), title: fix(v) }, small ? "" : fix(v, wide > 8 ? 1 : 2))));
    let best = 0; flat.forEach((v, n) => { if (Math.abs(v) > Math.abs(flat[best])) best = n; });
    cell.y = Math.floor(best / wide); cell.x = best % wide; drawCell();
    const up = flat.filter((v) => v > 0).reduce((a, b) => a + b, 0), down = flat.filter((v) => v < 0).reduce((a, b) => a + b, 0);
    $("cells-sum").textContent = `${rows} × ${wide} = ${flat.length} numbers. Those above 0 add up to ${fix(up, 2)}, those below to ${fix(down, 2)}: together ${fix(up + down, 2)}.`;
    drawSteps();
  }
  const sentence = { present: "positive", absent: "negative", uncertain: "indeterminate", not_assessed: "No operating point: nobody said where it turns positive." };
  const stands = { present: "at or above it", absent: "below it", uncertain: "between the two" };
  function drawSteps() {
    const o = output, c = column, n = c.cells.flat().length, mean = meanOf(c), logit = logitOf(c), x = scaled(o, c), found = shares(o);
    const positive = Math.min(1, o.positive_classes.reduce((sum, at) => sum + found[at], 0)), point = o.point;
    const calm = `${fix(logit)} / ${fix(o.temperature)}${c.shift ? ` ${c.shift < 0 ? MINUS : "+"} ${Math.abs(c.shift).toFixed(3)}` : ""} = ${fix(x)}`;
    const link = { sigmoid: `Probability of ${o.classes[1]}: 1 / (1 + e^${fix(-x)}) = `, softmax: "Probability: e to the power of each class's number, divided by the sum over all classes: ", cumulative: `Each map answers “this grade or a later one?”; this one says ${fix(sigmoid(x))}. Differences of neighbours give the grades. ` }[o.link];
    const withheld = { out_of_scope: "the image is unlike those that the model was made for", insufficient_quality: "the contract finds its quality insufficient" }[D.answer.verdict];
    const same = found.every((v, at) => Math.abs(v - o.probabilities[at]) < 1e-4);
    const rule = !point ? [sentence.not_assessed] : [`Threshold${point.low === point.high ? "" : "s"}, chosen on ${point.images} calibration images (rule ${point.rule}): `,
      point.low === point.high ? `positive at ${fix(point.high)} or more. ` : `positive at ${fix(point.high)} or more, negative below ${fix(point.low)}. `, `${fix(positive)} is ${stands[o.state]}: `, el("strong", { id: "verdict" }, sentence[o.state]), withheld ? `, if the service gave a verdict; it gives none: ${withheld}.` : "."];
    const items = [["The sum of all ", `${n} numbers of the map is ${fix(mean * n, 2)}; their mean is `, el("strong", {}, fix(mean)), "."],
      [`Plus the bias: ${fix(mean)} ${c.bias < 0 ? MINUS : "+"} ${Math.abs(c.bias).toFixed(3)} = `, el("strong", { id: "logit" }, fix(logit)), ", the logit. ", ready(Math.abs(logit - c.logit) < 1e-4 * Math.max(1, Math.abs(logit)), `the package's graph says ${fix(c.logit)}`, `the package's graph says ${fix(c.logit)}`)],
      [o.temperature === 1 && !c.shift ? "No calibration: temperature 1, no shift." : `Calibrated on held-out images: divided by the temperature${c.shift ? ", plus the shift" : ""}: ${calm}.`],
      o.link === "sigmoid" ? [link, el("strong", { id: "probability" }, fix(positive)), ". ", ready(same, "as the service answers", "the service answers otherwise")] : [link, `positive (${o.positive_classes.map((at) => o.classes[at]).join(", ")}): `, el("strong", { id: "probability" }, fix(positive)), ". ", ready(same, "as the service answers", "the service answers otherwise")],
      rule];
    if (o.truth) items.push([`What the data set says: `, el("strong", {}, o.truth), "."]);
    $("steps").replaceChildren(...items.map((parts) => el("li", {}, ...parts)));
    $("columns").replaceChildren(...(o.columns.length === 1 ? [] : [el("div", { class: "wide" }, el("table", {}, el("caption", {}, "All maps of this question"),
      el("thead", {}, el("tr", {}, ...["map of", "mean", "bias", "logit", "calibrated"].map((h, m) => el("th", { scope: "col", class: m ? "n" : "" }, h)))),
      el("tbody", {}, ...o.columns.map((p) => el("tr", {}, el("td", {}, p.name), ...[meanOf(p), p.bias, logitOf(p), scaled(o, p)].map((v) => el("td", { class: "n" }, fix(v)))))))),
    el("p", { class: "quiet" }, `Probabilities: ${o.classes.map((name, m) => `${name} ${fix(found[m])}`).join(", ")}.`)]));
  }
  function pickOutput(which) {
    output = D.answer.outputs[which];
    $("column").replaceChildren(...output.columns.map((c, n) => el("option", { value: n }, c.name)));
    const explained = Math.max(0, output.columns.findIndex((c) => c.column === output.explained));
    $("column").value = String(explained); column = output.columns[explained]; drawEvidence();
  }

  // ---- head, checks, wiring ----------------------------------------------------------------
  function head() {
    fill("heading", `${D.model.name}: ${I.name}`);
    const p = D.answer.outputs.find((o) => o.label === D.answer.primary);
    const facts = [[D.answer.verdict.replace(/_/g, " "), `verdict on ${D.answer.primary}`], [fix(p.positive), "calibrated probability"], [D.model.backbone, `${D.model.parameters.toLocaleString("en")} weights`], [`${I.size} × ${I.size} × ${I.channels}`, "numbers go in"], [D.model.run.slice(0, 8) || "–", "run"]];
    $("figures").replaceChildren(...facts.map(([big, small]) => el("li", {}, el("strong", {}, big), ` ${small}`)));
    fill("imageCount", `To a network an image is ${I.size} × ${I.size} × ${I.channels} = ${values.length.toLocaleString("en")} whole numbers between 0 (none) and 255 (most)${I.channels === 3 ? ": how much red, green and blue there is at each place" : ""}.`);
    fill("imageSays", I.says);
    const before = [];
    if (D.contrast) before.push("Before its first convolution this network takes from each pixel the mean of its surroundings (24 pixels): small things stay, light and tint go. The numbers below are what is left.");
    if (ratio !== 1) before.push(`The network's graph enlarges the image from ${I.size} to ${side} pixels first.`);
    if (before.length) { fill("before", before.join(" ")); reveal("before"); }
    if (D.model.members * D.model.views > 1) { fill("member", `This package's answer is the mean of ${D.model.members} network${D.model.members > 1 ? "s" : ""} on ${D.model.views} view${D.model.views > 1 ? "s" : ""} of the image (mirrored ones are turned back). Sections 2 to 5 show the first network on the image as it is; its own logits are ${D.model.member_logits.map((v) => fix(v)).join(", ")}. This section shows the whole package's maps.`); reveal("member"); }
    $("check-table").replaceChildren(el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "two ways to"), el("th", { scope: "col", class: "n" }, "apart by"), el("th", { scope: "col", class: "n" }, "allowed"))),
      el("tbody", {}, ...D.checks.map((c) => el("tr", {}, el("td", {}, c.what), el("td", { class: "n" }, c.apart.toExponential(1)), el("td", { class: "n" }, c.allowed.toExponential(1))))));
    fill("made", `Package ${D.model.package.slice(0, 12)}, hilum ${D.made}.`);
  }
  function wire() {
    $("loupe").append(el("img", { src: I.png, alt: "the image as the network gets it", width: I.size, height: I.size, draggable: "false" }), loupeFrame);
    const set = (y, x) => { loupe.y = clamp(y, 0, I.size - 8); loupe.x = clamp(x, 0, I.size - 8); fromLoupe(); drawAll(); };
    steer($("loupe"), (y, x) => set(Math.round(y * I.size - 4), Math.round(x * I.size - 4)), (dy, dx) => set(loupe.y + dy, loupe.x + dx));
    steer($("map"), (y, x) => { slide(false); unit.y = clamp(Math.floor(y * F.side), 0, F.side - 1); unit.x = clamp(Math.floor(x * F.side), 0, F.side - 1); fromUnit(); drawAll(); }, (dy, dx) => { slide(false); go(dy, dx); });
    $("filter").append(el("optgroup", { label: "Learned by this network" }, ...F.kept.map((f) => el("option", { value: f }, `filter ${f}`))), el("optgroup", { label: "Made by hand, to compare" }, ...OWN.map(([name], n) => el("option", { value: -1 - n }, name))));
    $("filter").addEventListener("change", (event) => choose(Number(event.target.value)));
    document.querySelectorAll("[data-move]").forEach((b) => b.addEventListener("click", () => { slide(false); go(...b.dataset.move.split(",").map(Number)); }));
    $("slide").addEventListener("click", () => slide(!timer));
    $("output").append(...D.answer.outputs.map((o, n) => el("option", { value: n }, o.label)));
    $("output").value = String(D.answer.outputs.indexOf(output));
    $("output").addEventListener("change", (event) => pickOutput(Number(event.target.value)));
    $("column").addEventListener("change", (event) => { column = output.columns[Number(event.target.value)]; drawEvidence(); });
    const at = (y, x) => { cell.y = clamp(y, 0, column.cells.length - 1); cell.x = clamp(x, 0, column.cells[0].length - 1); drawCell(); };
    steer($("cells"), (y, x) => at(Math.floor(y * column.cells.length), Math.floor(x * column.cells[0].length)), (dy, dx) => at(cell.y + dy, cell.x + dx));
  }
  function near() {
    if (!D.near) return;
    reveal("near");
    $("neighbours").replaceChildren(...D.near.map((n) => el("div", { class: "still" }, el("img", { src: n.png, alt: `training image, row ${n.row}` }), el("small", {}, `row ${n.row}: similarity ${n.cosine.toFixed(3)}. ` + Object.entries(n.truth).map(([label, name]) => `${label}: ${name}`).join(", ")))));
  }
  head(); wire(); gallery(); stages(); fields(); near(); fromLoupe(); words();
  drawNumbers(); choose(chosen); pickOutput(D.answer.outputs.indexOf(output));
  document.documentElement.dataset.ready = "yes";
})();
