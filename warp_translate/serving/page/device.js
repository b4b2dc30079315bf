// Translates on this device, by ONNX Runtime Web in worker.js: on the GPU or on the cores, whichever
// is faster here, with the best factor that meets the time limit. Their speed is measured once and kept
// in local storage.
const stillMilliseconds = 1500;
const frameMilliseconds = 100;
const sampleSide = 512;
// WebAssembly addresses 4 GB.
const mostBytes = 3.6e9;
const mostMeasuring = 20000;
// For measurements, ?backend=wasm or ?backend=webgpu uses one backend and the smallest factor.
const forced = new URLSearchParams(location.search).get("backend");

export const note = "Your pictures are translated on this device and are not sent anywhere.";
export const kinds = ["jpeg", "png", "webp", "avif"];
export const kindsText = "JPEG, PNG, WebP or AVIF";

let site = null;
const speeds = {};  // By name of the generator: {backend, reduced, full}, see measure().
const workers = {};  // By backend.
let calls = 0;

export function useKey() {}

function worker(backend) {
  if (!workers[backend]) {
    const made = new Worker("worker.js", { type: "module" });
    const waiting = new Map();
    made.onmessage = ({ data }) => {
      const { resolve, reject } = waiting.get(data.call);
      waiting.delete(data.call);
      if (data.error) reject(new Error(data.error));
      else resolve(data);
    };
    made.onerror = (event) => {
      for (const { reject } of waiting.values()) reject(new Error(event.message || "the worker failed."));
      waiting.clear();
    };
    workers[backend] = {
      ask: (message, transfer = []) => new Promise((resolve, reject) => {
        waiting.set(++calls, { resolve, reject });
        made.postMessage({ ...message, backend, call: calls }, transfer);
      }),
      end: () => made.terminate(),
    };
  }
  return workers[backend];
}

function stop(backend) {
  workers[backend]?.end();
  delete workers[backend];
}

// Without these two headers, which not every server sends, a page has one thread. The service worker
// adds them, from the second time the page is loaded.
async function isolate(tell) {
  if (!navigator.serviceWorker) return;
  tell("Preparing this page for use without a network…");
  await navigator.serviceWorker.register("sw.js");
  await navigator.serviceWorker.ready;
  if (!crossOriginIsolated && !sessionStorage.getItem("reloaded")) {
    sessionStorage.setItem("reloaded", "yes");
    location.reload();
    await new Promise(() => {});
  }
}

export async function list(tell) {
  try {
    await isolate(tell);
  } catch {
    // Private windows and plain HTTP have no service workers: one thread, and no use offline.
  }
  site = await (await fetch("site.json")).json();
  return site.generators;
}

export async function sample(generator) {
  return (await fetch(generator.sample)).blob();
}

function choose(source, target) {
  const found = site.generators.filter((each) =>
    (!source || each.source === source) && (!target || each.target === target));
  return found.length === 1 ? { generator: found[0] } : { choices: found };
}

// The milliseconds for every pixel of a translation: full + reduced / factor².
function predict({ reduced, full }, pixels, factor) {
  return pixels * (full + reduced / factor ** 2);
}

// Of the factors that meet the time limit, the one that shows the trunk the picture most nearly at
// the scale of the training pictures; the largest if none meets it.
function chooseFactor({ factors, factor, size }, speed, width, height, milliseconds) {
  const able = factors.filter((each) => predict(speed, width * height, each) <= milliseconds);
  if (!able.length) return Math.max(...factors);
  const best = (Math.min(width, height) * factor) / size;
  const distance = (each) => Math.abs(Math.log(each / best));
  return able.reduce((a, b) => (distance(b) < distance(a) ? b : a));
}

// The speed of a generator on this device. The first time it is that of the cores, and a GPU is
// tried in the background.
async function measure(generator) {
  if (forced) return { backend: forced, reduced: 0, full: 0 };
  const { name } = generator;
  const key = `${site.build} ${name} ${crossOriginIsolated} ${navigator.hardwareConcurrency}`;
  speeds[name] ??= JSON.parse(localStorage.getItem(key));
  if (speeds[name]) return speeds[name];
  const keep = (speed) => {
    speeds[name] = speed;
    localStorage.setItem(key, JSON.stringify(speed));
  };
  speeds[name] = await timed("wasm", generator);
  tryGpu(generator, speeds[name]).then(keep);
  return speeds[name];
}

// Returns the speed of the GPU if it is faster than the cores, else theirs.
async function tryGpu(generator, cores) {
  if (!(await adapter())) return cores;
  try {
    return await Promise.race([timed("webgpu", generator, cores), late()]);
  } catch (error) {
    console.info(`The GPU is not used: ${error.message}`);
    stop("webgpu");
    return cores;
  }
}

// Times a generator with its largest and its smallest factor.
async function timed(backend, generator, other) {
  const factors = [Math.max(...generator.factors), Math.min(...generator.factors)];
  const times = [];
  for (const factor of factors) {
    const { milliseconds } = await worker(backend).ask(
      { kind: "time", generator, factor, side: sampleSide });
    times.push(milliseconds / sampleSide ** 2);
    if (other && milliseconds > predict(other, sampleSide ** 2, factor)) {
      throw new Error(`it takes ${Math.round(milliseconds)} ms with factor ${factor}.`);
    }
  }
  const [little, much] = factors.map((each) => 1 / each ** 2);
  const reduced = Math.max(0, (times[1] - times[0]) / (much - little || 1));
  return { backend, reduced, full: Math.max(times[0] - reduced * little, 0) };
}

