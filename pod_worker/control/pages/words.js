// Numbers, times and sizes as text, in the same words as the command line.

export function since(moment) {
  const seconds = (Date.now() - Date.parse(moment)) / 1000;
  return Number.isFinite(seconds) ? span(Math.max(0, seconds)) : "–";
}

const two = (count) => String(count).padStart(2, "0");

// A length of time in at most two units: 42s, 1m30s, 12m, 2h05m, 3d4h.
export function span(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const s = Math.round(Math.max(0, seconds));
  const [days, hours, minutes] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  if (days) return `${days}d${hours}h`;
  if (hours) return `${hours}h${two(minutes)}m`;
  if (minutes) return minutes < 10 ? `${minutes}m${two(s % 60)}s` : `${minutes}m`;
  return `${s}s`;
}

const timeOfDay = (date) => [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
const day = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;

// Local time of day, with the date where it is not today's.
export function clock(moment) {
  const date = new Date(moment);
  if (Number.isNaN(date.getTime())) return "–";
  const time = timeOfDay(date);
  return day(date) === day(new Date()) ? time : `${day(date)} ${time}`;
}

// A moment on a time axis that is `seconds` long: as short as its neighbours allow.
export function tick(moment, seconds) {
  const date = new Date(moment);
  if (Number.isNaN(date.getTime())) return "–";
  const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (seconds <= 600) return `${time}:${two(date.getSeconds())}`;
  return seconds <= 86400 ? time : `${day(date).slice(5)} ${time}`;
}

// Local time in full: 2026-01-31 18:00:00 UTC.
export function when(moment) {
  const date = new Date(moment);
  if (Number.isNaN(date.getTime())) return "–";
  const zone = new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts(date).find((part) => part.type === "timeZoneName");
  return `${day(date)} ${timeOfDay(date)} ${zone?.value ?? ""}`.trim();
}

export function size(bytes) {
  if (!Number.isFinite(bytes)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (bytes >= 1024 && place < units.length - 1) [bytes, place] = [bytes / 1024, place + 1];
  return `${bytes >= 100 || place === 0 ? Math.round(bytes) : bytes.toFixed(1)} ${units[place]}`;
}

export function figure(value) {
  if (typeof value !== "number") return value === null || value === undefined ? "–" : String(value);
  if (value === 0) return "0";
  const magnitude = Math.abs(value);
  if (magnitude >= 1e9 || magnitude < 1e-3) return value.toExponential(2);
  if (magnitude >= 1e6) return `${Number((value / 1e6).toPrecision(4))} M`;
  if (magnitude >= 1000) return Math.round(value).toLocaleString("en").replaceAll(",", " ");
  return String(Number(value.toPrecision(4)));
}

// A metric's name ends in its unit more often than it has one: rss_gb, cpu_pct, artifact_bytes.
const UNITS = [
  [/_(gb|gib)$/, "GB"],
  [/_(pct|percent)$/, "%"],
  [/_(s|seconds)$/, "s"],
  [/_c$/, "°C"],
  [/_w$/, "W"],
  [/_(per_second|per_s)$/, "/s"],
];

// A metric's title without its unit, its values with it, and its values on an axis, where space is short.
export function measure({ name, unit }) {
  const word = String(name);
  if (/^bytes?$/i.test(String(unit ?? "")) || /(^|_)bytes$/.test(word)) return { title: word.replaceAll("_", " "), shown: size, tick: size };
  const [suffix, usual] = UNITS.find(([pattern]) => pattern.test(word)) ?? ["", ""];
  const symbol = unit ? String(unit) : usual;
  const shown = (value) => `${figure(value)}${/^[A-Za-z]/.test(symbol) ? " " : ""}${symbol}`;
  return { title: word.replace(suffix, "").replaceAll("_", " "), shown, tick: symbol.length > 2 ? figure : shown };
}

export const percent = (share) => `${Math.round(Math.max(0, Math.min(1, Number(share) || 0)) * 100)}%`;
