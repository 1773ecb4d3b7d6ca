// Loads runs.js on the answers of an API (or without an answer); prints the texts of the page's parts as JSON.
import { pathToFileURL } from "node:url";

import { installDocument, Node } from "./fake_document.mjs";

const [folder, answers] = [process.argv[2], JSON.parse(process.argv[3])];
const elements = installDocument(undefined);
const [body, table] = [new Node("tbody"), new Node("table")];
globalThis.document.querySelector = (selector) => (selector === "#runs tbody" ? body : table);
globalThis.document.addEventListener = () => {};
globalThis.location = { search: "", pathname: "/" };
globalThis.history = { replaceState() {} };
globalThis.setTimeout = () => 0;
globalThis.fetch = async (path) => {
  if (answers.error) throw Object.assign(new Error("gone"), { name: answers.error });
  return { ok: true, json: async () => (path === "/api/stats" ? answers.stats : answers.page) };
};
await import(pathToFileURL(`${folder}/runs.js`));
for (let turn = 0; turn < 5; turn += 1) await new Promise((done) => setImmediate(done));
const texts = Object.fromEntries(Object.entries(elements).map(([id, element]) => [id, element.textContent]));
console.log(JSON.stringify({ texts, rows: body.children.map((row) => row.textContent), link: elements.link.className }));
