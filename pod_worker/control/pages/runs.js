// The list of runs by status. Reads it again every two seconds while the page is visible.

import { $, bar, make, pill, show } from "./dom.js";
import { percent, since, span, when } from "./words.js";

const TILES = [
  ["Queued", ["QUEUED"]],
  ["Running", ["SCHEDULED", "RUNNING", "AUTO_VALIDATING"]],
  ["Awaiting review", ["AWAITING_HUMAN"]],
  ["Completed", ["COMPLETED", "HUMAN_VALIDATED"]],
  ["Failed", ["FAILED"]],
  ["Rejected", ["HUMAN_REJECTED"]],
  ["Canceled", ["CANCELED"]],
];
const RARE = new Set(["Awaiting review", "Rejected"]); // shown when there are any
const [REFRESH_MS, TIMEOUT_MS] = [2000, 5000];
const query0 = new URLSearchParams(location.search);
const view = { status: query0.get("status") ?? "", pipeline: query0.get("pipeline") ?? "", cursor: "" };

async function read(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(TIMEOUT_MS) });
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail ?? response.statusText);
  return body;
}

let refreshes = 0;

async function refresh() {
  refreshes += 1;
  const mine = refreshes;
  const query = new URLSearchParams(Object.entries({ ...view, pageSize: "50" }).filter(([, value]) => value));
  try {
    const [page, stats] = await Promise.all([read(`/api/runs?${query}`), read("/api/stats")]);
    if (mine !== refreshes) return; // a newer one is on its way
    $("link").textContent = "live";
    $("link").className = "link ok";
    tiles(stats);
    pipelines(stats);
    list(page);
  } catch (error) {
    $("link").textContent = problem(error);
    $("link").className = "link bad";
  }
}

function problem(error) {
  if (error.name === "TimeoutError") return `no answer within ${TIMEOUT_MS / 1000} s`;
  return error instanceof TypeError ? "the control plane does not answer" : error.message;
}

function tiles(stats) {
  const total = Object.values(stats.byStatus).reduce((sum, count) => sum + count, 0);
  const entries = [["All", []], ...TILES].map(([title, statuses]) => {
    const count = statuses.length ? statuses.reduce((sum, status) => sum + stats.byStatus[status], 0) : total;
    return { title, key: statuses.join(","), count, note: title === "Queued" ? waiting(stats) : "" };
  }).filter(({ title, key, count }) => count > 0 || key === view.status || !RARE.has(title));
  show($("tiles"), [entries, view.status], () =>
    entries.map(({ title, key, count, note }) =>
      make(
        "button",
        { class: "tile", "aria-pressed": String(key === view.status), onclick: () => go({ status: key, cursor: "" }) },
        make("b", {}, String(count)),
        make("span", {}, title),
        note ? make("small", { class: "quiet" }, note) : null,
      ),
    ),
  );
}

function waiting(stats) {
  const ages = Object.values(stats.oldestQueuedSeconds);
  return ages.length ? `longest wait ${span(Math.floor(Math.max(...ages) / 5) * 5)}` : "";
}

function pipelines(stats) {
  const names = Object.keys(stats.byQueue).filter((name) => name !== "?").sort();
  show($("pipeline"), [names, view.pipeline], () =>
    ["", ...names].map((name) => make("option", { value: name, selected: name === view.pipeline }, name || "all")),
  );
}

function list(page) {
  const body = document.querySelector("#runs tbody");
  const known = new Map([...body.children].map((row) => [row.dataset.id, row]));
  body.replaceChildren(
    ...page.items.map((run) => {
      const row = known.get(String(run._id)) ?? make("tr", { "data-id": String(run._id) });
      show(row, run, () => cells(run));
      age(run).forEach((text, place) => { row.children[row.children.length - 2 + place].textContent = text; });
      return row;
    }),
  );
  $("empty").hidden = page.items.length > 0;
  $("empty").textContent = view.status || view.pipeline ? "No run matches this filter." : "No runs yet. Queue one with: pod-worker runs submit";
  document.querySelector("#runs").hidden = page.items.length === 0;
  $("total").textContent = page.total ? `${page.total}${page.total >= 10000 ? "+" : ""} runs` : "";
  $("older").hidden = !page.nextCursor;
  $("older").onclick = () => go({ cursor: page.nextCursor });
  $("newer").hidden = !view.cursor;
}

const ended = (run) => run.completedAt ?? run.failedAt ?? run.canceledAt;

// How long ago it was created, and from the first start to the end; as `pod-worker runs list`.
function age(run) {
  const isOpen = ["SCHEDULED", "RUNNING", "AUTO_VALIDATING", "AWAITING_HUMAN"].includes(run.status);
  const end = ended(run) ? Date.parse(ended(run)) : isOpen ? Date.now() : NaN;
  return [`${since(run.createdAt)} ago`, span((end - Date.parse(run.startedAt)) / 1000)];
}

function cells(run) {
  const stage = run.currentStage ?? {};
  const worker = run.pod?.id ?? run.claimedBy;
  return [
    make("td", { "data-label": "Status" }, pill(run.status)),
    make("td", { class: "name" }, make("a", { href: `/runs/${encodeURIComponent(run._id)}`, class: "mono" }, String(run._id)), label(run)),
    make("td", { "data-label": "Pipeline" }, String(run.pipeline ?? "–")),
    make("td", { class: stage.name ? "wide" : "wide none" }, progress(run, stage)),
    make("td", { class: worker ? "worker" : "worker none", title: String(run.claimedBy ?? "") }, String(worker ?? "–")),
    make("td", { class: "num", title: when(run.createdAt) }),
    make("td", { class: "num took", title: run.startedAt ? `the last attempt, started ${when(run.startedAt)}` : "not started" }),
  ];
}

function label(run) {
  const code = run.status === "FAILED" && run.errorCode;
  const labels = Object.entries(run.labels ?? {}).map(([key, value]) => `${key}=${value}`);
  const words = [...(run.name ? [run.name] : []), ...(code ? [code] : labels)];
  return words.length ? make("small", { class: code ? "bad" : "quiet" }, ` ${words.join(" ")}`) : null;
}

function progress(run, stage) {
  if (!stage.name) return make("span", { class: "quiet" }, run.status === "QUEUED" && run.attempt > 0 ? `waits for attempt ${run.attempt + 1}` : "–");
  const tone = run.status === "FAILED" ? "bad" : run.status === "COMPLETED" ? "ok" : "";
  return make("div", { class: "progress" }, bar(stage.progress, tone), make("span", { class: "quiet" }, `${stage.title ?? stage.name} ${percent(stage.progress)}`));
}

function go(change) {
  Object.assign(view, change);
  const query = new URLSearchParams(Object.entries({ status: view.status, pipeline: view.pipeline }).filter(([, value]) => value));
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  $("filter").textContent = view.status ? view.status.split(",").join(", ").toLowerCase().replaceAll("_", " ") : "";
  refresh();
}

$("newer").onclick = () => go({ cursor: "" });
$("pipeline").onchange = (event) => go({ pipeline: event.target.value, cursor: "" });
go({});
(function again() {
  setTimeout(async () => {
    if (!document.hidden) await refresh();
    again();
  }, REFRESH_MS);
})();
document.addEventListener("visibilitychange", () => document.hidden || refresh());
