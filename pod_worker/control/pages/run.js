// One run as it happens: server-sent events, or a poll every three seconds where those do not get through.

import { chart, legend } from "./chart.js";
import { $, bar, make, pill, show } from "./dom.js";
import { clock, figure, measure, percent, since, size, span, when } from "./words.js";

const id = document.body.dataset.run;
const api = `/api/runs/${encodeURIComponent(id)}`;
const LEVELS = ["debug", "info", "warn", "error"];
const ACTIVE = ["SCHEDULED", "RUNNING", "AUTO_VALIDATING"];
const SAMPLES = new Set(["ai.run.log", "ai.run.stage_metric", "ai.run.stage_progress"]);
const [LOG_LINES, POINTS, HISTORY, POLL_MS] = [500, 1500, 60, 3000];
const [SMALL_PX, GAP_PX] = [190, 14]; // a small chart at least, and the space between two: as in page.css
const SILENT_MS = 12000; // the server sends something at least every 5 s
const state = { run: null, stages: [], series: new Map(), log: [], seen: new Set(), history: [], position: 0 };

async function read(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail ?? response.statusText);
  return body;
}

// ── what is known ──────────────────────────────────────────────────────────────────────────────────────────

async function load() {
  const [detail, metrics, logs, history] = await Promise.all([
    read(api),
    read(`${api}/metrics?points=600`),
    read(`${api}/logs?tail=${LOG_LINES}&level=debug`),
    read(`${api}/events?limit=1000`),
  ]);
  Object.assign(state, { run: detail.run, stages: detail.stages });
  state.series.clear();
  for (const each of metrics.series) state.series.set(`${each.stage}/${each.name}`, { ...each, isTime: each.points.some(([step]) => step === null), points: each.points.map(([step, value, time, attempt]) => [step ?? Date.parse(time) / 1000, value, attempt]) });
  state.log = logs.items.map(logLine);
  state.history = newest(history.items.filter((event) => !SAMPLES.has(event.type)));
  state.seen = new Set([...logs.items, ...history.items].map((event) => event._id));
  state.position = Math.max(state.position, 0, ...history.items.map((event) => event.position));
  aside(detail);
  render();
}

const newest = (events) => events.sort((a, b) => Date.parse(b.time) - Date.parse(a.time)).slice(0, HISTORY);

const logLine = (event) => ({ id: event._id, time: event.time, level: event.level ?? "info", message: String(event.data?.message ?? ""), source: event.data?.source });

function take(event) {
  state.position = Math.max(state.position, event.position);
  if (state.seen.has(event._id)) return;
  state.seen.add(event._id);
  if (event.type === "ai.run.log") state.log = [...state.log.slice(1 - LOG_LINES), logLine(event)];
  else if (event.type === "ai.run.stage_metric") addPoint(event);
  if (!SAMPLES.has(event.type)) state.history = newest([event, ...state.history]);
  if (/^ai\.(artifact|validation|run\.(failed|completed))/.test(String(event.type))) later(() => read(api).then(aside), 300);
}

function addPoint({ data, time, attempt }) {
  if (!data || typeof data.value !== "number") return;
  const key = `${data.stage}/${data.name}`;
  const known = state.series.get(key) ?? { stage: data.stage, name: String(data.name), unit: data.unit, isTime: data.step == null, points: [] };
  const x = data.step ?? Date.parse(time) / 1000;
  const points = known.points.filter(([before]) => before !== x);
  points.push([x, data.value, attempt ?? undefined]);
  points.sort(([a], [b]) => a - b);
  state.series.set(key, { ...known, points: points.length > POINTS ? points.filter((_, place) => place % 2 === 0 || place === points.length - 1) : points });
}

const pending = new Map();
function later(work, milliseconds = 100) {
  if (pending.has(work.name)) return;
  pending.set(work.name, setTimeout(() => { pending.delete(work.name); work(); }, milliseconds));
}

// ── what is shown ──────────────────────────────────────────────────────────────────────────────────────────

