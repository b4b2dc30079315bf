"use strict";

const byId = (id) => document.getElementById(id);
const mapNames = {
  reduced: "reduced: what the network sees",
  pretranslated: "pretranslated image",
  mask: "mask: white is pretranslated",
  displacement: "displacement, by colour",
  warped: "warped original",
};
const mostMilliseconds = 120000;

let file = null;
let beforeAddress = null;
let served = [];
let running = null;
let answered = "";  // What was chosen for this picture, where the server had to ask.

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

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
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
    fail("This server asks for an API key.");
    return;
  }
  if (key()) sessionStorage.setItem("key", key());
  show("error", false);
  served = (await answer.json()).generators;
  const pair = byId("pair");
  const chosen = pair.value;
  pair.replaceChildren(option("", "whatever fits"));
  for (const target of new Set(served.map((each) => each.target).sort())) {
    pair.append(option(` ${target}`, `to ${target}`));
  }
  for (const each of served) {
    pair.append(option(`${each.source} ${each.target}`, `${each.source} to ${each.target}`));
  }
  pair.value = [...pair.options].some((each) => each.value === chosen) ? chosen : "";
  const factors = [...new Set(served.flatMap((each) => each.factors))].sort((a, b) => a - b);
  byId("factor").replaceChildren(option("", "as fast as this machine needs"));
  for (const each of factors) byId("factor").append(option(each, each));
  if (!served.length) fail("There is no generator yet: add a bundle to the folder that is served.");
}

function take(given) {
  if (!given) return;
  file = given;
  answered = "";
  byId("drop-text").textContent = given.name || "the pasted picture";
  byId("go").disabled = false;
  if (beforeAddress) URL.revokeObjectURL(beforeAddress);
  beforeAddress = URL.createObjectURL(given);
  translate();
}

async function translate() {
  if (!file) return;
  if (running) running.abort();
  const mine = new AbortController();
  running = mine;
  const timer = setTimeout(() => mine.abort(), mostMilliseconds);
  const [source, target] = (byId("pair").value || answered).split(" ");
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
    // Another request has taken this one's place.
    if (running !== mine) return;
    fail(mine.signal.aborted ? "It took too long. Try a smaller picture."
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
  byId("choice-buttons").replaceChildren(...found.choices.map((each) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${each.source} to ${each.target}`;
    button.addEventListener("click", () => {
      answered = `${each.source} ${each.target}`;
      translate();
    });
    return button;
  }));
  show("choices", true);
  byId("choice-buttons").firstElementChild.focus();
}

function question(found) {
  if (!("recognised" in found)) return "The picture looks like nothing that can be translated. Take it as";
  if (found.recognised) return `The picture looks like ${found.recognised}. Translate it to`;
  if (!found.probabilities) return "What is it, and what should become of it?";
  const shares = Object.entries(found.probabilities)
    .map(([name, share]) => `${name} ${Math.round(100 * share)} %`);
  return `The picture looks like nothing that is known (${shares.join(", ")}). Translate it as`;
}

function present(found, milliseconds) {
  const { width, height } = found;
  byId("before").src = beforeAddress;
  byId("after").src = found.output;
  byId("after").width = width;
  byId("after").height = height;
  byId("after").style.height = "auto";
  byId("facts").textContent =
    `${found.source}${found.recognised ? ", as recognised," : ""} to ${found.target}, ${width} x ${height} pixels, factor ${found.factor}, ` +
    `translated in ${Math.round(found.milliseconds)} ms (${Math.round(milliseconds)} ms in all)`;
  const link = byId("download");
  link.href = found.output;
  link.download = `${(file.name || "picture").replace(/\.[^.]*$/, "")}.${found.target}.png`;
  byId("maps").replaceChildren(...Object.entries(mapNames).map(([name, text]) => {
    const figure = document.createElement("figure");
    const image = document.createElement("img");
    image.src = found.maps[name];
    image.alt = text;
    const caption = document.createElement("figcaption");
    caption.textContent = text;
    figure.append(image, caption);
    return figure;
  }));
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
