"use strict";
// Boxes are [x1, y1, x2, y2, class, ...]: objects end with ignored (0 or 1), detections with a score
// and the kind of error. pairUp() gives the counts of mxrcnn.evaluation.confusion.

const content = JSON.parse(document.getElementById("content").textContent);
const names = ["background", ...content.classes];
const STEP = 60; // images that the gallery shows at once
const SIZES = { any: [0, Infinity], small: [0, 32 ** 2], medium: [32 ** 2, 96 ** 2],
  large: [96 ** 2, Infinity] };
const KINDS = ["right", "localisation", "classification", "duplicate", "background", "both"];
const COLOURS = ["#3b7dd8", "#d9822b", "#2e9e5b", "#c9408b", "#8a63d2", "#a07a3f", "#1f9aa8",
  "#c0392b"];
const $ = (id) => document.getElementById(id);
let listed = [], current = 0, most = STEP;

// --- geometry, as in symnet.geometry.boxes ---

const TINY = 1.1754943508222875e-38;
const area = (b) => Math.max(b[2] - b[0], 0) * Math.max(b[3] - b[1], 0);
const shared = (a, b) => Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0)
  * Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0);
const iou = (a, b) => shared(a, b) / Math.max(area(a) + area(b) - shared(a, b), TINY);

// The verdicts of an image's detections that score enough, and of its objects. Verdicts of
// detections: the object's class, 0 for none, -1 if it does not count; of objects: the class that
// was detected, 0 for none, -1 if it is ignored.
function pairUp(image, score, least) {
  const pairs = [], ofObjects = image.objects.map((o) => (o[5] ? -1 : 0));
  const ofDetections = image.detections.map((d) => (d[5] >= score ? 0 : -1));
  image.detections.forEach((d, i) => {
    if (ofDetections[i] < 0) return;
    image.objects.forEach((o, j) => {
      const overlap = o[5] ? 0 : iou(d, o);
      if (!o[5] && overlap >= least) pairs.push([overlap, i, j]);
    });
  });
  pairs.sort((a, b) => b[0] - a[0]); // stable
  for (const [, i, j] of pairs) {
    if (ofDetections[i] || ofObjects[j]) continue;
    ofDetections[i] = image.objects[j][4];
    ofObjects[j] = image.detections[i][4];
  }
  image.detections.forEach((d, i) => {
    const inside = (o) => o[5] && o[4] === d[4] && shared(d, o) / Math.max(area(d), TINY) >= least;
    if (ofDetections[i] === 0 && image.objects.some(inside)) ofDetections[i] = -1;
  });
  return { ofDetections, ofObjects };
}

// --- building the page: names become text, never HTML ---

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "rect", "text", "circle", "image", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function fillTable(table, head, rows, mark = () => "") {
  const line = (cells, tag, r) => make("tr", {}, ...cells.map((text, c) => {
    const kind = tag === "td" && c === 0 ? "th" : tag;
    const scope = { scope: tag === "th" ? "col" : "row" };
    const cell = make(kind, kind === "th" ? scope : {}, String(text));
    if (r !== undefined && mark(r, c)) cell.className = mark(r, c);
    return cell;
  }));
  table.replaceChildren(make("thead", {}, line(head, "th")),
    make("tbody", {}, ...rows.map((row, r) => line(row, "td", r))));
}

function number(value) {
  if (value === null || value === undefined || value === -1) return "-";
  return Number.isInteger(value) ? String(value) : value.toFixed(Math.abs(value) < 100 ? 4 : 1);
}

