// Loads run.js on the answers of an API; prints the texts of the page's parts and the lines of its charts as JSON.
import { pathToFileURL } from "node:url";

import { find, installDocument } from "./fake_document.mjs";

const [folder, answers] = [process.argv[2], JSON.parse(process.argv[3])];
const elements = installDocument("r1");
globalThis.EventSource = class { addEventListener() {} };
globalThis.setInterval = () => 0;
globalThis.fetch = async (path) => {
  const key = path === "/api/runs/r1" ? "run" : path.split("/").at(-1).split("?")[0];
  return { ok: true, json: async () => answers[key] };
};
await import(pathToFileURL(`${folder}/run.js`));
for (let turn = 0; turn < 5; turn += 1) await new Promise((done) => setImmediate(done));
const texts = Object.fromEntries(Object.entries(elements).map(([id, element]) => [id, element.textContent]));
const lines = find(elements.curves, "path").map((path) => path.attributes.d);
console.log(JSON.stringify({ texts, lines, dots: find(elements.curves, "circle").filter((dot) => dot.attributes.cx).length }));
