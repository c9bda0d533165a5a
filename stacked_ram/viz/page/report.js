"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const make = (kind, options = {}, ...children) => {
  const element = Object.assign(document.createElement(kind), options);
  element.append(...children);
  return element;
};
const SVG = "http://www.w3.org/2000/svg";
const draw = (kind, attributes, ...children) => {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const percent = (probability) => probability >= 0.995 && probability < 1 ? "> 99 %" : probability < 0.005 ? "< 1 %" : `${Math.round(100 * probability)} %`;
const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const PIXELATED_BELOW = 260;
const STEP_TIME = 900;
const state = { photo: 0, step: 0, surface: 0, timer: null, pictures: [] };

// ---------------------------------------------------------------- what is known of one photo

const current = () => data.photos[state.photo];
const steps = (photo) => photo.belief.length - photo.first;
const predictionAt = (photo, step) => photo.belief[step - 1 + photo.first];
const colours = (photo) => data.colours[photo.steps];
const stopped = (photo) => steps(photo) < photo.steps;
const stopWords = (photo) => !data.stops ? "" : !steps(photo) ? ", the glance was enough"
  : stopped(photo) ? `, stopped after ${steps(photo)} of ${counted(photo.steps, "glimpse")}` : `, needed all ${counted(photo.steps, "glimpse")}`;
const isDark = (colour) => {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b < 140;
};

function load(url) {
  const image = new Image();
  image.src = url;
  return image.decode().then(() => image);
}

async function choose(index, step) {
  stop();
  state.photo = index;
  state.surface = Math.min(state.surface, current().surfaces.length - 1);
  const photo = current();
  const pictures = await Promise.all([
    photo.glance ? load(photo.glance) : null,
    ...photo.surfaces.map((surface) => surface.sprite ? load(surface.sprite) : null),
  ]);
  if (photo !== current()) return; // another one was chosen while the pictures were decoded
  state.pictures = pictures;
  $("step").max = steps(photo);
  state.step = step === undefined ? steps(photo) : step;
  for (const thumb of document.querySelectorAll(".thumb")) {
    thumb.setAttribute("aria-current", String(Number(thumb.dataset.photo) === index));
  }
  showSurfaces();
  show();
}

// ---------------------------------------------------------------- the stage

function showSurfaces() {
  const photo = current();
  $("surfaces").replaceChildren(...(photo.surfaces.length < 2 ? [] : photo.surfaces.map((surface, index) => {
    const button = make("button", { type: "button", textContent: surface.title });
    button.onclick = () => { state.surface = index; show(); };
    return button;
  })));
}

function show() {
  const photo = current();
  const total = steps(photo);
  $("step").value = state.step;
  $("stepwords").textContent = state.step ? `glimpse ${state.step} of ${total}` : photo.first ? "glance only" : "nothing drawn";
  $("name").textContent = photo.name;
  [...$("surfaces").children].forEach((button, index) => button.setAttribute("aria-pressed", String(index === state.surface)));
  showVerdict(photo);
  showStage(photo);
  showBelief(photo);
  showLines(photo);
  showStrips(photo);
  showKnown(photo);
}

function showVerdict(photo) {
  const prediction = state.step || photo.first ? predictionAt(photo, state.step) : null;
  const words = $("verdict");
  words.className = "";
  if (!prediction) { words.textContent = "before the first glimpse"; words.dataset.predicted = ""; return; }
  const [label, probability] = prediction.top[0];
  const end = state.step === steps(photo) ? stopWords(photo) : "";
  const says = `says ${data.classes[label]} (${percent(probability)})`;
  words.dataset.predicted = data.classes[label];
  if (photo.label === null) words.textContent = says + end;
  else if (label === photo.label) { words.textContent = `✓ ${says}${end}`; words.className = "right"; }
  else { words.textContent = `✗ ${says}, is ${data.classes[photo.label]}${end}`; words.className = "wrong"; }
}

function showStage(photo) {
  const surface = photo.surfaces[state.surface];
  const [left, top, right, bottom] = surface.view;
  const [height, width] = surface.size;
  const stage = $("stage");
  const shape = photo.shape[1] / photo.shape[0] * ((right - left) / width) / ((bottom - top) / height);
  stage.style.aspectRatio = shape;
  stage.style.width = `min(100%, calc(74vh * ${shape}))`;
  const svg = draw("svg", { viewBox: `${left} ${top} ${right - left} ${bottom - top}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `the photo with the boxes of ${counted(state.step, "glimpse")}` });
  const dashed = draw("g", {});
  const solid = draw("g", { "clip-path": "url(#inside)" });
  const tints = colours(photo);
  for (let step = 0; step < state.step; step++) {
    surface.boxes[step].forEach((box, k) => {
      const place = { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1], fill: "none", "vector-effect": "non-scaling-stroke" };
      const thick = k === 0 ? 3 : 1.6;
      const faded = step === state.step - 1 ? 1 : k === 0 ? 0.95 : 0.5;
      dashed.append(draw("rect", { ...place, stroke: tints[step], "stroke-width": 1.6, "stroke-dasharray": "6 4" }));
      solid.append(draw("rect", { ...place, stroke: isDark(tints[step]) ? "#fff" : "#14161a", "stroke-width": thick + 2, opacity: 0.6 * faded }));
      const line = draw("rect", { ...place, stroke: tints[step], "stroke-width": thick, opacity: faded });
      if (k === 0) line.setAttribute("data-step", step + 1);
      solid.append(line);
    });
  }
  const centres = surface.boxes.slice(0, state.step).map(([box]) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]);
  const path = centres.map((place) => place.join(",")).join(" ");
  svg.append(
    draw("defs", {}, draw("clipPath", { id: "inside" }, draw("rect", { x: 0, y: 0, width, height }))),
    dashed,
    draw("image", { href: surface.image || photo.image, x: 0, y: 0, width, height, preserveAspectRatio: "none",
      style: Math.max(...surface.pixels) < PIXELATED_BELOW ? "image-rendering: pixelated" : "" }),
    solid,
  );
  for (const [colour, thick] of [["#14161a", 3.6], ["#fff", 1.8]]) {
    svg.append(draw("polyline", { points: path, fill: "none", stroke: colour, "stroke-width": thick, "vector-effect": "non-scaling-stroke", "stroke-linejoin": "round" }));
  }
  stage.replaceChildren(svg, ...tags(surface, stage, tints));
}

// The numbers: at a corner of their box, covering as little as possible.
function tags(surface, stage, tints) {
  const [left, top, right, bottom] = surface.view;
  const { width, height } = stage.getBoundingClientRect();
  const x = (value) => (value - left) / (right - left) * width;
  const y = (value) => (value - top) / (bottom - top) * height;
  const boxes = surface.boxes.slice(0, state.step).map(([box]) => [x(box[0]), y(box[1]), x(box[2]), y(box[3])]);
  const middles = boxes.map((box) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]);
  const placed = [];
  boxes.forEach((box, step) => {
    let best = null, least = Infinity;
    [[-1, -1], [1, -1], [1, 1], [-1, 1], [0, -1], [1, 0], [0, 1], [-1, 0]].forEach(([across, down], rank) => {
      for (const [reach, price] of [[9, 0], [-13, 1.5], [32, 4]]) {
        const place = [middles[step][0] + across * ((box[2] - box[0]) / 2 + reach), middles[step][1] + down * ((box[3] - box[1]) / 2 + reach)];
        let cost = price + rank * 0.15;
        if (place[0] < 12 || place[1] < 12 || place[0] > width - 12 || place[1] > height - 12) cost += 60;
        for (const other of placed) cost += 40 * Math.max(0, 1 - Math.hypot(place[0] - other[0], place[1] - other[1]) / 25);
        for (const other of middles) cost += 25 * Math.max(0, 1 - Math.hypot(place[0] - other[0], place[1] - other[1]) / 17);
        if (cost < least) { best = place; least = cost; }
      }
    });
    placed.push(best);
  });
  return placed.map(([across, down], step) => {
    const tag = make("span", { className: "tag", textContent: step + 1 });
    Object.assign(tag.style, { left: `${100 * across / width}%`, top: `${100 * down / height}%`, background: tints[step], color: isDark(tints[step]) ? "#fff" : "#14161a" });
    return tag;
  });
}

// ---------------------------------------------------------------- belief, patches, what is known

function showBelief(photo) {
  const prediction = state.step || photo.first ? predictionAt(photo, state.step) : null;
  $("after").textContent = state.step ? `after glimpse ${state.step}` : photo.first ? "after the glance" : "";
  const rows = prediction ? prediction.top : photo.belief[0].top.map(([label]) => [label, 0]);
  $("belief").replaceChildren(...rows.map(([label, probability], rank) => {
    const kind = label === photo.label ? "true" : rank === 0 && photo.label !== null ? "false" : "";
    const fill = make("i");
    fill.style.width = `${100 * probability}%`;
    return make("div", { className: `bar ${kind}` }, fill, make("span", { textContent: prediction ? data.classes[label] : "" }),
      make("b", { textContent: prediction ? percent(probability) : "" }));
  }));
}

function showLines(photo) {
  const wide = 400, tall = 92, low = 70, high = 8;
  const count = photo.first + photo.steps;
  const x = (index) => count === 1 ? wide / 2 : 24 + index * (wide - 48) / (count - 1);
  const y = (probability) => low - probability * (low - high);
  const svg = draw("svg", { viewBox: `0 0 ${wide} ${tall}`, role: "img", "aria-label": "belief over the steps" });
  svg.append(draw("line", { x1: 8, x2: wide - 8, y1: low, y2: low, stroke: "var(--line)" }), draw("line", { x1: 8, x2: wide - 8, y1: high, y2: high, stroke: "var(--line)" }));
  const drawn = state.step + photo.first;
  const line = (values, colour) => draw("polyline", { points: values.slice(0, drawn).map((value, index) => `${x(index)},${y(value)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 2.5 });
  const own = photo.belief.map((belief) => belief.followed);
  const confidences = photo.belief.map((belief) => belief.top[0][1]);
  if (photo.label !== null && photo.belief.some((belief) => belief.top[0][0] !== photo.label)) svg.append(line(confidences, "var(--wrong)"));
  svg.append(line(own || confidences, photo.label === null ? "var(--focus)" : "var(--right)"));
  photo.belief.forEach((belief, index) => {
    const step = index + 1 - photo.first;
    const tint = step > 0 ? colours(photo)[step - 1] : "#8d99a8";
    if (index < drawn) svg.append(draw("circle", { cx: x(index), cy: y(belief.followed), r: step === state.step ? 6 : 4, fill: tint, stroke: "#fff" }));
    svg.append(draw("text", { x: x(index), y: tall - 4, "text-anchor": "middle" }, String(step > 0 ? step : "glance")));
  });
  if (stopped(photo) && state.step === steps(photo)) svg.append(draw("text", { x: x(drawn - 1) + 9, y: 18, style: "font-weight: 700; fill: var(--ink)", "data-stopped": "" }, "■ stopped here"));
  const words = photo.label === null ? "its prediction" : "the true class" + (own.length && svg.querySelectorAll("polyline").length > 1 ? ", and (orange) its prediction" : "");
  $("lines").replaceChildren(svg, make("div", { className: "legend", textContent: `belief in ${words}, 0 to 100 %` }));
}

function showStrips(photo) {
  const box = $("strips");
  const total = steps(photo);
  const ratio = window.devicePixelRatio || 1;
  const room = box.clientWidth || 360;
  const cell = Math.min(84, Math.floor(room / total) - 4);
  box.replaceChildren(...photo.surfaces.flatMap((surface, index) => {
    const sprite = state.pictures[index + 1];
    if (!sprite) return [];
    const rows = surface.boxes[0].length;
    const canvas = make("canvas", { width: total * (cell + 4) * ratio, height: rows * (cell + 4) * ratio });
    canvas.style.width = `${total * (cell + 4)}px`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `patches of ${surface.title}`);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.imageSmoothingEnabled = false;
    const side = sprite.width / total;
    for (let step = 0; step < total; step++) {
      for (let k = 0; k < rows; k++) {
        const x = step * (cell + 4) + 2, y = k * (cell + 4) + 2;
        if (step < state.step) pen.drawImage(sprite, step * side, k * side, side, side, x, y, cell, cell);
        pen.lineWidth = step < state.step ? 2.5 : 1;
        pen.strokeStyle = step < state.step ? colours(photo)[step] : "#8d99a855";
        pen.strokeRect(x, y, cell, cell);
      }
    }
    return photo.surfaces.length > 1 ? [make("p", { textContent: surface.title }), canvas] : [canvas];
  }));
}

// All patches so far where they were read, the finest on top.
function showKnown(photo) {
  const surfaces = photo.surfaces.filter((surface) => surface.onPhoto && surface.sprite);
  $("knownbox").hidden = surfaces.length === 0;
  if (!surfaces.length) return;
  const [height, width] = surfaces[0].size;
  const scale = 320 / Math.max(photo.shape[0], photo.shape[1]);
  const canvas = $("known");
  canvas.width = Math.round(photo.shape[1] * scale);
  canvas.height = Math.round(photo.shape[0] * scale);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#121212";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingEnabled = false;
  if (state.pictures[0]) {
    pen.globalAlpha = 0.45;
    pen.drawImage(state.pictures[0], 0, 0, canvas.width, canvas.height);
    pen.globalAlpha = 1;
  }
  pen.scale(canvas.width / width, canvas.height / height);
  const pieces = [];
  photo.surfaces.forEach((surface, index) => {
    if (!surfaces.includes(surface)) return;
    for (let step = 0; step < state.step; step++) surface.boxes[step].forEach((box, k) => pieces.push({ box, k, step, sprite: state.pictures[index + 1] }));
  });
  pieces.sort((a, b) => (b.box[2] - b.box[0]) - (a.box[2] - a.box[0]) || a.step - b.step);
  for (const { box, k, step, sprite } of pieces) {
    const side = sprite.width / steps(photo);
    pen.drawImage(sprite, step * side, k * side, side, side, box[0], box[1], box[2] - box[0], box[3] - box[1]);
  }
}

// ---------------------------------------------------------------- playing

function stop() {
  clearTimeout(state.timer);
  state.timer = null;
  $("play").textContent = "▶ play";
}

function play() {
  if (state.timer) { stop(); return; }
  if (state.step >= steps(current())) { state.step = 0; show(); }
  $("play").textContent = "❚❚ stop";
  const tick = () => {
    state.step += 1;
    show();
    if (state.step < steps(current())) state.timer = setTimeout(tick, STEP_TIME);
    else stop();
  };
  state.timer = setTimeout(tick, STEP_TIME / 2);
}

function go(step) {
  stop();
  state.step = Math.max(0, Math.min(steps(current()), step));
  show();
}

function neighbour(way) {
  const shown = [...document.querySelectorAll("#photos .thumb:not([hidden])")].map((thumb) => Number(thumb.dataset.photo));
  if (!shown.length) return;
  const at = shown.indexOf(state.photo);
  choose(shown[((at < 0 ? 0 : at + way) + shown.length) % shown.length]);
}

$("play").onclick = play;
$("previous").onclick = () => neighbour(-1);
$("next").onclick = () => neighbour(1);
$("step").oninput = (event) => go(Number(event.target.value));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const kind = event.target.tagName;
  const ways = { ArrowLeft: () => go(state.step - 1), ArrowRight: () => go(state.step + 1), ArrowUp: () => neighbour(-1), ArrowDown: () => neighbour(1), " ": play };
  const action = ways[event.key];
  if (!action || kind === "SELECT" || (event.key === " " && kind === "BUTTON")) return;
  event.preventDefault();
  action();
});
addEventListener("resize", () => { if (state.pictures.length) show(); });

