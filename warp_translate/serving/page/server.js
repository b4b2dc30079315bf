// Translates on the server that serves this page.
const timeoutMilliseconds = 120000;

export const note = "";
export const kinds = ["jpeg", "png", "webp"];
export const kindsText = "JPEG, PNG or WebP";
export const live = null;

export function useKey(key) {
  sessionStorage.setItem("key", key);
}

async function request(path, options = {}) {
  const key = sessionStorage.getItem("key");
  let answer;
  try {
    answer = await fetch(path, {
      ...options,
      headers: { ...options.headers, ...(key && { "X-API-Key": key }) },
      signal: AbortSignal.timeout(timeoutMilliseconds),
    });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "the request timed out; try a smaller image."
      : "the server cannot be reached. Is it running?");
  }
  if (answer.status === 401) {
    throw Object.assign(new Error("this server requires an API key."), { needsKey: true });
  }
  return answer;
}

export async function list() {
  return (await (await request("v1/generators")).json()).generators;
}

export async function sample(generator) {
  const answer = await request(generator.sample);
  if (!answer.ok) throw new Error(`the server has no ${generator.sample}.`);
  return answer.blob();
}

export async function translate(file, { source, target, factor }) {
  // Photographs in PNG would take longer to encode and to send than to translate.
  const format = file.type === "image/jpeg" ? "jpeg" : "png";
  const answer = await post(file, { source, target, factor, format });
  if (!answer.headers.get("Content-Type").startsWith("image/")) return choice(await answer.json());
  const about = (name) => answer.headers.get(`X-${name}`);
  const found = {
    output: await answer.blob(),
    source: about("Source"),
    target: about("Target"),
    ...Object.fromEntries(["width", "height", "factor"].map((name) => [name, Number(about(name))])),
  };
  const { width, height } = found;
  const recognized = about("Recognised") ? " (recognized)" : "";
  return {
    ...found,
    facts: `${found.source}${recognized} to ${found.target}, ${width} x ${height} pixels, `
      + `factor ${found.factor}, translated in ${Math.round(about("Milliseconds"))} ms`,
    maps: async () => {
      const { source, target, factor } = found;
      return (await (await post(file, { source, target, factor, maps: "preview" })).json()).maps;
    },
  };
}

async function post(file, fields) {
  const given = Object.entries(fields).filter(([, value]) => value);
  const answer = await request(`v1/translate?${new URLSearchParams(given)}`, {
    method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" },
  });
  if (answer.ok || answer.status === 300 || answer.status === 404) return answer;
  throw new Error((await answer.json()).error || `the server answered ${answer.status}.`);
}

function choice(found) {
  if (!found.choices) throw new Error(found.error);
  return { choices: found.choices, question: question(found) };
}

function question(found) {
  if (!("recognised" in found)) return "No generator translates this image. Translate it as";
  if (found.recognised) return `The image looks like ${found.recognised}. Translate it to`;
  if (!found.probabilities) return "Choose a translation";
  const shares = Object.entries(found.probabilities)
    .map(([name, share]) => `${name} ${Math.round(100 * share)} %`);
  return `The image looks like none of the known domains (${shares.join(", ")}). Translate it as`;
}
