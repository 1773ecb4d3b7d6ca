// Runs run.js on a minimal document with values of every kind in every field. Prints the errors as JSON.
import { readFileSync, readdirSync, writeFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { installDocument } from "./fake_document.mjs";

const [folder, values] = [process.argv[2], JSON.parse(process.argv[3])];
const problems = [];
console.error = (part, error) => problems.push(`${part}: ${error?.stack ?? error}`);

const elements = installDocument("r1");
const listeners = {};
globalThis.EventSource = class {
  static OPEN = 1;
  static CLOSED = 2;
  readyState = 1;
  addEventListener(name, listener) { listeners[name] = listener; }
};
globalThis.setInterval = () => 0;
globalThis.setTimeout = (work) => { queueMicrotask(work); return 0; };

const fields = {
  run: ["status", "currentStage", "history", "attempt", "retryCount", "maxAttempts", "crashCount", "startedAt", "completedAt", "lastHeartbeat", "heartbeat", "pod", "errorCode", "errorMessage", "params", "labels", "queuedAt", "runAfter", "cancelRequestedAt", "claimedBy", "leaseExpiresAt"],
  stage: ["name", "title", "status", "progress", "startedAt", "completedAt", "durationS", "bestMetric", "etaS", "iteration", "totalNodes", "errorMessage"],
  event: ["type", "time", "data", "level", "position"],
  series: ["name", "stage", "unit"],
  artifact: ["key", "kind", "role", "bytes", "sha256", "verified_at", "attempt"],
};
const good = {
  run: { _id: "r1", status: "RUNNING", currentStage: { name: "s", progress: 0.5 } },
  stage: { name: "s", status: "RUNNING", progress: 0.5 },
  event: { _id: "e1", type: "ai.run.stage_metric", time: "2026-01-01T00:00:00Z", position: 1, data: { stage: "s", name: "loss", value: 1, step: 1 } },
  series: { name: "loss", stage: "s", points: [[1, 0.3, "2026-01-01T00:00:00Z"], [2, 0.30000000000000004, "2026-01-01T00:00:01Z"]] },
  artifact: { key: "runs/r1/1/a.txt", kind: "data", attempt: 1, bytes: 5 },
};

// One copy for all cases: modules are cached by address, so each case loads its own.
const copy = mkdtempSync(join(tmpdir(), "page-"));
for (const name of readdirSync(folder).filter((each) => each.endsWith(".js"))) {
  writeFileSync(join(copy, name), readFileSync(join(folder, name), "utf8"));
}
writeFileSync(join(copy, "package.json"), '{"type": "module"}');

let count = 0;
async function check(documents, name) {
  for (const key of Object.keys(elements)) delete elements[key];
  const answers = { "/api/runs/r1": { run: documents.run, stages: [documents.stage], artifacts: [documents.artifact, good.artifact] }, metrics: { series: [documents.series] }, logs: { items: [{ ...documents.event, _id: "l1" }] }, events: { items: [documents.event, { ...good.event, _id: "s1", type: "ai.run.started", data: { pod_id: "p" } }] } };
  globalThis.fetch = async (path) => {
    const key = Object.keys(answers).find((each) => path === each) ?? path.split("/").at(-1).split("?")[0];
    return { ok: true, json: async () => structuredClone(answers[key]) };
  };
  const before = problems.length;
  count += 1;
  try {
    await import(`${pathToFileURL(join(copy, "run.js"))}?case=${count}`);
    for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
    await new Promise((done) => setImmediate(done));
    listeners.event?.({ data: JSON.stringify({ ...documents.event, _id: "e2" }) });
    listeners.event?.({ data: JSON.stringify({ ...documents.event, _id: "e3", type: "ai.run.log" }) });
    listeners.state?.({ data: JSON.stringify({ run: documents.run, stages: [documents.stage] }) });
    listeners.alive?.({ data: '{"age": 1}' });
    await new Promise((done) => setImmediate(done));
    if (elements.link?.className?.includes("bad")) problems.push(`link: ${elements.link.textContent}`);
    if (!elements.history?.children.length) problems.push("the history is empty");
  } catch (error) {
    problems.push(String(error?.stack ?? error));
  }
  for (let place = before; place < problems.length; place += 1) problems[place] = `${name}: ${problems[place]}`.slice(0, 400);
}

process.on("unhandledRejection", (error) => problems.push(`rejection: ${error?.stack}`.slice(0, 400)));
await check(good, "good");
for (const [kind, names] of Object.entries(fields)) {
  for (const name of names) {
    for (const value of [undefined, ...values]) {
      await check({ ...good, [kind]: { ...good[kind], [name]: value } }, `${kind}.${name} = ${JSON.stringify(value)}`);
    }
  }
}
rmSync(copy, { recursive: true });
console.log(JSON.stringify(problems.slice(0, 20)));
