// Keeps the site for use without a network, and adds the headers under which WebAssembly has threads.
// `warp-translate site` fills in the constants.
const build = "BUILD";
const files = ["FILES"];
const later = ["LATER"];  // Files that only some devices need, kept when they are first used.
const policy = "POLICY";

// Sites of one host share its caches.
const prefix = `warp_translate ${registration.scope} `;

const headers = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Content-Security-Policy": policy,  // Also of the workers, which that of the page does not bind.
};

function isolated(answer) {
  const all = new Headers(answer.headers);
  for (const [name, value] of Object.entries(headers)) all.set(name, value);
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers: all });
}

const known = new Set([...files, ...later].map((file) => new URL(file, registration.scope).href));

async function answer(url) {
  const cache = await caches.open(prefix + build);
  const kept = await cache.match(url);
  if (kept) return kept;
  const found = await fetch(url, { cache: "no-cache" });
  if (!found.ok) throw new Error(`${url} is missing (${found.status})`);
  const made = isolated(found);
  await cache.put(url, made.clone());
  return made;
}

addEventListener("install", (event) => {
  event.waitUntil(Promise.all(files.map((file) => answer(new URL(file, registration.scope).href))));
});
addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    const names = await caches.keys();
    await Promise.all(names
      .filter((name) => name.startsWith(prefix) && name !== prefix + build)
      .map((name) => caches.delete(name)));
    await clients.claim();
  })());
});
addEventListener("fetch", (event) => {
  const url = event.request.url.replace(/[?#].*/, "");
  if (event.request.method === "GET" && known.has(url)) event.respondWith(answer(url));
});