function render() {
  const { run } = state;
  if (!run) return;
  show($("status"), run.status, () => pill(run.status));
  document.title = `${String(run.status ?? "?").toLowerCase()} · ${id} · pod_worker`;
  for (const part of [now, facts, stages, curves, log, history]) safely(part, run);
  const open = ["QUEUED", "SCHEDULED", "RUNNING", "AUTO_VALIDATING", "AWAITING_HUMAN"].includes(run.status);
  $("cancel").hidden = !open || Boolean(run.cancelRequestedAt);
  $("reset").hidden = open;
}

// One part that fails (on a value that another program wrote) must not stop the others.
function safely(part, run) {
  try {
    part(run);
  } catch (error) {
    console.error(part.name, error);
  }
}

function now(run) {
  const stage = Object(run.currentStage);
  const last = state.log.at(-1);
  const parts = [];
  if (run.cancelRequestedAt && !run.canceledAt) parts.push("Cancel requested; waiting for the worker to confirm.");
  else if (run.status === "QUEUED") parts.push(run.runAfter && Date.parse(run.runAfter) > Date.now() ? `Waits until ${clock(run.runAfter)} for its next attempt.` : `Waits for a worker. To know why: pod-worker runs why ${id}`);
  else if (run.status === "CANCELED") parts.push(`Canceled${run.canceledBy ? ` by ${run.canceledBy}` : ""}${run.cancelReason ? `: ${run.cancelReason}` : "."}`);
  else if (stage.name && run.status !== "COMPLETED") parts.push(`${stage.title ?? stage.name} ${percent(stage.progress)}${stage.etaS ? `, about ${span(stage.etaS)} left` : ""}`);
  show($("now"), [parts, last?.id, stage.progress, run.status], () => [
    stage.name ? bar(stage.progress, run.status === "FAILED" ? "bad" : run.status === "COMPLETED" ? "ok" : "") : null,
    make("p", {}, parts.join(" "), last ? make("span", { class: "quiet latest" }, ` ${last.message}`) : null),
  ]);
}

