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
const several = data.thresholds !== null; // a photo may have several classes
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

// Black or white, whichever can be read better on the colour: never less than 4.5 : 1.
const inkOn = (colour) => {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255).map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
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
  $("step").setAttribute("aria-valuetext", state.step ? `after glimpse ${state.step} of ${total}` : "before the first glimpse");
  $("stepwords").textContent = state.step ? `glimpse ${state.step} of ${total}` : photo.first ? "glance only" : "nothing drawn";
  $("name").textContent = photo.name;
  $("link").href = `#${new URLSearchParams({ photo: photo.name, step: state.step })}`;
  $("link").setAttribute("aria-label", `link to step ${state.step} of ${photo.name}`);
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
  const answer = prediction.answer;
  const end = state.step === steps(photo) ? stopWords(photo) : "";
  const says = `says ${data.answers[answer]}${several ? "" : ` (${percent(prediction.top[0][1])})`}`;
  words.dataset.predicted = data.answers[answer];
  if (photo.label === null) words.textContent = says + end;
  else if (answer === photo.label) { words.textContent = `✓ ${says}${end}`; words.className = "right"; }
  else { words.textContent = `✗ ${says}, is ${data.answers[photo.label]}${end}${causeWords(photo)}`; words.className = "wrong"; }
}

const causeWords = (photo) => state.step === steps(photo) && table.cause && table.cause[photo.row] ? ` (${table.cause[photo.row]})` : "";

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
  const showsObject = photo.object && !surface.isMap && state.step === steps(photo);
  if (showsObject) svg.append(...objectBox(photo, width, height));
  const better = betterPlace(photo);
  stage.replaceChildren(svg, ...tags(surface, stage, tints));
  if (better) {
    const [glimpse, across, down, belief] = better;
    const star = make("span", { className: "tag better", textContent: "★" });
    star.style.left = `${100 * ((across + 1) / 2 * width - left) / (right - left)}%`;
    star.style.top = `${100 * ((down + 1) / 2 * height - top) / (bottom - top)}%`;
    stage.append(star);
    $("betterwords").textContent = ` ★: with glimpse ${glimpse} there instead, the belief in ${data.answers[photo.label]} would be ${percent(belief)}.`;
  } else $("betterwords").textContent = "";
  if (showsObject) $("betterwords").textContent += " Dotted: the object, as the data set says.";
}

// The object's box, dotted, black on white, on a photo drawn in these units.
function objectBox(photo, width, height) {
  const [left, top, right, bottom] = photo.object;
  const place = { x: left * width, y: top * height, width: (right - left) * width, height: (bottom - top) * height, fill: "none", "vector-effect": "non-scaling-stroke" };
  return [draw("rect", { ...place, stroke: "#fff", "stroke-width": 2.6, "data-object": "" }), draw("rect", { ...place, stroke: "#14161a", "stroke-width": 2, "stroke-dasharray": "2 2.4" })];
}

// [glimpse, x, y, belief] of a place that would have mended a mistake, shown after its last step.
function betterPlace(photo) {
  return state.step === steps(photo) && !photo.surfaces[state.surface].isMap && table.better ? table.better[photo.row] : null;
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
    Object.assign(tag.style, { left: `${100 * across / width}%`, top: `${100 * down / height}%`, background: tints[step], color: inkOn(tints[step]) });
    return tag;
  });
}

// ---------------------------------------------------------------- belief, patches, what is known

