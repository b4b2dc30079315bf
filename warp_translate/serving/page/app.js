"use strict";

const byId = (id) => document.getElementById(id);
const mapNames = {
  reduced: "reduced: the input of the trunk",
  pretranslated: "pretranslated image",
  mask: "mask: white is pretranslated",
  displacement: "displacement, by color",
  warped: "warped original",
};
const timeoutMilliseconds = 120000;

let file = null;
let beforeUrl = null;
let running = null;
let choice = "";  // The user's choice for this image after an ambiguous request.

function key() {
  return byId("key").value || sessionStorage.getItem("key") || "";
}

function headers() {
  return key() ? { "X-API-Key": key() } : {};
}

function show(id, visible) {
  byId(id).hidden = !visible;
}

function fail(message) {
  byId("error").textContent = message;
  show("error", true);
  byId("status").textContent = "";
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
  let answer;
  try {
    answer = await fetch("v1/generators", { headers: headers() });
  } catch {
    fail("The server cannot be reached. Is it running?");
    return;
  }
  if (answer.status === 401) {
    show("key-field", true);
    fail("This server requires an API key.");
    return;
  }
  if (key()) sessionStorage.setItem("key", key());
  show("error", false);
  const served = (await answer.json()).generators;
  const targets = [...new Set(served.map((each) => each.target).sort())];
  fill("pair", [
    ...targets.map((target) => [` ${target}`, `to ${target}`]),
    ...served.map(({ source, target }) => [`${source} ${target}`, `${source} to ${target}`]),
  ]);
  const factors = [...new Set(served.flatMap((each) => each.factors))].sort((a, b) => a - b);
  fill("factor", factors.map((factor) => [`${factor}`, factor]));
  if (!served.length) fail("There is no generator yet: add a bundle to the served folder.");
}

function take(given) {
  if (!given) return;
  file = given;
  choice = "";
  byId("drop-text").textContent = given.name || "the pasted image";
  byId("go").disabled = false;
  if (beforeUrl) URL.revokeObjectURL(beforeUrl);
  beforeUrl = URL.createObjectURL(given);
  translate();
}

async function translate() {
  if (!file) return;
  if (running) running.abort();
  const mine = new AbortController();
  running = mine;
  const timer = setTimeout(() => mine.abort(), timeoutMilliseconds);
  const [source, target] = (byId("pair").value || choice).split(" ");
  const fields = new URLSearchParams({ maps: "all" });
  if (source) fields.set("source", source);
  if (target) fields.set("target", target);
  if (byId("factor").value) fields.set("factor", byId("factor").value);
  show("error", false);
  show("choices", false);
  byId("status").textContent = "Translating…";
  const begin = performance.now();
  try {
    const answer = await fetch(`v1/translate?${fields}`, {
      method: "POST",
      body: file,
      headers: { "Content-Type": "application/octet-stream", ...headers() },
      signal: mine.signal,
    });
    const found = await answer.json();
    if (answer.status === 300 || found.choices) choose(found);
    else if (answer.status === 200) present(found, performance.now() - begin);
    else {
      if (answer.status === 401) show("key-field", true);
      show("result", false);
      fail(found.error || `The server answered ${answer.status}.`);
    }
  } catch (error) {
    if (running !== mine) return;  // Superseded by another request.
    fail(mine.signal.aborted ? "The request timed out. Try a smaller image."
      : "The server cannot be reached. Is it running?");
  } finally {
    clearTimeout(timer);
    if (running === mine) running = null;
  }
}

function choose(found) {
  byId("status").textContent = "";
  show("result", false);
  byId("choices-title").textContent = question(found);
  byId("choice-buttons").replaceChildren(...found.choices.map(({ source, target }) => {
    const button = make("button", { type: "button", textContent: `${source} to ${target}` });
    button.addEventListener("click", () => {
      choice = `${source} ${target}`;
      translate();
    });
    return button;
  }));
  show("choices", true);
  byId("choice-buttons").firstElementChild.focus();
}

function question(found) {
  if (!("recognised" in found)) return "No generator translates this image. Translate it as";
  if (found.recognised) return `The image looks like ${found.recognised}. Translate it to`;
  if (!found.probabilities) return "Choose a translation";
  const shares = Object.entries(found.probabilities)
    .map(([name, share]) => `${name} ${Math.round(100 * share)} %`);
  return `The image looks like none of the known domains (${shares.join(", ")}). Translate it as`;
}

function present(found, milliseconds) {
  const { width, height } = found;
  byId("before").src = beforeUrl;
  Object.assign(byId("after"), { src: found.output, width, height });
  byId("after").style.height = "auto";
  byId("facts").textContent =
    `${found.source}${found.recognised ? " (recognized)" : ""} to ${found.target}, ` +
    `${width} x ${height} pixels, factor ${found.factor}, ` +
    `translated in ${Math.round(found.milliseconds)} ms (${Math.round(milliseconds)} ms in total)`;
  const link = byId("download");
  link.href = found.output;
  link.download = `${(file.name || "image").replace(/\.[^.]*$/, "")}.${found.target}.png`;
  byId("maps").replaceChildren(...Object.entries(mapNames).map(([name, text]) =>
    make("figure", {},
      make("img", { src: found.maps[name], alt: text }),
      make("figcaption", { textContent: text }))));
  slide();
  show("result", true);
  byId("status").textContent = "Done.";
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

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!byId("key-field").hidden) list().then(() => translate());
  else translate();
});
byId("file").addEventListener("change", (event) => take(event.target.files[0]));
byId("key").addEventListener("change", list);
byId("slider").addEventListener("input", slide);
byId("compare").addEventListener("pointerdown", drag);
byId("compare").addEventListener("pointermove", drag);
byId("compare").addEventListener("dragstart", (event) => event.preventDefault());
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", type === "dragover");
    if (type === "drop") take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
list();