function facts(run) {
  const ended = run.completedAt ?? run.failedAt ?? run.canceledAt;
  const active = ACTIVE.includes(run.status);
  const beat = run.heartbeat ?? {};
  const entries = [
    ["Name", run.name],
    ["Pipeline", run.pipeline],
    ["Attempt", run.attempt ?? 0],
    ["Failed attempts", run.maxAttempts && `${run.failedAttempts ?? 0} of at most ${run.maxAttempts}`],
    ["Worker", run.claimedBy ?? run.pod?.workerId],
    ["Pod", [run.pod?.id, run.pod?.gpu, run.pod?.region].filter(Boolean).join(" · ")],
    ["Created", run.createdAt && when(run.createdAt)],
    ["Started", run.startedAt && when(run.startedAt)],
    ["Ended", ended && when(ended)],
    ["Canceled by", run.status === "CANCELED" && run.canceledBy],
    ["Reason", run.status === "CANCELED" && run.cancelReason],
    [`${ended ? "Took" : "Running for"}${run.attempt > 1 ? ` (attempt ${run.attempt})` : ""}`, active === !ended && run.startedAt && span(((ended ? Date.parse(ended) : Date.now()) - Date.parse(run.startedAt)) / 1000)],
    ["Heartbeat", run.lastHeartbeat && active && `${since(run.lastHeartbeat)} ago`],
    ["Lease ends", run.leaseExpiresAt && active && clock(run.leaseExpiresAt)],
    ["GPU", beat.gpuUtil != null && active && percent(beat.gpuUtil > 1 ? beat.gpuUtil / 100 : beat.gpuUtil)],
    ["Memory", beat.rssGb != null && active && `${figure(beat.rssGb)} GB`],
    ["Best", run.currentStage?.bestMetric],
    ["Hypothesis", run.hypothesisId],
  ].filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  show($("facts"), entries, () => entries.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
}

function stages(run) {
  const key = [state.stages, run.status, Math.floor(Date.now() / 5000)];
  show($("stages"), key, () => (state.stages.length ? state.stages.map((stage) => stageRow(stage, ACTIVE.includes(run.status))) : make("p", { class: "empty" }, "No stage has started.")));
}

// A stage whose process died stays RUNNING in the view, because no event says that it ended.
function stageRow(stage, isActive) {
  const status = stage.status === "RUNNING" && !isActive ? "INTERRUPTED" : stage.status;
  const tone = { FAILED: "bad", COMPLETED: "ok" }[status] ?? "";
  const counts = [
    stage.iteration != null && `iteration ${stage.iteration}${stage.maxIterations ? `/${stage.maxIterations}` : ""}`,
    stage.totalNodes != null && `${stage.goodNodes ?? 0} good, ${stage.buggyNodes ?? 0} buggy of ${stage.totalNodes} nodes`,
    status === "RUNNING" && stage.etaS != null && `${span(stage.etaS)} left`,
    stage.bestMetric != null && `best ${figure(stage.bestMetric)}`,
  ].filter(Boolean);
  const took = stage.durationS ?? (stage.startedAt ? ((stage.completedAt ? Date.parse(stage.completedAt) : status === "RUNNING" ? Date.now() : NaN) - Date.parse(stage.startedAt)) / 1000 : NaN);
  return make(
    "div",
    { class: "stage" },
    make("div", { class: "row" }, make("b", {}, stage.title ?? stage.name), stage.title !== stage.name ? make("span", { class: "quiet mono" }, stage.name) : null, make("span", { class: "grow" }), make("span", { class: "quiet" }, span(took)), pill(status)),
    bar(stage.status === "COMPLETED" ? 1 : stage.progress, tone),
    make("div", { class: "quiet small" }, [percent(stage.status === "COMPLETED" ? 1 : stage.progress), ...counts].join(" · ")),
    stage.errorMessage ? make("div", { class: "bad small" }, `${stage.errorCode}: ${stage.errorMessage}`) : null,
  );
}

// Stages often report the same metric: then its name says of which stage it is.
function named(series, all) {
  const title = (name) => state.stages.find((stage) => stage.name === name)?.title ?? name;
  return series.map((each) => {
    const isShared = all.some((other) => other.name === each.name && other.stage !== each.stage);
    return isShared ? { ...each, name: `${each.name} · ${title(each.stage)}` } : each;
  });
}

function curves() {
  const all = [...state.series.values()].filter((each) => each.points.length && each.stage !== "system");
  const gauges = [...state.series.values()].filter((each) => each.points.length > 1 && each.stage === "system");
  const losses = all.filter((each) => /(^|_)loss$/.test(String(each.name))).sort((a, b) => a.name.length - b.name.length);
  const first = losses.length ? losses : all.slice(0, 1);
  const main = named(first, all);
  const rest = [...named(all.filter((each) => !first.includes(each)), all), ...gauges].slice(0, 12);
  const width = Math.max(260, $("curves").clientWidth);
  const columns = Math.max(1, Math.floor((width + GAP_PX) / (SMALL_PX + GAP_PX)));
  const small = (width - (columns - 1) * GAP_PX) / columns;
  const key = [width, ...[...state.series.values()].map((each) => [each.name, each.points.length, each.points.at(-1)])];
  show($("curves"), key, () => {
    if (!all.length && !gauges.length) return make("p", { class: "empty" }, "No metric has been reported.");
    return [
      main.length ? make("figure", {}, legend(main), chart(main, { width, height: Math.min(230, width * 0.55), label: main.map((each) => each.name).join(", ") })) : null,
      make("div", { class: "smalls" }, ...rest.map((each) => make("figure", {}, make("figcaption", {}, make("span", { class: "quiet" }, measure(each).title), make("b", {}, measure(each).shown(each.points.at(-1)[1]))), chart([each], { width: small, height: 110, label: each.name })))),
    ];
  });
}

function log() {
  const from = LEVELS.indexOf($("level").value);
  const lines = state.log.filter((line) => LEVELS.indexOf(line.level) >= from);
  show($("log"), [from, lines.length, lines.at(-1)?.id, lines[0]?.id], () =>
    lines.length ? lines.map((line) => make("div", { class: `line ${line.level}` }, make("time", { title: when(line.time) }, clock(line.time)), make("span", { class: "level" }, line.level), make("span", { class: "text" }, line.message))) : make("p", { class: "empty" }, "No log line at this level."),
  );
  if ($("follow").checked) $("log").scrollTop = $("log").scrollHeight;
}

// Events of the log, and what the queue did: claims, rescues, cancels and resets with their authors.
function history(run) {
  const actions = Array.isArray(run.history) ? run.history.filter(Boolean).map((entry, place) => ({ _id: `queue ${place} ${entry.at}`, time: entry.at, action: entry })) : [];
  const entries = newest([...state.history, ...actions]);
  show($("history"), entries.map((entry) => entry._id), () => entries.map(historyLine));
}

function historyLine(entry) {
  const { title, text, traceback } = entry.action ? actionText(entry.action) : eventText(entry);
  const more = traceback ? make("details", {}, make("summary", {}, "traceback"), make("pre", {}, String(traceback))) : null;
  return make("li", {}, make("time", { title: when(entry.time) }, clock(entry.time)), make("b", {}, title), make("div", { class: "quiet" }, text, more));
}

// In the words of `pod-worker runs why`.
function actionText({ what, by, attempt, detail }) {
  return { title: `${what ?? "?"}${by ? ` by ${by}` : ""}`, text: `attempt ${attempt ?? "?"}${detail ? `: ${detail}` : ""}` };
}

function eventText(event) {
  const { run_id: _, traceback, ...data } = Object(event.data);
  const fields = Object.entries(data).filter(([, value]) => value !== null && typeof value !== "object");
  const shown = fields.map(([key, value]) => `${key} ${typeof value !== "number" ? value : key === "bytes" ? size(value) : figure(value)}`);
  const attempt = Number.isInteger(event.attempt) ? [`attempt ${event.attempt}`] : [];
  return { title: String(event.type ?? "?").replace(/^ai\./, ""), text: [...attempt, ...shown].join(", "), traceback };
}

// What changes rarely: the error box, the artifacts, the parameters.
function aside(detail) {
  const { run } = detail;
  const failed = Boolean(run.errorCode) && run.status !== "COMPLETED";
  const hasEnded = ["FAILED", "CANCELED"].includes(run.status);
  $("error").hidden = !failed;
  $("error").className = hasEnded ? "card error" : "card";
  if (failed) {
    show($("error"), [run.errorCode, run.errorMessage, detail.hint, run.status], () => [
      make("h2", {}, run.errorCode, hasEnded ? null : make("span", { class: "quiet" }, ` ended an earlier attempt; the run ${run.status === "QUEUED" ? "is queued again" : "goes on"}`)),
      make("p", { class: "message" }, run.errorMessage ?? ""),
      detail.hint ? make("p", { class: "hint" }, detail.hint) : null,
      run.errorTraceback ? make("details", {}, make("summary", {}, "Traceback"), make("pre", {}, run.errorTraceback)) : null,
    ]);
  }
  show($("artifacts"), detail.artifacts, () => (detail.artifacts.length ? artifactTable(detail.artifacts) : make("p", { class: "empty" }, "No artifact was uploaded.")));
  const shown = { params: run.params, requirements: run.requirements, labels: run.labels, hypothesis: detail.hypothesis?.title };
  show($("params"), shown, () => JSON.stringify(shown, null, 2));
}

function artifactTable(artifacts) {
  const hasAttempts = new Set(artifacts.map((each) => each.attempt)).size > 1;
  return make(
    "table",
    { class: "list artifacts" },
    make("tbody", {}, ...artifacts.map((each) => {
      const key = String(each.key ?? "");
      const name = key.split("/").slice(3).join("/") || key;
      const path = key.split("/").map(encodeURIComponent).join("/");
      const about = [each.kind, each.role, hasAttempts && `attempt ${each.attempt}`].filter(Boolean).join(", ");
      return make(
        "tr",
        {},
        make("td", { class: "name" }, make("a", { href: `/api/artifacts/${path}`, title: key }, name), make("div", { class: "quiet small" }, about)),
        make("td", { class: "num" }, size(each.bytes)),
        make("td", { class: "mono quiet hash", title: each.sha256 ?? "" }, each.verified_at ? `✓ ${(each.sha256 ?? "").slice(0, 8)}` : "not verified"),
      );
    })),
  );
}

// ── updates ─────────────────────────────────────────────────────────────────────────────────────

function connect() {
  const source = new EventSource(`${api}/live?after=${state.position}`);
  let heardAt = Date.now();
  const heard = () => { heardAt = Date.now(); link("live", "ok"); };
  setInterval(() => {
    if (source.readyState === EventSource.OPEN && Date.now() - heardAt > SILENT_MS) link(`no answer for ${span((Date.now() - heardAt) / 1000)}`, "bad");
  }, 1000);
  source.onopen = heard;
  source.addEventListener("alive", (message) => {
    heard();
    const { age } = JSON.parse(message.data);
    if (age * 1000 > SILENT_MS) link(`the database has not answered for ${span(age)}`, "bad");
  });
  source.addEventListener("state", (message) => {
    heard();
    const before = state.run?.status;
    Object.assign(state, JSON.parse(message.data));
    if (before !== state.run?.status) read(api).then(aside).catch(() => {});
    later(render);
  });
  source.addEventListener("event", (message) => { heard(); take(JSON.parse(message.data)); later(render); });
  source.addEventListener("bye", () => link("the server ended the view; reconnecting", "bad"));
  source.onerror = () => {
    link("reconnecting", "bad");
    if (source.readyState === EventSource.CLOSED) poll();
  };
}

function poll() {
  setTimeout(async () => {
    try {
      await load();
      link("live (polling)", "ok");
    } catch (error) {
      link(error.message, "bad");
    }
    poll();
  }, POLL_MS);
}

function link(text, tone) {
  $("link").textContent = text;
  $("link").className = `link ${tone}`;
}

async function act(verb, { question, yes, no, hasReason }) {
  const reason = await ask(question, yes, no, hasReason);
  if (reason === null) return;
  try {
    const response = await fetch(`${api}/${verb}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ by: "web page", ...(reason ? { reason } : {}) }) });
    if (!response.ok) link((await response.json()).detail, "bad");
    await load();
  } catch (error) {
    link(error.message, "bad");
  }
}

// Shows the question; the reason (or "") after `yes`, null after `no`.
function ask(question, yes, no, hasReason) {
  $("question").textContent = question;
  $("reason").hidden = !hasReason;
  $("reason").value = "";
  $("yes").textContent = yes;
  $("no").textContent = no;
  $("ask").showModal();
  return new Promise((resolve) => {
    $("yes").onclick = () => { resolve($("reason").value.trim()); $("ask").close(); };
    $("no").onclick = () => $("ask").close();
    $("ask").onclose = () => resolve(null);
  });
}

$("cancel").onclick = () => act("cancel", { question: `Cancel run ${id}?`, yes: "Cancel the run", no: "Let it go on", hasReason: true });
$("reset").onclick = () => act("reset", {
  question: `Reset run ${id}? ${state.run?.status === "COMPLETED" ? "It is queued again and starts over; it is no longer COMPLETED." : "It is queued again and continues after its last finished stage."}`,
  yes: "Reset the run",
  no: "Leave it as it is",
});
$("level").onchange = log;
$("follow").onchange = log;
setInterval(() => document.hidden || render(), 1000);
load().then(connect, (error) => { link(error.message, "bad"); $("now").textContent = error.message; });