function showBelief(photo) {
  const prediction = state.step || photo.first ? predictionAt(photo, state.step) : null;
  $("after").textContent = state.step ? `after glimpse ${state.step}` : photo.first ? "after the glance" : "";
  const rows = prediction ? prediction.top : photo.belief[0].top.map(([label]) => [label, 0]);
  const said = prediction ? prediction.said : [];
  $("belief").replaceChildren(...rows.map(([label, probability]) => {
    const kind = photo.has === null ? "" : photo.has.includes(label) ? "true" : said.includes(label) ? "false" : "";
    const fill = make("i");
    fill.style.width = `${100 * probability}%`;
    const line = several ? [make("em", { title: "said from here on" })] : [];
    if (several) line[0].style.left = `${100 * data.thresholds[label]}%`;
    return make("div", { className: `bar ${kind}` }, fill, ...line, make("span", { textContent: prediction ? data.classes[label] : "" }),
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
  if (!several && photo.label !== null && photo.belief.some((belief) => belief.answer !== photo.label)) svg.append(line(confidences, "var(--wrong)"));
  svg.append(line(own || confidences, photo.label === null ? "var(--focus)" : "var(--right)"));
  photo.belief.forEach((belief, index) => {
    const step = index + 1 - photo.first;
    const tint = step > 0 ? colours(photo)[step - 1] : "#8d99a8";
    if (index < drawn) svg.append(draw("circle", { cx: x(index), cy: y(belief.followed), r: step === state.step ? 6 : 4, fill: tint, stroke: "#fff" }));
    svg.append(draw("text", { x: x(index), y: tall - 4, "text-anchor": "middle" }, String(step > 0 ? step : "glance")));
  });
  if (stopped(photo) && state.step === steps(photo)) svg.append(draw("text", { x: x(drawn - 1) + 9, y: 18, style: "font-weight: 700; fill: var(--ink)", "data-stopped": "" }, "■ stopped here"));
  const words = photo.label === null ? "its prediction" : (several ? "all its true labels together" : "the true class") + (own.length && svg.querySelectorAll("polyline").length > 1 ? ", and (orange) its prediction" : "");
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
  if (!action || kind === "SELECT" || event.target.type === "search" || event.target.id === "scroll" || (event.key === " " && kind === "BUTTON")) return;
  event.preventDefault();
  action();
});
addEventListener("resize", () => { if (state.pictures.length) show(); });

// ---------------------------------------------------------------- lists, filters

// A small picture with the narrowest box of each glimpse.
function small(photo) {
  const surface = photo.surfaces.filter((each) => !each.isMap).pop();
  const [height, width] = surface.size, [tall, wide] = photo.shape;
  const svg = draw("svg", { viewBox: `0 0 ${wide} ${tall}`, "aria-hidden": "true" });
  svg.append(draw("image", { href: photo.image, width: wide, height: tall, preserveAspectRatio: "none",
    style: Math.max(...photo.surfaces[0].pixels) < PIXELATED_BELOW ? "image-rendering: pixelated" : "" }));
  surface.boxes.forEach(([box], step) => {
    const place = { x: box[0] * wide / width, y: box[1] * tall / height, width: (box[2] - box[0]) * wide / width, height: (box[3] - box[1]) * tall / height,
      fill: "none", "vector-effect": "non-scaling-stroke" };
    svg.append(draw("rect", { ...place, stroke: isDark(colours(photo)[step]) ? "#fff" : "#14161a", "stroke-width": 3, opacity: 0.6 }),
      draw("rect", { ...place, stroke: colours(photo)[step], "stroke-width": 1.6 }));
  });
  if (photo.object) svg.append(...objectBox(photo, wide, tall));
  return svg;
}

const fileName = (name) => name.split("/").pop();

function thumb(index) {
  const photo = data.photos[index];
  const tick = photo.label === null ? "" : photo.correct ? "✓ " : "✗ ";
  const words = make("span", { textContent: `${tick}${data.answers[photo.predicted]}${several ? "" : ` (${percent(photo.confidence)})`}`, className: photo.label === null ? "" : photo.correct ? "right" : "wrong" });
  const more = photo.label === null || photo.correct ? [] : [make("span", { textContent: `is ${data.answers[photo.label]}` })];
  const button = make("button", { className: "thumb", type: "button", title: photo.name }, small(photo), words, ...more, make("span", { className: "quiet", textContent: fileName(photo.name) }));
  button.dataset.photo = index;
  button.onclick = () => watch(index);
  return button;
}

function watch(index) {
  choose(index, 0).then(play);
  $("player").scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

// ---------------------------------------------------------------- the table of all photos, filters

const table = data.table;
const rowCount = table.name.length;
const pictureOf = new Map(data.photos.map((photo, index) => [photo.row, index]));
const rightAt = (row) => table.label[row] === null ? null : table.label[row] === table.predicted[row];
const labelName = (row) => table.label[row] === null ? "" : data.answers[table.label[row]];
const COLUMNS = [
  ["photo", (row) => table.name[row], 30],
  [several ? "true labels" : "true class", labelName, 16],
  ["prediction", (row) => data.answers[table.predicted[row]], 16],
  ["right", (row) => rightAt(row) === null ? "" : rightAt(row) ? "✓" : "✗", 7],
  [several ? "smallest margin" : "confidence", (row) => table.confidence[row], 10],
  [several ? "belief in the true labels" : "belief in the true class", (row) => table.true[row], 13],
  ["glimpses", (row) => table.used[row], 8],
  ...(data.runs || []).slice(1).map((run) => [run.name, (row) => `${run.predicted[row] === table.label[row] ? "✓" : "✗"} ${data.answers[run.predicted[row]]}`, 14]),
  ...(table.cause ? [["cause of the mistake", (row) => table.cause[row], 20]] : []),
];
const NUMBERS = new Set([4, 5]);
const ROW = 31;
const list = { rows: [], column: -1, falling: false, cell: null, words: table.name.map((name, row) => `${name} ${labelName(row)} ${data.answers[table.predicted[row]]}`.toLowerCase()) };

function filter() {
  const label = $("byclass").value, prediction = $("byprediction").value, finalFrom = $("byfinal").value, used = $("byused").value, cause = $("bycause").value;
  const [which, other] = $("byrun").value.split(" ");
  const wanted = $("search").value.toLowerCase().split(/\s+/).filter((word) => word);
  const fits = (row) => (!label || (table.label[row] !== null && data.sets[table.label[row]].includes(Number(label)))) && (!prediction || rightAt(row) === (prediction === "right"))
    && (!finalFrom || table.final[row] === Number(finalFrom)) && (!used || table.used[row] === Number(used)) && (!cause || table.cause[row] === cause)
    && (!which || (rightAt(row) !== (data.runs[other].predicted[row] === table.label[row]) && rightAt(row) === (which === "this")))
    && (!list.cell || (table.label[row] === list.cell[0] && table.predicted[row] === list.cell[1])) && wanted.every((word) => list.words[row].includes(word));
  list.rows = [];
  for (let row = 0; row < rowCount; row++) if (fits(row)) list.rows.push(row);
  const kept = new Set(list.rows);
  let pictures = 0;
  for (const thumb of $("photos").children) {
    thumb.hidden = !kept.has(data.photos[Number(thumb.dataset.photo)].row);
    pictures += !thumb.hidden;
  }
  const right = list.rows.filter((row) => rightAt(row)).length;
  const known = list.rows.filter((row) => rightAt(row) !== null).length;
  $("count").textContent = `${list.rows.length.toLocaleString("en")} of ${counted(rowCount, "photo")}${known ? `, ${(100 * right / known).toFixed(1)} % of them right` : ""}; ${pictures} shown here`;
  $("chosen").textContent = chosenWords();
  for (const button of document.querySelectorAll("#whylist button")) button.setAttribute("aria-pressed", String(button.dataset.cause === cause));
  for (const button of document.querySelectorAll("#matrix button")) button.setAttribute("aria-pressed", String(list.cell !== null && button.dataset.cell === list.cell.join()));
  sort();
}

// What the filters let through, for the printed page, which has no filters.
function chosenWords() {
  const words = [...document.querySelectorAll("#filters select")].filter((select) => select.value)
    .map((select) => `${select.parentElement.firstChild.textContent.trim()}: ${select.selectedOptions[0].textContent}`);
  if (list.cell) words.push(`${data.answers[list.cell[0]]}, called ${data.answers[list.cell[1]]}`);
  if ($("search").value) words.push(`search: ${$("search").value}`);
  return words.length ? `Chosen: ${words.join("; ")}` : "Chosen: all";
}

function sort() {
  if (list.column >= 0) {
    const value = COLUMNS[list.column][1], way = list.falling ? -1 : 1;
    list.rows.sort((a, b) => { const x = value(a), y = value(b); return (x < y ? -1 : x > y ? 1 : a - b) * way; });
  } else list.rows.sort((a, b) => a - b);
  document.querySelectorAll("#table th").forEach((head, index) => head.setAttribute("aria-sort", index === list.column ? list.falling ? "descending" : "ascending" : "none"));
  $("scroll").scrollTop = 0;
  showRows();
}

// Only the rows in view are in the page, between two spaces as high as the others.
function showRows(all = false) {
  const box = $("scroll"), count = list.rows.length;
  const first = all ? 0 : Math.max(0, Math.floor(box.scrollTop / ROW) - 8);
  const last = all ? count : Math.min(count, first + Math.ceil(440 / ROW) + 16);
  const space = (rows) => {
    const cell = make("td", { colSpan: COLUMNS.length });
    cell.style.height = `${rows * ROW}px`;
    return make("tr", { className: "space", ariaHidden: "true" }, ...(rows ? [cell] : []));
  };
  const body = [];
  for (let place = first; place < last; place++) {
    const row = list.rows[place], picture = pictureOf.get(row);
    const cells = COLUMNS.map(([, value], column) => {
      const found = value(row);
      const text = NUMBERS.has(column) ? found === null ? "" : percent(found) : String(found);
      const cell = make("td", { title: text, className: column === 3 && text ? text === "✓" ? "right" : "wrong" : "" });
      if (column === 0 && picture !== undefined) cell.append(make("button", { type: "button", ariaLabel: `show ${text}`, textContent: "▣" }), ` ${text}`);
      else cell.textContent = text;
      return cell;
    });
    const line = make("tr", {}, ...cells);
    line.setAttribute("aria-rowindex", place + 2);
    if (picture !== undefined) { line.dataset.picture = picture; line.onclick = () => watch(picture); }
    body.push(line);
  }
  document.querySelector("#table tbody").replaceChildren(space(first), ...body, space(count - last));
}

function makeTable() {
  const heads = COLUMNS.map(([name, , width], column) => {
    const button = make("button", { type: "button", textContent: name });
    button.onclick = () => {
      list.falling = list.column === column ? !list.falling : false;
      list.column = column;
      sort();
    };
    const head = make("th", { scope: "col" }, button);
    head.style.width = `${width}%`;
    return head;
  });
  $("table").setAttribute("aria-rowcount", rowCount + 1);
  document.querySelector("#table thead").replaceChildren(make("tr", {}, ...heads));
  $("scroll").onscroll = () => showRows();
  addEventListener("beforeprint", () => showRows(true));
  addEventListener("afterprint", () => showRows());
}

// The causes of mistakes, each a button that shows its photos.
function makeWhy() {
  const wrong = table.label.filter((label, row) => rightAt(row) === false).length;
  $("why").hidden = !data.whole || !wrong || !(data.explain || data.causes);
  $("mistakes").textContent = `${counted(wrong, "mistake")} of ${counted(rowCount, "photo")}`;
  if (!data.causes) {
    $("whylist").append(make("p", {}, "Run ", make("code", { textContent: data.explain }), ", then make this report again: every mistake gets a cause."));
    return;
  }
  for (const { name, meaning, photos, mended } of data.causes) {
    const bar = make("span", { className: "bar", ariaHidden: "true" }, make("i"), make("i"));
    bar.children[0].style.width = `${100 * photos / Math.max(wrong, 1)}%`;
    bar.children[1].style.width = `${100 * mended / Math.max(wrong, 1)}%`;
    const button = make("button", { type: "button" }, make("strong", { textContent: `${name}: ${photos}` }), bar,
      make("small", { textContent: photos ? `${meaning}; ${mended} of ${photos} (dark) would be recognised with one glimpse elsewhere` : meaning }));
    button.dataset.cause = name;
    button.disabled = !photos;
    button.onclick = () => {
      $("bycause").value = $("bycause").value === name ? "" : name;
      filter();
      $("all").scrollIntoView({ block: "start" });
    };
    $("whylist").append(button);
  }
  const { other, untested } = data.uncaused;
  if (other) $("whylist").append(make("p", { className: "quiet", textContent: `${counted(other, "mistake")} without a cause: the test found other answers, with all glimpses.` }));
  if (untested) $("whylist").append(make("p", { className: "quiet" }, `${counted(untested, "mistake")} without a cause: the test did not look at these photos. `, make("code", { textContent: data.explain }), " looks at all."));
}

// The confusion matrix of the classes that occur; of many classes, the pairs confused most.
const MOST_CELLS = 40;
function makeMatrix() {
  const counts = new Map();
  for (let row = 0; row < rowCount; row++) if (table.label[row] !== null) {
    const key = `${table.label[row]},${table.predicted[row]}`;
    counts.set(key, (counts.get(key) || 0) + 1);
  }
  $("confusion").hidden = counts.size === 0;
  const shown = [...new Set([...counts.keys()].flatMap((key) => key.split(",").map(Number)))].sort((a, b) => a - b);
  const button = (key, text) => {
    const [label, predicted] = key.split(",").map(Number);
    const element = make("button", { type: "button", textContent: text, title: `${data.answers[label]}, called ${data.answers[predicted]}: ${counted(counts.get(key), "photo")}` });
    element.setAttribute("aria-label", element.title);
    element.dataset.cell = key;
    element.onclick = () => {
      list.cell = list.cell && list.cell.join() === key ? null : [label, predicted];
      filter();
      $("all").scrollIntoView({ block: "start" });
    };
    return element;
  };
  const wrong = [...counts.keys()].filter((key) => { const [label, predicted] = key.split(","); return label !== predicted; });
  if (shown.length > MOST_CELLS) {
    wrong.sort((a, b) => counts.get(b) - counts.get(a));
    $("matrix").replaceChildren(make("p", { className: "quiet", textContent: "The pairs confused most:" }), ...wrong.slice(0, MOST_CELLS).map((key) => {
      const [label, predicted] = key.split(",").map(Number);
      return button(key, `${data.answers[label]}, called ${data.answers[predicted]}: ${counts.get(key)}`);
    }));
    return;
  }
  const most = Math.max(1, ...wrong.map((key) => counts.get(key)));
  const head = make("tr", {}, make("td"), ...shown.map((predicted) => make("th", { scope: "col", textContent: data.answers[predicted] })));
  const rows = shown.map((label) => make("tr", {}, make("th", { scope: "row", textContent: data.answers[label] }), ...shown.map((predicted) => {
    const key = `${label},${predicted}`, count = counts.get(key);
    if (!count) return make("td");
    const cell = button(key, String(count));
    const share = Math.round(15 + 35 * (label === predicted ? 0.4 : count / most));
    cell.style.background = `color-mix(in srgb, var(${label === predicted ? "--right" : "--wrong"}) ${share}%, var(--paper))`;
    return make("td", {}, cell);
  })));
  $("matrix").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function fillFilters() {
  const labels = [...new Set(table.label.filter((label) => label !== null).flatMap((label) => data.sets[label]))].sort((a, b) => a - b);
  $("byclass").append(...labels.map((label) => make("option", { value: label, textContent: data.classes[label] })));
  const most = Math.max(...data.photos.map((photo) => photo.steps));
  for (let step = table.final.includes(0) ? 0 : 1; step <= most; step++) $("byfinal").append(make("option", { value: step, textContent: step ? counted(step, "glimpse") : "the glance alone" }));
  for (const used of [...new Set(table.used)].sort((a, b) => a - b)) $("byused").append(make("option", { value: used, textContent: used ? counted(used, "glimpse") : "the glance alone" }));
  const causes = [...new Set(table.cause || [])].filter((cause) => cause);
  $("bycause").append(...causes.map((cause) => make("option", { value: cause, textContent: `${cause} (${table.cause.filter((each) => each === cause).length})` })));
  (data.runs || []).slice(1).forEach((run, index) => $("byrun").append(make("option", { value: `this ${index + 1}`, textContent: `right here, wrong with ${run.name}` }),
    make("option", { value: `other ${index + 1}`, textContent: `wrong here, right with ${run.name}` })));
  $("runfilter").hidden = !data.runs;
  $("causes").hidden = !causes.length;
  $("byused").parentElement.hidden = !data.stops;
  if (!labels.length) $("byclass").parentElement.hidden = $("byprediction").parentElement.hidden = true;
  for (const id of ["byclass", "byprediction", "byfinal", "byused", "bycause", "byrun"]) $(id).onchange = filter;
  $("search").oninput = filter;
  $("filters").onsubmit = (event) => event.preventDefault();
  $("filters").onreset = () => { list.cell = null; setTimeout(filter); };
}

// ---------------------------------------------------------------- links to a photo and step

function follow() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const index = data.photos.findIndex((photo) => photo.name === wanted.get("photo"));
  if (index < 0) return false;
  choose(index, wanted.has("step") ? Math.max(0, Math.min(steps(data.photos[index]), Number(wanted.get("step")) || 0)) : undefined);
  return true;
}
addEventListener("hashchange", follow);

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
  const every = Math.max(1, Math.ceil(xs.length / (options.labels ?? 8)));
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
  const element = chart(several ? "F1 of a photo when it stops early" : "Accuracy when it stops early", [{ name: "", values: accuracy, colour: "var(--ink)", dots: false }],
    { xs: gmacs, percent: true, below: "mean GMACs a photo, over all thresholds", from: Math.max(0, range[0]), to: Math.min(1, range[1]), labels: 4, mark: chosen });
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

const metricName = several ? "mAP" : "Accuracy";

function showWhole() {
  const whole = data.whole;
  if (!whole) return;
  const count = whole.accuracy.length - (whole.first ? 1 : 0);
  const names = whole.accuracy.map((_, index) => index + 1 - whole.first || "glance");
  const xs = whole.accuracy.map((_, index) => index);
  const tints = [...(whole.first ? ["#8d99a8"] : []), ...data.colours[count]];
  const later = Array.from({ length: count }, (_, index) => index + 1);
  const flat = (value) => later.map(() => value);
  const charts = [chart(`${metricName} after each glimpse`, [{ name: data.metric, values: whole.accuracy, colour: "var(--right)", tints }],
    { xs, names, percent: true, below: "glimpses", from: Math.max(0, Math.floor(10 * Math.min(...whole.accuracy) - 0.3) / 10), to: Math.min(1, Math.ceil(10 * Math.max(...whole.accuracy) + 0.3) / 10) }),
  chart("Distance of locations from the centre", [
    { name: "mean distance", values: whole.distance, colour: "var(--focus)" },
    { name: "spread over photos", values: whole.spread, colour: "var(--second)" },
    { name: "random locations", values: flat(0.765), colour: "var(--other)", dash: "2 3" }], { xs: later, below: "glimpse", from: 0, to: Math.max(1, ...whole.distance) })];
  if (whole.inside) charts.push(chart("Glimpses inside the object's box", [
    { name: "this model", values: whole.inside, colour: "var(--right)" },
    { name: "always the centre", values: flat(whole.centre), colour: "var(--ink)", dash: "5 4" },
    { name: "random locations", values: flat(whole.random), colour: "var(--other)", dash: "2 3" }], { xs: later, percent: true, below: "glimpse", from: 0, to: Math.min(1, 1.1 * Math.max(...whole.inside, whole.centre, whole.random)) }));
  if (whole.exits) charts.push(exitChart(whole.exits));
  $("whole").append(make("h2", { textContent: `The whole ${whole.split} split, ${counted(whole.count, "photo")}` }), make("div", { className: "charts" }, ...charts),
    make("h2", {}, "Where it looks at each step ", make("span", { className: "quiet", textContent: "each map from never (white) to its own most frequent place (black)" })), make("div", { className: "maps" }, ...whole.bystep.map((grid, index) => densityMap(grid, `glimpse ${index + 1}`, whole.shape))),
    make("h2", {}, "Where it looks in each class ", make("span", { className: "quiet", textContent: "each map from never (white) to its own most frequent place (black)" })), make("div", { className: "maps" }, ...whole.byclass.map(([label, grid, good, what]) => densityMap(grid, `${data.classes[label]}: ${Math.round(100 * good)} % ${what}`, whole.shape))));
}

// Several runs on this split: their figures, and accuracy after each glimpse.
function showRuns() {
  if (!data.runs) return;
  const head = make("tr", {}, ...["run", data.metric, "95 % interval", "glimpses a photo", "GMACs a photo"].map((textContent) => make("th", { scope: "col", textContent })));
  const rows = data.runs.map((run) => {
    const mark = make("span", { textContent: "■ ", ariaHidden: "true" });
    mark.style.color = run.colour;
    const name = make("td", {}, mark, run.name);
    const interval = run.interval.map((value) => (100 * value).toFixed(1)).join(" to ");
    return make("tr", {}, name, ...[`${(100 * run.accuracy).toFixed(1)} %`, `${interval} %`, run.glimpses, run.gmacs].map((text) => make("td", { textContent: String(text) })));
  });
  const xs = [...new Set(data.runs.flatMap((run) => run.steps))].sort((a, b) => a - b);
  const series = data.runs.map((run) => ({ name: run.name, colour: run.colour, values: xs.map((step) => run.steps.includes(step) ? run.curve[run.steps.indexOf(step)] : null) }));
  $("runs").append(make("h2", { textContent: "Runs on this split" }), make("table", { className: "figures" }, make("thead", {}, head), make("tbody", {}, ...rows)),
    make("div", { className: "charts" }, chart(`${metricName} after each glimpse`, series, { xs, names: xs.map((step) => step || "glance"), percent: true, below: "glimpses" })));
}

// What the test command found: the controls that the model has to beat, and what follows.
function showTested() {
  const found = data.tested;
  if (!found) return;
  const line = (name, accuracy, more) => make("tr", {}, make("td", { textContent: name }), make("td", { textContent: `${(100 * accuracy).toFixed(1)} %` }), make("td", { className: "quiet", textContent: more }));
  const rows = Object.entries(found.controls).map(([name, accuracy]) => line(`control: ${name}`, accuracy, `the model is ${Math.abs(100 * (found.accuracy - accuracy)).toFixed(1)} points ${found.accuracy < accuracy ? "worse" : "better"}`));
  $("tested").append(make("h2", {}, "What the test found ", make("span", { className: "quiet", textContent: found.when })), make("table", {}, line("this model", found.accuracy, ""), ...rows),
    ...found.meaning.map((textContent) => make("p", { textContent })));
}

// What `test --explain` found: figures, and the areas of deletion and insertion by order of places.
function showMattered() {
  const found = data.mattered;
  if (!found) return;
  const table = (heads, rows) => make("table", { className: "figures" },
    ...(heads.length ? [make("thead", {}, make("tr", {}, ...heads.map((textContent) => make("th", { scope: "col", textContent }))))] : []),
    make("tbody", {}, ...rows.map(([name, ...values]) => make("tr", {}, make("th", { scope: "row", textContent: name }), ...values.map((textContent) => make("td", { textContent }))))));
  $("mattered").append(make("h2", {}, "Whether it mattered where it looked ", make("span", { className: "quiet", textContent: `on ${counted(found.photos, "photo")}` })), ...found.meaning.map((textContent) => make("p", { textContent })), table([], found.figures));
  if (found.orders.length) $("mattered").append(table(["places in the order of", "area by insertion (more is better)", "area by deletion (less is better)"], found.orders),
    make("p", { className: "quiet", textContent: "Areas under the belief while these places are shown alone, or hidden, one after the other; 95 % intervals." }));
}

function showTraining() {
  if (!data.training.length) return;
  const colour = { train: "var(--focus)", valid: "var(--second)" };
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
$("shown").textContent = data.shown;
fillFilters();
makeWhy();
makeTable();
makeMatrix();
filter();
showRuns();
showTested();
showMattered();
showWhole();
showTraining();
if (!follow()) choose(0);