// ---------------------------------------------------------------- lists, filters

function thumb(index) {
  const photo = data.photos[index];
  const tick = photo.label === null ? "" : photo.correct ? "✓ " : "✗ ";
  const words = make("span", { textContent: `${tick}${data.classes[photo.predicted]}`, className: photo.label === null ? "" : photo.correct ? "right" : "wrong" });
  const more = make("span", { className: "quiet", textContent: photo.label === null ? photo.name : photo.correct ? percent(photo.confidence) : `is ${data.classes[photo.label]}` });
  const image = make("img", { src: photo.image, alt: "", loading: "lazy", decoding: "async" });
  if (Math.max(...photo.surfaces[0].pixels) < PIXELATED_BELOW) image.style.imageRendering = "pixelated";
  const button = make("button", { className: "thumb", type: "button", title: photo.name }, image, words, more);
  button.dataset.photo = index;
  button.onclick = () => { choose(index, 0).then(play); $("player").scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" }); };
  return button;
}

function filter() {
  const label = $("byclass").value, prediction = $("byprediction").value, finalFrom = $("byfinal").value, used = $("byused").value;
  let count = 0;
  for (const thumb of $("photos").children) {
    const photo = data.photos[Number(thumb.dataset.photo)];
    const fits = (!label || photo.label === Number(label)) && (!prediction || photo.correct === (prediction === "right")) && (!finalFrom || photo.finalFrom === Number(finalFrom)) && (!used || steps(photo) === Number(used));
    thumb.hidden = !fits;
    count += fits;
  }
  $("count").textContent = `${count} of ${data.photos.length}`;
}

function fillFilters() {
  const labels = [...new Set(data.photos.map((photo) => photo.label).filter((label) => label !== null))].sort((a, b) => a - b);
  $("byclass").append(...labels.map((label) => make("option", { value: label, textContent: data.classes[label] })));
  const most = Math.max(...data.photos.map(steps));
  for (let step = 1; step <= most; step++) $("byfinal").append(make("option", { value: step, textContent: counted(step, "glimpse") }));
  for (const used of [...new Set(data.photos.map(steps))].sort((a, b) => a - b)) $("byused").append(make("option", { value: used, textContent: used ? counted(used, "glimpse") : "the glance alone" }));
  $("byused").parentElement.hidden = !data.stops;
  if (!labels.length) $("byclass").parentElement.hidden = $("byprediction").parentElement.hidden = true;
  for (const id of ["byclass", "byprediction", "byfinal", "byused"]) $(id).onchange = filter;
  $("filters").onreset = () => setTimeout(filter);
}

// ---------------------------------------------------------------- figures

function chart(title, series, options) {
  const wide = 340, tall = 200, left = 44, right = 10, top = 10, low = 168;
  const all = series.flatMap((curve) => curve.values.filter((value) => value !== null));
  let least = options.from ?? Math.min(...all), most = options.to ?? Math.max(...all);
  if (most - least < 1e-9) { least -= 0.05; most += 0.05; }
  const xs = options.xs;
  const x = (value) => xs.length === 1 ? (left + wide - right) / 2 : left + (value - xs[0]) / (xs[xs.length - 1] - xs[0]) * (wide - left - right);
  const y = (value) => low - (value - least) / (most - least) * (low - top);
  const svg = draw("svg", { viewBox: `0 0 ${wide} ${tall}`, role: "img", "aria-label": title });
  const write = (value) => options.percent ? `${Math.round(100 * value)} %` : value >= 100 ? value.toFixed(0) : value.toFixed(2);
  const scale = 10 ** Math.floor(Math.log10((most - least) / 4));
  const gap = [1, 2, 2.5, 5, 10].map((step) => step * scale).find((step) => (most - least) / step <= 5.01);
  for (let value = Math.ceil(least / gap - 1e-9) * gap; value <= most + 1e-9; value += gap) {
    svg.append(draw("line", { x1: left, x2: wide - right, y1: y(value), y2: y(value), stroke: "var(--line)", "stroke-width": 0.7 }),
      draw("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, write(value)));
  }
  const every = Math.max(1, Math.ceil(xs.length / 8));
  xs.forEach((value, index) => { if (index % every === 0) svg.append(draw("text", { x: x(value), y: low + 15, "text-anchor": "middle" }, String(options.names ? options.names[index] : Number.isInteger(value) ? value : Number(value.toPrecision(2))))); });
  svg.append(draw("text", { x: (left + wide) / 2, y: tall - 3, "text-anchor": "middle" }, options.below));
  for (const curve of series) {
    const points = curve.values.map((value, index) => value === null ? null : `${x(xs[index])},${y(value)}`).filter((place) => place);
    svg.append(draw("polyline", { points: points.join(" "), fill: "none", stroke: curve.colour, "stroke-width": 2.2, "stroke-dasharray": curve.dash || "" }));
    if (xs.length <= 30 && !curve.dash && curve.dots !== false) curve.values.forEach((value, index) => { if (value !== null) svg.append(draw("circle", { cx: x(xs[index]), cy: y(value), r: 3.2, fill: curve.tints ? curve.tints[index] : curve.colour, stroke: "var(--card)" })); });
  }
  if (options.mark) svg.append(draw("circle", { cx: x(options.mark.gmacs), cy: y(options.mark.accuracy), r: 6, fill: "none", stroke: "var(--ink)", "stroke-width": 2, "data-mark": "" }));
  const legend = make("div", { className: "legend" }, ...(series.length < 2 ? [] : series.map((curve) => {
    const key = make("i");
    key.style.borderTopColor = curve.colour;
    if (curve.dash) key.style.borderTopStyle = "dashed";
    return make("span", {}, key, curve.name);
  })));
  return make("div", { className: "chart" }, make("h3", { textContent: title }), svg, legend);
}

// Accuracy against mean cost where the model stops early; a ring at the chosen threshold.
function exitChart({ accuracy, gmacs, chosen }) {
  const range = [Math.min(...accuracy, 1) - 0.05, Math.max(...accuracy) + 0.02];
  const element = chart("Accuracy when it stops early", [{ name: "", values: accuracy, colour: "var(--ink)", dots: false }],
    { xs: gmacs, percent: true, below: "mean GMACs a photo, over all thresholds", from: Math.max(0, range[0]), to: Math.min(1, range[1]), mark: chosen });
  element.append(make("div", { className: "legend", textContent: chosen ? `◯ ${chosen.words}` : "no threshold chosen: --stop-at shows one" }));
  return element;
}

function densityMap(grid, caption, shape) {
  const canvas = make("canvas", { width: grid[0].length, height: grid.length });
  canvas.style.aspectRatio = 1 / shape;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `where it looks, ${caption}`);
  const pen = canvas.getContext("2d");
  grid.forEach((row, down) => row.forEach((value, across) => {
    if (value) { pen.fillStyle = data.ramp[Math.min(data.ramp.length - 1, Math.floor(value * data.ramp.length))]; pen.fillRect(across, down, 1, 1); }
  }));
  return make("figure", {}, canvas, make("figcaption", { textContent: caption }));
}

function showWhole() {
  const whole = data.whole;
  if (!whole) return;
  const count = whole.accuracy.length - (whole.first ? 1 : 0);
  const names = whole.accuracy.map((_, index) => index + 1 - whole.first || "glance");
  const xs = whole.accuracy.map((_, index) => index);
  const tints = [...(whole.first ? ["#8d99a8"] : []), ...data.colours[count]];
  const later = Array.from({ length: count }, (_, index) => index + 1);
  const flat = (value) => later.map(() => value);
  const charts = [chart("Accuracy after each glimpse", [{ name: "accuracy", values: whole.accuracy, colour: "var(--right)", tints }],
    { xs, names, percent: true, below: "glimpses", from: Math.max(0, Math.floor(10 * Math.min(...whole.accuracy) - 0.3) / 10), to: Math.min(1, Math.ceil(10 * Math.max(...whole.accuracy) + 0.3) / 10) }),
  chart("Distance of locations from the centre", [
    { name: "mean distance", values: whole.distance, colour: "var(--focus)" },
    { name: "spread over photos", values: whole.spread, colour: "var(--wrong)", dash: "5 4" },
    { name: "random locations", values: flat(0.765), colour: "var(--other)", dash: "2 3" }], { xs: later, below: "glimpse", from: 0, to: Math.max(1, ...whole.distance) })];
  if (whole.inside) charts.push(chart("Glimpses inside the object's box", [
    { name: "this model", values: whole.inside, colour: "var(--right)" },
    { name: "always the centre", values: flat(whole.centre), colour: "var(--wrong)", dash: "5 4" },
    { name: "random locations", values: flat(whole.random), colour: "var(--other)", dash: "2 3" }], { xs: later, percent: true, below: "glimpse", from: 0, to: Math.min(1, 1.1 * Math.max(...whole.inside, whole.centre, whole.random)) }));
  if (whole.exits) charts.push(exitChart(whole.exits));
  $("whole").append(make("h2", { textContent: `The whole ${whole.split} split, ${counted(whole.count, "photo")}` }), make("div", { className: "charts" }, ...charts),
    make("h2", { textContent: "Where it looks at each step" }), make("div", { className: "maps" }, ...whole.bystep.map((grid, index) => densityMap(grid, `glimpse ${index + 1}`, whole.shape))),
    make("h2", { textContent: "Where it looks in each class" }), make("div", { className: "maps" }, ...whole.byclass.map(([label, grid, accuracy]) => densityMap(grid, `${data.classes[label]}: ${Math.round(100 * accuracy)} % right`, whole.shape))));
}

function showTraining() {
  if (!data.training.length) return;
  const colour = { train: "var(--focus)", valid: "var(--wrong)" };
  $("training").append(make("h2", { textContent: "Training" }), make("div", { className: "charts" }, ...data.training.map((curve) =>
    chart(curve.title, curve.series.map((series) => ({ ...series, colour: colour[series.name] || "var(--right)" })), { xs: curve.epochs, percent: curve.percent, below: "epoch" }))));
}

$("title").textContent = data.title;
$("summary").textContent = data.summary;
$("footer").textContent = data.footer;
$("warnings").append(...data.warnings.map((textContent) => make("li", { textContent })));
$("photos").append(...data.photos.map((_, index) => thumb(index)));
for (const { title, photos } of data.galleries) {
  $("galleries").append(make("h2", { textContent: title }), make("div", { className: "thumbs" }, ...photos.map(thumb)));
}
fillFilters();
filter();
showWhole();
showTraining();
choose(0);
