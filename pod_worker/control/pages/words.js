// Numbers, times and sizes as text.

export function since(moment) {
  const seconds = (Date.now() - Date.parse(moment)) / 1000;
  return Number.isFinite(seconds) ? span(Math.max(0, seconds)) : "–";
}

export function span(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const s = Math.round(seconds);
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${s % 60}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h ${Math.floor((s % 3600) / 60)}m`;
  return `${Math.floor(s / 86400)}d ${Math.floor((s % 86400) / 3600)}h`;
}

export function clock(moment) {
  const date = new Date(moment);
  return Number.isNaN(date.getTime()) ? "–" : date.toLocaleTimeString([], { hour12: false });
}

export function when(moment) {
  const date = new Date(moment);
  return Number.isNaN(date.getTime()) ? "–" : date.toLocaleString([], { hour12: false });
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

export const percent = (share) => `${Math.round(Math.max(0, Math.min(1, Number(share) || 0)) * 100)}%`;
