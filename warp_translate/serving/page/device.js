// Translates on this device, by ONNX Runtime Web in worker.js: on the GPU or on the cores, whichever
// is faster here, with the best factor that meets the time limit. Their speed is measured once and kept
// in local storage.
const stillMilliseconds = 1500;
const frameMilliseconds = 100;
const sampleSide = 512;
// WebAssembly addresses 4 GB.
const mostBytes = 3.6e9;
const mostMeasuring = 20000;
// For measurements, ?backend=wasm or ?backend=webgpu uses one backend, without a time limit.
const forced = new URLSearchParams(location.search).get("backend");

export const note = "Your pictures are translated on this device and are not sent anywhere.";
export const kinds = ["jpeg", "png", "webp", "avif"];
export const kindsText = "JPEG, PNG, WebP or AVIF";

const described = fetch("site.json").then((answer) => answer.json());
let site = null;
let used = false;  // Whether a picture was given, which a reload would lose.
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
      if (data.error) {
        reject(new Error(data.error));
        // A runtime without memory stays so; the next job gets another one.
        if (/memory|alloc|abort/i.test(data.error)) stop(backend, data.error);
      } else resolve(data);
    };
    made.onerror = (event) => stop(backend, event.message || "the worker failed; try again.");
    workers[backend] = {
      ask: (message, transfer = []) => new Promise((resolve, reject) => {
        waiting.set(++calls, { resolve, reject });
        made.postMessage({ ...message, backend, call: calls }, transfer);
      }),
      end(why) {
        made.terminate();
        for (const { reject } of waiting.values()) reject(new Error(why));
      },
    };
  }
  return workers[backend];
}

function stop(backend, why) {
  const ended = workers[backend];
  delete workers[backend];
  ended?.end(why);
}

// Without these two headers, which not every server sends, a page has one thread. The service worker
// adds them, from the second time the page is loaded.
async function isolate(tell) {
  if (!navigator.serviceWorker) return;
  tell("Preparing this page for use without a network…");
  const registration = await navigator.serviceWorker.register("sw.js");
  const { installing } = registration;
  await Promise.race([navigator.serviceWorker.ready, new Promise((resolve) => {
    installing?.addEventListener("statechange", () => {
      if (installing.state === "redundant") resolve();
    });
    setTimeout(resolve, mostMeasuring);
  })]);
  if (registration.active && !crossOriginIsolated && !used
    && !sessionStorage.getItem("reloaded")) {
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
  site = await described;
  return site.generators;
}

export async function sample(generator) {
  const answer = await fetch(generator.sample);
  if (!answer.ok) throw new Error(`the site has no ${generator.sample}.`);
  return answer.blob();
}

function choose(source, target) {
  const found = site.generators.filter((each) =>
    (!source || each.source === source) && (!target || each.target === target));
  return found.length === 1 ? { generator: found[0] } : { choices: found };
}

function memory({ bytesPerPixel }, width, height, factor) {
  return width * height * bytesPerPixel[factor];
}

// The milliseconds for every pixel of a translation: full + reduced / factor².
function predict({ reduced, full }, pixels, factor) {
  return pixels * (full + reduced / factor ** 2);
}

// Of the factors that meet the limits of time and memory, the one that shows the trunk the picture
// most nearly at the scale of the training pictures; the largest if none meets them.
function chooseFactor(generator, speed, width, height, milliseconds) {
  const { factors, factor, size } = generator;
  const able = factors.filter((each) => predict(speed, width * height, each) <= milliseconds
    && memory(generator, width, height, each) <= mostBytes);
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
  speeds[name] ??= stored(key);
  if (speeds[name]) return speeds[name];
  const keep = (speed) => {
    speeds[name] = speed;
    try {
      localStorage.setItem(key, JSON.stringify(speed));
    } catch {
      // It is measured again next time.
    }
  };
  speeds[name] = await timed("wasm", generator);
  tryGpu(generator, speeds[name]).then(keep);
  return speeds[name];
}

function stored(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;  // Some browsers have no storage for some pages.
  }
}