function showNumbers() {
  const { metrics = {}, per_class: classes = {}, best_f1_threshold: best = {}, metric,
    main } = content.report; // empty for results without a report.json
  $("title").textContent = content.title;
  const value = main ? `${metric} ${main} ${number(metrics[main])}, ` : "";
  const [images, classCount] = [content.images.length, content.classes.length];
  $("headline").textContent = `${value}${images} images, ${classCount} classes`;
  const columns = [...new Set(Object.values(classes).flatMap(Object.keys))];
  const head = ["class", ...columns.map((c) => c.replaceAll("_", " ")), "best F1", "at score"];
  fillTable($("classes"), head, Object.entries(classes).map(([name, row]) => [name,
    ...columns.map((c) => number(row[c])), number(best[name]?.f1), number(best[name]?.threshold)]));
  fillTable($("metrics"), ["metric", "value"],
    Object.entries(metrics).map(([name, v]) => [name, number(v)]));
  const kinds = Object.entries(content.errors.kinds).sort((a, b) => b[1].ap_cost - a[1].ap_cost);
  fillTable($("errors"), ["error", "count", "AP50 it costs", ...content.classes],
    kinds.map(([kind, v]) => [kind, v.count, number(v.ap_cost),
      ...content.classes.map((c) => content.errors.per_class[c][kind])]));
}

function showConfusion() {
  const { score, least } = chosen();
  const counts = names.map(() => names.map(() => 0));
  for (const image of content.images) {
    const { ofDetections, ofObjects } = pairUp(image, score, least);
    ofObjects.forEach((found, j) => { if (found >= 0) counts[image.objects[j][4]][found] += 1; });
    ofDetections.forEach((seen, i) => { if (seen === 0) counts[0][image.detections[i][4]] += 1; });
  }
  const order = [...names.keys()].slice(1).concat(0);
  fillTable($("confusion"), ["object", ...order.map((k) => (k ? names[k] : "not found"))],
    order.map((k) => [k ? names[k] : "no object",
      ...order.map((m) => (k || m ? counts[k][m] : ""))]),
    (r, c) => (c && r === c - 1 && r < order.length - 1 ? "hit" : ""));
}

// --- curves ---

function chart(place, title, series, across, up, labels, marks = []) {
  const [W, H, L, B, T] = [480, 310, 46, 34, 24];
  const x = (v) => L + ((v - across[0]) / (across[1] - across[0] || 1)) * (W - L - 12);
  const y = (v) => T + (1 - (v - up[0]) / (up[1] - up[0] || 1)) * (H - B - T);
  const svg = make("svg", { viewBox: `0 0 ${W} ${H + 18 * Math.ceil(series.length / 2)}`, role: "img",
    "aria-label": title }, make("path", { class: "axis", d: `M${L} ${T}V${H - B}H${W - 12}` }));
  const write = (tx, ty, text, anchor) =>
    svg.append(make("text", { x: tx, y: ty, "text-anchor": anchor }, text));
  const short = (v) => (Math.abs(v) >= 100 ? Math.round(v) : Number(v.toPrecision(3)));
  for (const share of [0, 0.5, 1]) {
    const [atX, atY] = [across, up].map(([low, high]) => low + share * (high - low));
    write(x(atX), H - B + 16, short(atX), "middle");
    write(L - 6, y(atY) + 4, short(atY), "end");
  }
  write((W + L) / 2, H - 2, labels[0], "middle");
  write(4, 14, labels[1], "start");
  series.forEach(([name, points], k) => {
    const colour = COLOURS[k % COLOURS.length];
    const at = ([px, py]) => `${x(px).toFixed(1)} ${y(py).toFixed(1)}`;
    const d = points.map((point, i) => `${i ? "L" : "M"}${at(point)}`).join("");
    svg.append(make("path", { class: "curve", d, stroke: colour }, make("title", {}, name)));
    if (marks[k]) {
      const [cx, cy] = [x(marks[k][0]), y(marks[k][1])];
      svg.append(make("circle", { cx, cy, r: 5, fill: colour }));
    }
    const [kx, ky] = [L + (k % 2) * 215, H + 14 + 18 * Math.floor(k / 2)];
    svg.append(make("rect", { x: kx, y: ky - 9, width: 10, height: 10, fill: colour }));
    write(kx + 15, ky, name.length > 26 ? `${name.slice(0, 25)}…` : name, "start");
  });
  place.replaceChildren(make("figcaption", {}, title), svg);
}

