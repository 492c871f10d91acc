const get = (id) => document.getElementById(id);
const view = get("view"), pen = view.getContext("2d");
const LARGEST_VIEW = 1600;   // pixels of the canvas; masks keep the picture's own size
const DRAGGED = 5;           // pixels on the screen that make a box of a click
let picture = null;          // { file, name, address, image, width, height, task }; the name is without extension
let prompts = [];            // { id, sign } with { x, y }, or { id } with { x, y, width, height }, in percent; or { id, words }
let masks = [], regions = [], asked = 0, cross = null, corner = null, drag = null;

const say = (text, isProblem = false) => {
  get("state").textContent = translated(text);
  get("state").className = isProblem ? "problem" : "";
};
const random = () => Math.random().toString(36).slice(2, 12);

// The picture

const load = async (blob, name) => {
  const address = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
  if (address.length + 10_000 > MAX_BODY_BYTES) {
    return say(`${name} is too large: expected at most ${Math.floor(MAX_BODY_BYTES * 0.74 / 1e6)} MB.`, true);
  }
  const image = new Image();
  image.src = address;
  try { await image.decode(); } catch { return say(`This browser cannot show ${name}: expected a PNG, JPEG or WebP file.`, true); }
  const { naturalWidth: width, naturalHeight: height } = image, scale = Math.min(1, LARGEST_VIEW / Math.max(width, height));
  picture = { file: name, name: name.replace(/\.\w+$/, ""), address, image, width, height, task: 1 + Math.floor(Math.random() * 2 ** 31) };
  view.width = Math.max(1, Math.round(width * scale));
  view.height = Math.max(1, Math.round(height * scale));
  cross = null;
  clear();
  say(`${name}, ${width} × ${height}. Click an object, or drag a box around it.`);
  view.focus({ preventScroll: true });
  post(request("bitmask", null)).catch(() => {});  // as when a task is opened: the picture is encoded ahead
};
const open = (files) => { if (files.length) load(files[0], files[0].name || "picture"); };
const loadSample = async (name) => {
  try {
    const answer = await fetch(`/try/samples/${name}`);
    if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
    await load(await answer.blob(), name);
  } catch (error) { say(`${name} could not be loaded: ${error.message}.`, true); }
};

// The request, and its answer

