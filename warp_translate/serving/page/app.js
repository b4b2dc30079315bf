// The page: a queue of images, before and after, the camera. `backend.js` translates, on the server
// (server.js) or on this device (device.js).
import * as backend from "./backend.js";

const byId = (id) => document.getElementById(id);
const mapNames = {
  reduced: "reduced: the input of the trunk",
  pretranslated: "pretranslated image",
  mask: "mask: white is pretranslated",
  displacement: "displacement, by color",
  warped: "warped original",
};
// Pictures whose reduced copy is this many times larger or smaller than in training get a hint.
const unusualScale = 3;
const mostResults = 12;

let generators = [];
const queue = [];  // Jobs: {file, source, target}.
const results = [];
let shown = null;  // The result on the page.
let busy = false;

function show(id, visible) {
  byId(id).hidden = !visible;
}

// Adds a line to those that are shown.
function fail(message) {
  byId("error").append(...(byId("error").hidden ? [message] : ["\n", message]));
  show("error", true);
}

function clearErrors() {
  byId("error").replaceChildren();
  show("error", false);
}

function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function fill(id, options) {
  const select = byId(id);
  const selected = select.value;
  select.replaceChildren(...[["", "Automatic"], ...options]
    .map(([value, textContent]) => make("option", { value, textContent })));
  select.value = [...select.options].some((each) => each.value === selected) ? selected : "";
}

async function list() {
  try {
    generators = await backend.list((text) => { byId("status").textContent = text; });
  } catch (error) {
    report(error);
    return;
  }
  clearErrors();
  byId("status").textContent = "";
  const targets = [...new Set(generators.map((each) => each.target).sort())];
  fill("pair", [
    ...targets.map((target) => [` ${target}`, `to ${target}`]),
    ...generators.map(({ source, target }) => [`${source} ${target}`, `${source} to ${target}`]),
  ]);
  const factors = [...new Set(generators.flatMap((each) => each.factors))].sort((a, b) => a - b);
  fill("factor", factors.map((factor) => [`${factor}`, factor]));
  const samples = generators.filter((each) => each.sample);
  byId("sample-buttons").replaceChildren(...samples.map((each) => {
    const image = make("img", { alt: "", width: 64, height: 64 });
    backend.sample(each).then((data) => { image.src = URL.createObjectURL(data); }, report);
    const button = make("button", {
      type: "button", className: "sample", title: `A sample for ${each.source} to ${each.target}`,
    }, image, `${each.source} to ${each.target}`);
    button.addEventListener("click", () => trySample(each));
    return button;
  }));
  show("samples", samples.length);
  if (!generators.length) fail("There is no generator yet: add a bundle to the served folder.");
}

async function trySample(generator) {
  const { name, source, target } = generator;
  try {
    const data = await backend.sample(generator);
    add([new File([data], `${name}.jpg`, { type: data.type })], { source, target });
  } catch (error) {
    report(error);
  }
}

function add(files, choice = {}) {
  if (!files?.length) return;
  const unanswered = byId("choices").hidden ? null : queue.shift();
  queue.push(...[...files].map((file) => ({ file, ...choice })));
  work();
  if (unanswered) fail(`${unanswered.file.name} was skipped, since no translation was chosen.`);
}

function report(error) {
  if (error.needsKey) show("key-field", true);
  fail(error.message);
}

// Translates the images in the queue one after the other.
async function work() {
  if (busy) return;
  busy = true;
  byId("go").disabled = true;
  show("choices", false);
  clearErrors();
  let done = 0;
  while (queue.length) {
    const job = queue.shift();
    if (await translate(job, ++done)) break;
  }
  busy = false;
  byId("go").disabled = !queue.length && !results.length;
}

// Translates an image; true if the user has to choose, or to give a key, first.
async function translate(job, number) {
  const begin = performance.now();
  const total = number + queue.length;
  const name = job.file.name || "image";
  function tick() {
    const seconds = Math.floor((performance.now() - begin) / 1000);
    byId("status").textContent = `Translating ${name}` + (total > 1 ? ` (${number} of ${total})` : "")
      + (seconds ? `, ${seconds} s` : "…");
  }
  tick();
  const timer = setInterval(tick, 1000);
  const { source, target } = job.target ? job : selected();
  try {
    const found = await backend.translate(job.file, {
      source, target, factor: Number(byId("factor").value) || null,
    });
    if (found.choices && !found.choices.length) throw new Error(found.question);
    if (found.choices) {
      choose(job, found);
      return true;
    }
    found.milliseconds = performance.now() - begin;
    present(keep(job, found));
    byId("status").textContent = "Done.";
  } catch (error) {
    byId("status").textContent = "";
    error.message = `${name}: ${error.message}`;
    report(error);
    if (error.needsKey) {
      queue.unshift(job);
      return true;
    }
  } finally {
    clearInterval(timer);
  }
  return false;
}

function selected() {
  const [source, target] = byId("pair").value.split(" ");
  return { source, target };
}

function choose(job, { choices, question }) {
  queue.unshift(job);
  byId("status").textContent = "";
  show("result", false);
  byId("choices-title").textContent = question;
  byId("choice-buttons").replaceChildren(...choices.map(({ source, target }) => {
    const button = make("button", { type: "button", textContent: `${source} to ${target}` });
    button.addEventListener("click", () => {
      // Images that were added with it are translated alike.
      for (const each of queue) if (!each.target) Object.assign(each, { source, target });
      work();
    });
    return button;
  }));
  show("choices", true);
  byId("choice-buttons").firstElementChild.focus();
}