// Returns the speed of the GPU if it is faster than the cores, else theirs.
async function tryGpu(generator, cores) {
  if (!(await adapter())) return cores;
  try {
    await worker("webgpu").ask({ kind: "prepare", generator });
    return await Promise.race([timed("webgpu", generator, cores), late()]);
  } catch (error) {
    console.info(`The GPU is not used: ${error.message}`);
    const needed = Object.values(speeds).some(({ backend }) => backend === "webgpu");
    if (!needed) stop("webgpu", error.message);
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
  used = true;
  site = await described;
  const { generator, choices } = choose(source, target);
  if (!generator) {
    return { choices, question: choices.length ? "Choose a translation"
      : `no generator translates ${source} to ${target}.` };
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`this browser cannot read it; choose ${kindsText}.`);
  }
  const { width, height } = bitmap;
  const speed = await measure(generator);
  const applied = generator.factors.includes(factor) ? factor
    : chooseFactor(generator, speed, width, height, stillMilliseconds);
  const need = memory(generator, width, height, applied);
  if (need > mostBytes) {
    throw new Error(`${width} x ${height} pixels with factor ${applied} need `
      + `${(need / 1e9).toFixed(1)} GB, and a page has ${mostBytes / 1e9} GB; choose a larger factor `
      + "or scale the picture down.");
  }
  const ask = (kind, pixels) => worker(speed.backend).ask(
    { kind, generator, factor: applied, width, height, pixels }, [pixels]);
  const answer = await ask("translate", flat(bitmap).buffer);
  const form = file.type === "image/jpeg" ? "image/jpeg" : "image/png";
  const output = await encode({ ...answer, pixels: unflat(new Uint8ClampedArray(answer.pixels)) }, form);
  return {
    output, width, height, factor: applied, source: generator.source, target: generator.target,
    facts: `${generator.source} to ${generator.target}, ${width} x ${height} pixels, `
      + `factor ${applied}, translated in ${Math.round(answer.milliseconds)} ms by ${answer.by}`,
    maps: async () => {
      const { maps } = await ask("maps", flat(await createImageBitmap(file)).buffer);
      return Object.fromEntries(await Promise.all(Object.entries(maps).map(async ([name, each]) =>
        [name, URL.createObjectURL(await encode(each, "image/png"))])));
    },
  };
}

// The pixels of a bitmap over white, with its alpha.
function flat(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 3; at < data.length; at += 4) {
    if (data[at] === 255) continue;
    for (let color = at - 3; color < at; color++) {
      data[color] = (data[color] * data[at] + 255 * (255 - data[at])) / 255;
    }
  }
  return data;
}

// The inverse, except where alpha is zero.
function unflat(data) {
  for (let at = 3; at < data.length; at += 4) {
    if (data[at] === 255 || data[at] === 0) continue;
    for (let color = at - 3; color < at; color++) {
      data[color] = (255 * data[color] - 255 * (255 - data[at])) / data[at];
    }
  }
  return data.buffer;
}

async function encode({ pixels, width, height }, type) {
  const canvas = new OffscreenCanvas(width, height);
  const image = new ImageData(new Uint8ClampedArray(pixels), width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.convertToBlob({ type, quality: 0.95 });
}

// Translates the camera's pictures onto a canvas until end() is called.
export async function live(canvas, tell, settings) {
  site = await described;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
  } catch (error) {
    throw new Error(error.name === "NotAllowedError" ? "the camera is blocked for this page: allow it in the "
      + "browser's settings of this site."
      : `no camera can be used (${error.message}).`, { cause: error });
  }
  const video = Object.assign(document.createElement("video"), {
    srcObject: stream, muted: true, playsInline: true,
  });
  const close = () => stream.getTracks().forEach((track) => track.stop());
  try {
    await video.play();
  } catch (error) {
    close();
    throw error;
  }
  let running = true;
  stream.getVideoTracks()[0].onended = () => {
    running = false;
    tell("The camera was disconnected.");
  };
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
      const applied = generator.factors.includes(factor) ? factor
        : chooseFactor(generator, speed, width, height, frameMilliseconds);
      if (frame.width !== width || frame.height !== height) {
        Object.assign(frame, { width, height });
        Object.assign(canvas, { width, height });
      }
      context.drawImage(video, 0, 0, width, height);
      const { buffer } = context.getImageData(0, 0, width, height).data;
      const answer = await worker(speed.backend).ask(
        { kind: "translate", generator, factor: applied, width, height, pixels: buffer }, [buffer]);
      shown.putImageData(new ImageData(new Uint8ClampedArray(answer.pixels), width, height), 0, 0);
      const now = performance.now();
      smoothed = smoothed ? 0.8 * smoothed + 0.2 * (now - begin) : now - begin;
      begin = now;
      tell(`${generator.source} to ${generator.target}, ${width} x ${height} pixels, factor ${applied}: `
        + `${(1000 / smoothed).toFixed(1)} frames a second by ${answer.by}`);
      // The browser draws; a hidden page waits here, which is no part of the rate.
      await new Promise(requestAnimationFrame);
      if (performance.now() - begin > 1000) begin = performance.now();
    }
  }
  loop().catch((error) => {
    close();
    tell(`The camera stopped: ${error.message}`);
  });
  return {
    end() {
      running = false;
      close();
    },
    async shot() {
      const whole = new OffscreenCanvas(video.videoWidth, video.videoHeight);
      whole.getContext("2d").drawImage(video, 0, 0);
      const blob = await whole.convertToBlob({ type: "image/jpeg", quality: 0.95 });
      return new File([blob], "camera.jpg", { type: "image/jpeg" });
    },
  };
}
