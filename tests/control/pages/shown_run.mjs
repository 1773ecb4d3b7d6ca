// Loads run.js on the answers of an API; prints the texts of the page's parts and the lines of its charts as JSON.
// `later` lets time pass: {seconds, age}; then the server is silent, or says how old the database's answer is.
import { pathToFileURL } from "node:url";

import { find, installDocument } from "./fake_document.mjs";

const [folder, { later, ...answers }] = [process.argv[2], JSON.parse(process.argv[3])];
const elements = installDocument("r1");
const [listeners, intervals] = [{}, []];
let source;
globalThis.EventSource = class {
  static OPEN = 1;
  static CLOSED = 2;
  readyState = 1;
  constructor() { source = this; }
  addEventListener(name, listener) { listeners[name] = listener; }
};
globalThis.setInterval = (work) => intervals.push(work);
globalThis.fetch = async (path) => {
  const key = path === "/api/runs/r1" ? "run" : path.split("/").at(-1).split("?")[0];
  return { ok: true, json: async () => answers[key] };
};
await import(pathToFileURL(`${folder}/run.js`));
for (let turn = 0; turn < 5; turn += 1) await new Promise((done) => setImmediate(done));
if (later) {
  source.onopen();
  const now = Date.now() + later.seconds * 1000;
  Date.now = () => now;
  if (later.age !== undefined) listeners.alive({ data: JSON.stringify({ age: later.age }) });
  for (const work of intervals) work();
}
const texts = Object.fromEntries(Object.entries(elements).map(([id, element]) => [id, element.textContent]));
const lines = find(elements.curves, "path").map((path) => path.attributes.d);
console.log(JSON.stringify({ texts, lines, link: elements.link?.className ?? "" }));