async function late() {
  await new Promise((resolve) => setTimeout(resolve, mostMeasuring));
  throw new Error(`it took more than ${mostMeasuring / 1000} s.`);
}

async function adapter() {
  return navigator.gpu?.requestAdapter().catch(() => null);
}

export async function translate(file, { source, target, factor }) {
  const { generator, choices } = choose(source, target);
  if (!generator) return { choices, question: "Choose a translation" };
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`this browser cannot read it; choose ${kindsText}.`);
  }
  const { width, height } = bitmap;
  const need = width * height * generator.bytesPerPixel;
  if (need > mostBytes) {
    throw new Error(`${width} x ${height} pixels need ${(need / 1e9).toFixed(1)} GB, and a page has `
      + `${mostBytes / 1e9} GB; scale the picture down.`);
  }
  const speed = await measure(generator);
  const used = factor && generator.factors.includes(factor) ? factor
    : chooseFactor(generator, speed, width, height, stillMilliseconds);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = () => context.getImageData(0, 0, width, height).data.buffer;
  const given = pixels();
  const answer = await worker(speed.backend).ask(
    { kind: "translate", generator, factor: used, width, height, pixels: given }, [given]);
  const form = file.type === "image/jpeg" ? "image/jpeg" : "image/png";
  const output = await encode(answer, form);
  return {
    output, width, height, factor: used, source: generator.source, target: generator.target,
    facts: `${generator.source} to ${generator.target}, ${width} x ${height} pixels, factor ${used}, `
      + `translated in ${Math.round(answer.milliseconds)} ms by ${answer.by}`,
    maps: async () => {
      const image = pixels();
      const { maps } = await worker(speed.backend).ask(
        { kind: "maps", generator, factor: used, width, height, pixels: image }, [image]);
      return Object.fromEntries(await Promise.all(Object.entries(maps).map(async ([name, each]) =>
        [name, URL.createObjectURL(await encode(each, "image/png"))])));
    },
  };
}

async function encode({ pixels, width, height }, type) {
  const canvas = new OffscreenCanvas(width, height);
  const image = new ImageData(new Uint8ClampedArray(pixels), width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.convertToBlob({ type, quality: 0.95 });
}

// Translates the camera's pictures onto a canvas until end() is called.
export async function live(canvas, tell, settings) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
  } catch (error) {
    throw new Error(error.name === "NotAllowedError" ? "the use of the camera was not allowed."
      : `no camera can be used (${error.message}).`, { cause: error });
  }
  const video = Object.assign(document.createElement("video"), {
    srcObject: stream, muted: true, playsInline: true,
  });
  await video.play();
  let running = true;
  const frame = new OffscreenCanvas(1, 1);
  const context = frame.getContext("2d", { willReadFrequently: true });
  const shown = canvas.getContext("2d");

  async function loop() {
    let smoothed = 0;
    let begin = performance.now();
    while (running) {
      const { size, factor, pair } = settings();
      const [source, target] = pair.split(" ");
      const { generator = site.generators[0] } = choose(source, target);
      const speed = await measure(generator);
      const scale = size / Math.min(video.videoWidth, video.videoHeight);
      const width = Math.round(video.videoWidth * scale);
      const height = Math.round(video.videoHeight * scale);
      const used = factor && generator.factors.includes(factor) ? factor
        : chooseFactor(generator, speed, width, height, frameMilliseconds);
      if (frame.width !== width || frame.height !== height) {
        Object.assign(frame, { width, height });
        Object.assign(canvas, { width, height });
      }
      context.drawImage(video, 0, 0, width, height);
      const { buffer } = context.getImageData(0, 0, width, height).data;
      const answer = await worker(speed.backend).ask(
        { kind: "translate", generator, factor: used, width, height, pixels: buffer }, [buffer]);
      shown.putImageData(new ImageData(new Uint8ClampedArray(answer.pixels), width, height), 0, 0);
      const now = performance.now();
      smoothed = smoothed ? 0.8 * smoothed + 0.2 * (now - begin) : now - begin;
      begin = now;
      tell(`${generator.source} to ${generator.target}, ${width} x ${height} pixels, factor ${used}: `
        + `${(1000 / smoothed).toFixed(1)} frames a second by ${answer.by}`);
      // Lets the page draw, and waits while it is hidden.
      await new Promise(requestAnimationFrame);
    }
  }
  loop().catch((error) => tell(`The camera stopped: ${error.message}`));
  return {
    end() {
      running = false;
      for (const track of stream.getTracks()) track.stop();
    },
    async shot() {
      const whole = new OffscreenCanvas(video.videoWidth, video.videoHeight);
      whole.getContext("2d").drawImage(video, 0, 0);
      const blob = await whole.convertToBlob({ type: "image/jpeg", quality: 0.95 });
      return new File([blob], "camera.jpg", { type: "image/jpeg" });
    },
  };
}