// Adds a result to those that the page offers, in place of an earlier one of the same file.
function keep(job, found) {
  const before = results.findIndex((each) => each.job.file === job.file);
  const result = { ...found, job, before: before < 0 ? URL.createObjectURL(job.file)
    : results[before].before, after: URL.createObjectURL(found.output) };
  if (before < 0) {
    results.push(result);
    if (results.length > mostResults) {
      const oldest = results.shift();
      for (const url of [oldest.before, oldest.after]) URL.revokeObjectURL(url);
    }
  } else {
    URL.revokeObjectURL(results[before].after);
    results[before] = result;
  }
  byId("others").replaceChildren(...results.map((each) => {
    const button = make("button", { type: "button", textContent: each.job.file.name || "image" });
    button.addEventListener("click", () => present(each));
    return button;
  }));
  show("others", results.length > 1);
  return result;
}

function present(result) {
  shown = result;
  const { width, height } = result;
  byId("before").src = result.before;
  Object.assign(byId("after"), { src: result.after, width, height });
  byId("after").style.height = "auto";
  byId("facts").textContent = `${result.facts}, ${Math.round(result.milliseconds)} ms in total`;
  const hint = scaleHint(result);
  byId("hint").textContent = hint;
  show("hint", hint);
  const link = byId("download");
  link.href = result.after;
  const kind = result.output.type === "image/jpeg" ? "jpg" : "png";
  link.download = `${(result.job.file.name || "image").replace(/\.[^.]*$/, "")}.${result.target}.${kind}`;
  for (const [place, button] of [...byId("others").children].entries()) {
    button.setAttribute("aria-pressed", results[place] === result);
  }
  slide();
  show("result", true);
  look();
}

// Only one factor shows the trunk the picture at the scale of the training pictures.
function scaleHint({ source, target, width, height, factor }) {
  const found = generators.find((each) => each.source === source && each.target === target);
  if (!found?.size) return "";
  const best = (Math.min(width, height) * found.factor) / found.size;
  if (best < factor * unusualScale && factor < best * unusualScale) return "";
  const [first, ...others] = found.factors;
  const near = others.reduce((a, b) =>
    Math.abs(Math.log(b / best)) < Math.abs(Math.log(a / best)) ? b : a, first);
  return `This generator was trained on pictures of ${found.size} pixels with factor `
    + `${found.factor}; this one is ${best > factor ? "larger" : "smaller"}`
    + (near === factor ? "." : `, so factor ${near} may look better.`);
}

// Shows the intermediate images, which are computed when they are opened.
async function look() {
  const result = shown;
  byId("maps").replaceChildren();
  if (!byId("inside").open || !result) return;
  if (!result.drawn) {
    byId("maps").textContent = "Computing…";
    try {
      result.drawn = await result.maps();
    } catch (error) {
      if (shown === result) byId("maps").textContent = error.message;
      return;
    }
  }
  if (shown !== result) return;
  byId("maps").replaceChildren(...Object.entries(mapNames).map(([name, text]) =>
    make("figure", {},
      make("img", { src: result.drawn[name], alt: text }),
      make("figcaption", { textContent: text }))));
}

function slide() {
  const share = byId("slider").value;
  byId("before").style.clipPath = `inset(0 ${100 - share}% 0 0)`;
  byId("line").style.left = `${share}%`;
}

function drag(event) {
  if (event.type === "pointermove" && !event.buttons) return;
  const box = byId("compare").getBoundingClientRect();
  byId("slider").value = (100 * (event.clientX - box.left)) / box.width;
  slide();
}

let camera = null;

async function openCamera() {
  clearErrors();
  byId("camera").disabled = true;
  try {
    camera = await backend.live(byId("live-picture"), (facts) => {
      byId("live-facts").textContent = facts;
    }, () => ({
      size: Number(byId("live-size").value),
      factor: Number(byId("factor").value) || null,
      pair: byId("pair").value,
    }));
  } catch (error) {
    fail(error.message);
    return;
  } finally {
    byId("camera").disabled = false;
  }
  show("live", true);
  show("result", false);
  byId("live").scrollIntoView({ block: "nearest" });
}

function closeCamera() {
  camera?.end();
  camera = null;
  show("live", false);
  show("result", shown);
}

byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!byId("key-field").hidden) await list();
  // A selected translation takes the place of an earlier choice.
  if (shown && !queue.length) queue.unshift(byId("pair").value ? { file: shown.job.file } : shown.job);
  work();
});
byId("file").accept = backend.kinds.map((kind) => `image/${kind}`).join(",");
byId("kinds").textContent = backend.kindsText;
byId("note").textContent = backend.note;
show("note", backend.note);
byId("file").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";  // The same file may be chosen again.
});
byId("key").addEventListener("change", () => {
  backend.useKey(byId("key").value);
  list();
});
byId("slider").addEventListener("input", slide);
byId("inside").addEventListener("toggle", look);
byId("compare").addEventListener("pointerdown", (event) => {
  byId("compare").setPointerCapture(event.pointerId);
  drag(event);
});
byId("compare").addEventListener("pointermove", drag);
byId("compare").addEventListener("dragstart", (event) => event.preventDefault());
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", type === "dragover");
    if (type === "drop") add(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => add(event.clipboardData.files));
if (backend.live && navigator.mediaDevices) {
  show("camera", true);
  byId("camera").addEventListener("click", () => (camera ? closeCamera() : openCamera()));
  byId("live-end").addEventListener("click", closeCamera);
  byId("shot").addEventListener("click", async () => {
    const file = await camera.shot();
    closeCamera();
    add([file]);
  });
}
list();
