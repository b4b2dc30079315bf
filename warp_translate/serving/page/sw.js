// Keeps the site for use without a network, and adds the headers under which WebAssembly has threads.
// The export writes the two constants.
const build = "BUILD";
const files = ["FILES"];

// Sites of one host share its caches.
const prefix = `warp_translate ${registration.scope} `;

const headers = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

function isolated(answer) {
  const all = new Headers(answer.headers);
  for (const [name, value] of Object.entries(headers)) all.set(name, value);
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers: all });
}

// Files that only some devices need, such as the runtime for GPUs, are kept when they are first used.
async function answer(request) {
  const cache = await caches.open(prefix + build);
  const kept = await cache.match(request, { ignoreSearch: true });
  if (kept) return kept;
  const found = await fetch(request);
  if (!found.ok) return found;
  const made = isolated(found);
  await cache.put(request, made.clone());
  return made;
}

addEventListener("install", (event) => {
  skipWaiting();
  event.waitUntil(Promise.all(files.map((file) =>
    answer(new Request(new URL(file, registration.scope), { cache: "reload" })))));
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
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(registration.scope)) event.respondWith(answer(event.request));
});