function showCurves() {
  const pr = [], f1 = [], marks = [], best = [];
  for (const name of content.classes) {
    const c = content.curves[name];
    if (!c.objects || !c.score.length) continue;
    const harmonic = c.right.map((r, i) => (2 * r) / (c.shown[i] + c.objects));
    const top = harmonic.indexOf(Math.max(...harmonic));
    pr.push([name, c.right.map((r, i) => [r / c.objects, r / c.shown[i]])]);
    f1.push([name, harmonic.map((v, i) => [c.score[i], v])]);
    marks.push([c.score[top], harmonic[top]]);
    best.push([c.right[top] / c.objects, c.right[top] / c.shown[top]]);
  }
  const unit = [0, 1];
  chart($("pr"), "Precision over recall; dots: the best F1", pr, unit, unit,
    ["recall", "precision"], best);
  chart($("f1"), "F1 over the score threshold; dots: the best", f1, unit, unit,
    ["score at least", "F1"], marks);
  showLosses();
}

function showLosses() {
  const losses = Object.entries(content.losses);
  const values = losses.flatMap(([, points]) => points);
  if (!values.length) return $("losses").replaceChildren("The run has no log of its training.");
  const tops = values.map((p) => p[1]).sort((a, b) => a - b);
  const high = tops[Math.floor(0.98 * (tops.length - 1))] || 1; // a few first steps are far above
  const steps = values.map((p) => p[0]);
  const cut = losses.map(([name, points]) => [name, points.map(([s, v]) => [s, Math.min(v, high)])]);
  chart($("losses"), "Training losses; the highest 2 % are cut off", cut,
    [Math.min(...steps), Math.max(...steps)], [0, high], ["step", "loss"]);
}

// --- images ---

const chosen = () => ({ score: Number($("score").value), least: Number($("iou").value) });

// The boxes of an image that the filters select.
function selected(image) {
  const { score, least } = chosen(), number = Number($("class").value), kind = $("kind").value;
  const [low, high] = SIZES[$("size").value];
  const fits = (b) => (!number || b[4] === number) && area(b) >= low && area(b) < high;
  if (kind === "not found") {
    const { ofObjects } = pairUp(image, score, least);
    return image.objects.filter((o, j) => ofObjects[j] >= 0 && ofObjects[j] !== o[4] && fits(o));
  }
  if (kind === "object") return image.objects.filter(fits);
  return image.detections.filter((d) =>
    d[5] >= score && (kind === "any" || d[6] === kind) && fits(d));
}

function errorsOf(image) {
  const { score, least } = chosen();
  const { ofDetections, ofObjects } = pairUp(image, score, least);
  return ofDetections.filter((seen, i) => seen >= 0 && seen !== image.detections[i][4]).length
    + ofObjects.filter((found) => found === 0).length;
}

function showGallery() {
  const all = ["class", "kind", "size"].every((id) => ["0", "any"].includes($(id).value));
  const rows = content.images.map((image) => [image, selected(image).length, errorsOf(image)]);
  const kept = rows.filter(([, count]) => all || count);
  if ($("order").value === "wrong") kept.sort((a, b) => b[2] - a[2]);
  listed = kept.map(([image]) => image);
  const boxes = kept.reduce((sum, [, count]) => sum + count, 0);
  $("count").textContent = `${listed.length} images, ${boxes} boxes`;
  $("gallery").replaceChildren(...kept.slice(0, most).map(([image, count, wrong], place) => {
    const button = make("button", { type: "button" }, image.picture
      ? make("img", { src: image.picture, alt: "", loading: "lazy" })
      : make("span", { class: "faint" }, image.problem || "no picture"),
    make("span", { class: "name" }, image.name),
    make("span", { class: "faint" }, `${count} boxes, ${wrong} errors`));
    button.addEventListener("click", () => openViewer(place));
    return make("li", {}, button);
  }));
  $("more").hidden = listed.length <= most;
}

function openViewer(place) {
  current = place;
  showViewer();
  if (!$("viewer").open) $("viewer").showModal();
}