const escaped = (text) => text.replace(/[&<>"\n]/g, (letter) => `&#${letter.charCodeAt(0)};`);
const named = () => prompts.flatMap(({ words }) => words ?? []).join(",").split(/[,;]/).map((word) => word.split("=").pop().trim()).filter(Boolean);
const config = (kind) => {
  const label = ["object", ...new Set(named())].map((word) => `<Label value="${escaped(word)}"/>`).join(""), control = { bitmask: "BitmaskLabels", polygon: "PolygonLabels" }[kind];
  return '<View><Image name="image" value="$image"/>'
    + `<${control} name="mask" toName="image" smart="false">${label}</${control}>`
    + `<KeyPointLabels name="point" toName="image" smart="true">${label}</KeyPointLabels>`
    + `<RectangleLabels name="box" toName="image" smart="true">${label}</RectangleLabels>`
    + '<TextArea name="segment_words" toName="image"/></View>';
};
const entry = ({ id, sign, words, ...shape }) => {
  if (words) return { value: { text: [words] }, id, from_name: "segment_words", to_name: "image", type: "textarea", origin: "manual" };
  const isBox = "width" in shape, type = isBox ? "rectanglelabels" : "keypointlabels";
  const value = isBox ? { ...shape, rotation: 0, [type]: ["object"] } : { ...shape, width: 0.5, [type]: ["object"] };
  return {
    original_width: picture.width, original_height: picture.height, image_rotation: 0, value,
    ...(isBox ? {} : { is_positive: sign }), id, from_name: isBox ? "box" : "point", to_name: "image", type, origin: "manual",
  };
};
const request = (kind, context = { result: prompts.map(entry) }) => ({
  tasks: [{ id: picture.task, data: { image: picture.address }, annotations: [], drafts: [], predictions: [] }],
  project: null, label_config: config(kind), params: { login: null, password: null, context },
});
const nameOf = ({ value }) => (value.bitmasklabels ?? value.polygonlabels ?? ["object"])[0];
const post = async (body) => {
  const answer = await fetch("/predict", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
  return (await answer.json()).results[0];
};
const ask = async () => {
  const turn = ++asked, start = performance.now();
  say("Waiting for the mask…");
  try {
    const body = request("bitmask");
    const shown = { ...body, tasks: [{ ...body.tasks[0], data: { image: `${picture.address.slice(0, 40)}… (${picture.address.length} characters)` } }] };
    get("request").textContent = `POST ${location.origin}/predict\nContent-Type: application/json\n\n${JSON.stringify(shown, null, 2)}`;
    const answer = await post(body), took = Math.round(performance.now() - start);
    const found = answer.result.filter((region) => region.value.imageDataURL);
    const images = await Promise.all(found.map(async (region) => {
      const image = new Image();
      image.src = region.value.imageDataURL;
      await image.decode();
      return image;
    }));
    if (turn !== asked) return;
    regions = found;
    masks = images;
    const count = masks.length === 1 ? "Mask" : `${masks.length} masks`;
    const scores = regions.map((region) => `${named().length ? `${nameOf(region)} ` : ""}${region.score.toFixed(3)}`).join(", ");
    if (masks.length) say(`${count} in ${took} ms · score ${scores}`);
    else if (prompts.some((prompt) => prompt.sign !== false)) say("No mask. The status page says why.", true);
    else say("Background alone marks nothing: click the object too.");
  } catch (error) {
    if (turn !== asked) return;
    masks = regions = [];
    say(`No mask: ${error.message}.`, true);
  }
  draw();
};

// Prompts

const change = () => {
  ++asked;
  corner = null;
  for (const id of ["undo", "clear"]) get(id).disabled = !prompts.length;
  if (prompts.length) ask(); else { masks = regions = []; say("Click an object, or drag a box around it."); }
  draw();
};
const clear = () => { prompts = []; change(); };
const undo = () => { prompts = prompts.slice(0, -1); change(); };
const point = ({ x, y }, isBackground) => { prompts = [...prompts, { id: random(), x, y, sign: !isBackground }]; change(); };
const between = (a, b) => ({ x: Math.min(a.x, b.x), y: Math.min(a.y, b.y), width: Math.abs(a.x - b.x), height: Math.abs(a.y - b.y) });
const box = (a, b) => { prompts = [...prompts, { id: random(), ...between(a, b) }]; change(); };
const find = () => {
  const words = get("words").value.trim();
  if (!picture || !words) return;
  prompts = [{ id: random(), words }];
  change();
};
const at = (event) => {
  const place = view.getBoundingClientRect(), within = (part) => Math.min(100, Math.max(0, 100 * part));
  return { x: within((event.clientX - place.left) / place.width), y: within((event.clientY - place.top) / place.height) };
};
const isBackground = (event) => event.altKey || event.button === 2 || get("background").checked;

view.addEventListener("pointerdown", (event) => {
  if (!picture || event.button === 1) return;
  view.setPointerCapture(event.pointerId);
  drag = { start: at(event), end: at(event), x: event.clientX, y: event.clientY, isBackground: isBackground(event), isBox: false };
  cross = corner = null;
});
view.addEventListener("pointermove", (event) => {
  if (!drag) return;
  drag.end = at(event);
  drag.isBox ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) >= DRAGGED;
  draw();
});
view.addEventListener("pointerup", () => {
  if (!drag) return;
  const { start, end, isBox, isBackground } = drag;
  drag = null;
  if (isBox && !isBackground) box(start, end); else point(start, isBackground);
});
view.addEventListener("pointercancel", () => { drag = null; draw(); });
view.addEventListener("contextmenu", (event) => event.preventDefault());

// What is seen

const draw = () => {
  if (!picture) return;
  for (const button of document.querySelectorAll("[data-save]")) button.disabled = !masks.length;
  pen.drawImage(picture.image, 0, 0, view.width, view.height);
  for (const mask of masks) pen.drawImage(tinted(mask, view.width, view.height, "rgb(42 101 207 / .55)"), 0, 0);
  const unit = view.width / (view.getBoundingClientRect().width || view.width);
  const x = (part) => part * view.width / 100, y = (part) => part * view.height / 100;
  const stroke = (path) => {
    for (const [width, colour] of [[4, "#fff"], [2, "#111"]]) {
      pen.lineWidth = width * unit;
      pen.strokeStyle = colour;
      pen.stroke(path);
    }
  };
  const outline = (shape) => {
    const path = new Path2D();
    path.rect(x(shape.x), y(shape.y), x(shape.width), y(shape.height));
    stroke(path);
  };
  for (const prompt of prompts) {
    if (prompt.words) continue;
    if ("width" in prompt) { outline(prompt); continue; }
    const path = new Path2D(), sign = new Path2D(), [left, top, half] = [x(prompt.x), y(prompt.y), 3.5 * unit];
    path.arc(left, top, 7 * unit, 0, 7);
    stroke(path);
    pen.fillStyle = prompt.sign ? "#1a7f37" : "#b42318";
    pen.fill(path);
    sign.rect(left - half, top - unit, 2 * half, 2 * unit);
    if (prompt.sign) sign.rect(left - unit, top - half, 2 * unit, 2 * half);
    pen.fillStyle = "#fff";
    pen.fill(sign);
  }
  if (drag?.isBox && !drag.isBackground) outline(between(drag.start, drag.end));
  if (cross) {
    if (corner) outline(between(corner, cross));
    const path = new Path2D(), [left, top, half] = [x(cross.x), y(cross.y), 12 * unit];
    path.moveTo(left - half, top); path.lineTo(left + half, top);
    path.moveTo(left, top - half); path.lineTo(left, top + half);
    stroke(path);
  }
};
const tinted = (mask, width, height, colour) => {
  const layer = Object.assign(document.createElement("canvas"), { width, height }), brush = layer.getContext("2d");
  brush.drawImage(mask, 0, 0, width, height);
  brush.globalCompositeOperation = "source-in";
  brush.fillStyle = colour;
  brush.fillRect(0, 0, width, height);
  return layer;
};
new ResizeObserver(draw).observe(view);

// Files

const download = (blob, name) => {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};
const saveJson = (value, name) => download(new Blob([JSON.stringify(value)], { type: "application/json" }), name);
const rings = async () => {
  const { width, height } = picture, { result } = await post(request("polygon"));
  return result.filter((region) => region.value.points).map((region) => ({
    score: region.score, name: nameOf(region), points: region.value.points.map(([x, y]) => [x * width / 100, y * height / 100]),
  }));
};
const area = (points) => Math.abs(points.reduce((sum, [x, y], i) => {
  const [nextX, nextY] = points[(i + 1) % points.length];
  return sum + x * nextY - nextX * y;
}, 0)) / 2;
const coco = ({ points, score, name }, i, all) => {
  const xs = points.map(([x]) => x), ys = points.map(([, y]) => y), left = Math.min(...xs), top = Math.min(...ys);
  return {
    id: i + 1, image_id: 1, category_id: names(all).indexOf(name) + 1, iscrowd: 0, score, segmentation: [points.flat()], area: area(points),
    bbox: [left, top, Math.max(...xs) - left, Math.max(...ys) - top],
  };
};
const names = (all) => [...new Set(all.map((ring) => ring.name))];
const files = {
  png: async () => {
    const { width, height, name } = picture, sheet = Object.assign(document.createElement("canvas"), { width, height }), brush = sheet.getContext("2d");
    brush.fillRect(0, 0, width, height);
    for (const mask of masks) brush.drawImage(tinted(mask, width, height, "#fff"), 0, 0);
    download(await new Promise((resolve) => sheet.toBlob(resolve)), `${name}-mask.png`);
  },
  polygon: async () => {
    const { width, height, name } = picture;
    saveJson({ width, height, polygons: (await rings()).map((ring) => ring.points) }, `${name}-polygons.json`);
  },
  coco: async () => {
    const { width, height, name, file } = picture, images = [{ id: 1, file_name: file, width, height }], all = await rings();
    const categories = names(all).map((name, i) => ({ id: i + 1, name }));
    saveJson({ images, categories, annotations: all.map(coco) }, `${name}-coco.json`);
  },
};
const save = async (kind) => {
  if (!masks.length) return;
  try { await files[kind](); } catch (error) { say(`Nothing was saved: ${error.message}.`, true); }
};

// Buttons, keys, dropped and pasted files

get("undo").addEventListener("click", undo);
get("find")?.addEventListener("click", find);
get("words")?.addEventListener("keydown", (event) => { if (event.key === "Enter") find(); });
get("clear").addEventListener("click", clear);
for (const button of document.querySelectorAll("[data-save]")) button.addEventListener("click", () => save(button.id));
for (const button of document.querySelectorAll("[data-sample]")) button.addEventListener("click", () => loadSample(button.dataset.sample));
get("file").addEventListener("change", (event) => { open(event.target.files); event.target.value = ""; });
document.addEventListener("paste", (event) => open(event.clipboardData.files));
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("is-over"); });
document.addEventListener("dragleave", () => document.body.classList.remove("is-over"));
document.addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("is-over"); open(event.dataTransfer.files); });

const keys = {
  o: () => get("file").click(), n: () => get("background").click(), z: () => prompts.length && undo(), Escape: () => prompts.length && clear(),
  s: () => save("png"), p: () => save("polygon"), c: () => save("coco"),
};
const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const steer = (event) => {
  const [right, down] = move[event.key] ?? [0, 0], step = event.shiftKey ? 5 : 0.5, within = (part) => Math.min(100, Math.max(0, part));
  cross = { x: within((cross?.x ?? 50) + step * right), y: within((cross?.y ?? 50) + step * down) };
  if (event.key === "Enter") point(cross, isBackground(event));
  if (event.key === "b" && corner) box(corner, cross); else if (event.key === "b") corner = cross;
  draw();
};
document.addEventListener("keydown", (event) => {
  if (event.target.type === "text") return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key !== "z" || !prompts.length) return;
    undo();
  } else if (picture && event.target === view && (event.key in move || ["Enter", "b"].includes(event.key))) steer(event);
  else if (event.key in keys && !event.altKey) keys[event.key]();
  else return;
  event.preventDefault();
});
