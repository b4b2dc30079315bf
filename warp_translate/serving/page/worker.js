// Runs generators by ONNX Runtime Web, beside the page. Each worker has one backend.
const mostPreview = 512;
const fullColorShare = 0.05;

let runtime = null;
const sessions = new Map();

async function load(backend) {
  if (runtime) return runtime;
  runtime = await import(`./onnxruntime/ort.${backend}.min.mjs`);
  runtime.env.wasm.wasmPaths = new URL("./onnxruntime/", import.meta.url).href;
  runtime.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1;
  runtime.env.logLevel = "error";
  return runtime;
}

async function open(backend, { file }) {
  const { InferenceSession } = await load(backend);
  if (!sessions.has(file)) {
    sessions.set(file, await InferenceSession.create(file, {
      executionProviders: [backend], logSeverityLevel: 3,
    }));
  }
  return sessions.get(file);
}

function by(backend) {
  if (backend === "webgpu") return "the GPU";
  const { numThreads } = runtime.env.wasm;
  return numThreads === 1 ? "one thread" : `${numThreads} threads`;
}

async function run({ backend, generator, factor, width, height, pixels }, withMaps = false) {
  const session = await open(backend, generator);
  const { Tensor } = runtime;
  const begin = performance.now();
  const found = await session.run({
    image: new Tensor("uint8", new Uint8Array(pixels), [1, height, width, 4]),
    factor: new Tensor("int64", [BigInt(factor)], []),
    with_maps: new Tensor("bool", [withMaps], []),
  });
  return { found, milliseconds: performance.now() - begin };
}

async function translate(job) {
  const { found, milliseconds } = await run(job);
  const { width, height } = job;
  return {
    pixels: found.output.data.buffer, width, height, milliseconds, by: by(job.backend),
  };
}

// The fastest of up to three runs in two seconds, after one that does not count.
async function time({ backend, generator, factor, side }) {
  const pixels = new Uint8Array(4 * side * side).fill(128);
  const job = { backend, generator, factor, width: side, height: side, pixels };
  await run(job);
  const times = [];
  do times.push((await run(job)).milliseconds);
  while (times.length < 3 && times.reduce((a, b) => a + b) < 2000);
  return { milliseconds: Math.min(...times) };
}

// Draws the maps, at most 512 pixels a side.
async function maps(job) {
  const { found } = await run(job, true);
  const full = Math.max(1, fullColorShare * Math.max(job.width, job.height));
  const draw = {
    mask: ([value]) => [255 * value, 255 * value, 255 * value],
    displacement: ([x, y]) => wheel(x / full, y / full),
  };
  const color = (values) => values.map((value) => (value + 1) * 127.5);
  return {
    maps: Object.fromEntries(["reduced", "pretranslated", "mask", "displacement", "warped"].map(
      (name) => [name, thin(found[name], draw[name] || color)])),
  };
}

function thin({ data, dims: [, height, width, channels] }, draw) {
  const step = Math.ceil(Math.max(height, width) / mostPreview);
  const size = { width: Math.ceil(width / step), height: Math.ceil(height / step) };
  const pixels = new Uint8ClampedArray(4 * size.width * size.height);
  let place = 0;
  for (let y = 0; y < height; y += step) {
    for (let x = 0; x < width; x += step) {
      const begin = channels * (y * width + x);
      pixels.set([...draw([...data.subarray(begin, begin + channels)]), 255], place);
      place += 4;
    }
  }
  return { pixels: pixels.buffer, ...size };
}

// Hue by direction, right is red and down yellow-green; saturation by length.
function wheel(x, y) {
  const hue = (Math.atan2(y, x) / (2 * Math.PI) + 1) * 6;
  const share = Math.min(1, Math.hypot(x, y));
  return [5, 3, 1].map((offset) => {
    const place = (offset + hue) % 6;
    return 255 * (1 - share * Math.max(0, Math.min(place, 4 - place, 1)));
  });
}

async function prepare({ backend, generator }) {
  await open(backend, generator);
  return {};
}

const answers = { prepare, translate, time, maps };
let last = Promise.resolve();  // Sessions run one job at a time.

async function work(data) {
  try {
    const answer = await answers[data.kind](data);
    postMessage({ ...answer, call: data.call }, answer.pixels ? [answer.pixels] : []);
  } catch (error) {
    postMessage({ call: data.call, error: `${error.message ?? error}` });
  }
}

onmessage = ({ data }) => {
  last = last.then(() => work(data));
};