function showViewer() {
  const image = listed[current], { score, least } = chosen();
  const { ofDetections, ofObjects } = pairUp(image, score, least);
  $("viewer-name").textContent = `${image.name} (${current + 1} of ${listed.length})`;
  $("original").setAttribute("href", image.file);
  $("viewer-score").value = score;
  $("viewer-score-value").textContent = score.toFixed(2);
  const svg = make("svg", { viewBox: `0 0 ${image.width} ${image.height}`, role: "img",
    "aria-label": "objects and detections" });
  const { width, height, picture } = image;
  if (picture) {
    svg.append(make("image", { href: picture, width, height, preserveAspectRatio: "none" }));
  }
  const lines = [];
  const draw = (box, kind, text) => {
    svg.append(make("rect", { class: kind, x: box[0], y: box[1], width: Math.max(box[2] - box[0], 0),
      height: Math.max(box[3] - box[1], 0) }, make("title", {}, text)));
    lines.push(make("li", { class: `k-${kind}` }, text));
  };
  image.objects.forEach((o, j) => {
    if (o[5]) return draw(o, "object", `${names[o[4]]}, ignored`);
    const as = ofObjects[j] ? `, taken for ${names[ofObjects[j]]}` : ", not found";
    const seen = ofObjects[j] === o[4] ? "" : as;
    draw(o, seen ? "missed" : "object", `${names[o[4]]}${seen}`);
  });
  image.detections.forEach((d, i) => {
    if (d[5] < score) return;
    const right = ofDetections[i] === d[4] || ofDetections[i] < 0;
    draw(d, right ? "right" : "wrong", `${names[d[4]]} ${d[5].toFixed(2)}, ${d[6]}`);
  });
  $("stage").replaceChildren(svg);
  $("viewer-list").replaceChildren(...lines);
}

function move(by) {
  current = (current + by + listed.length) % listed.length;
  showViewer();
}

// --- controls ---

function update() {
  $("score-value").textContent = Number($("score").value).toFixed(2);
  $("iou-value").textContent = Number($("iou").value).toFixed(2);
  showConfusion();
  showGallery();
}

function start() {
  const option = (value, text) => make("option", { value }, text);
  const classes = content.classes.map((name, k) => option(String(k + 1), name));
  $("class").append(option("0", "any"), ...classes);
  const kinds = KINDS.map((kind) => option(kind, `detection: ${kind}`));
  $("kind").append(option("any", "any detection"), ...kinds, option("object", "any object"),
    option("not found", "object not found"));
  $("size").append(option("any", "any"), option("small", "small (below 32² pixels)"),
    option("medium", "medium"), option("large", "large (from 96² pixels)"));
  $("score").value = content.score;
  for (const id of ["score", "iou"]) $(id).addEventListener("input", update);
  for (const id of ["class", "kind", "size", "order"]) {
    $(id).addEventListener("change", () => { most = STEP; showGallery(); });
  }
  for (const form of ["controls", "filters"]) {
    $(form).addEventListener("submit", (event) => event.preventDefault());
  }
  $("more").addEventListener("click", () => { most += STEP; showGallery(); });
  $("viewer-score").addEventListener("input", () => { // the list stays as it is meanwhile
    $("score").value = $("viewer-score").value;
    $("score-value").textContent = Number($("score").value).toFixed(2);
    showViewer();
  });
  $("viewer").addEventListener("close", update);
  $("previous").addEventListener("click", () => move(-1));
  $("next").addEventListener("click", () => move(1));
  $("close").addEventListener("click", () => $("viewer").close());
  $("viewer").addEventListener("keydown", (event) => {
    if (event.target.type === "range") return;
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  });
  $("notes").append(...[...content.notes, `data ${content.data_hash}, mxrcnn ${content.version}`]
    .map((note) => make("li", {}, note)));
  $("commands").textContent = content.commands.join("\n");
  $("config").textContent = JSON.stringify(content.config, null, 1);
  showNumbers();
  showCurves();
  update();
}

start();
