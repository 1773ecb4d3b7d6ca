// Ranges and ticks of a chart's axes. Pure: no document, so it runs under node too.

const TICKS_LIMIT = 20;
const MIN_RELATIVE_RANGE = 1e-9; // below it, neighbouring ticks are the same floating-point number

// The smallest and largest value with a margin; values that are no finite numbers do not count.
export function range(values, margin) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!Number.isFinite(low)) return [0, 1];
  const largest = Math.max(Math.abs(low), Math.abs(high));
  if (high - low <= largest * MIN_RELATIVE_RANGE) return [low - (largest || 1) / 2, high + (largest || 1) / 2];
  const room = (high - low) * margin;
  return [low - room, high + room].map((bound) => Math.max(-Number.MAX_VALUE, Math.min(Number.MAX_VALUE, bound)));
}

// Round numbers within [low, high], about `wanted` of them.
export function ticks(low, high, wanted) {
  const rough = high / wanted - low / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  if (!Number.isFinite(step) || step <= 0) return [];
  const first = Math.ceil(low / step);
  const found = [];
  for (let k = 0; k < TICKS_LIMIT; k += 1) {
    const value = (first + k) * step;
    if (!Number.isFinite(value) || value > high + step * 1e-9) break;
    found.push(value);
  }
  return found;
}

const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

// Moments at full seconds, minutes, hours or days of local time within [low, high] (in seconds since 1970).
export function timeTicks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const days = Math.ceil(rough / 86400);
  const step = SECONDS.find((seconds) => seconds >= rough) ?? days * 86400;
  if (!Number.isFinite(step)) return [];
  const offset = new Date(low * 1000).getTimezoneOffset() * 60 || 0;
  const found = [];
  for (let at = Math.ceil((low - offset) / step) * step + offset; at <= high && found.length < TICKS_LIMIT; at += step) found.push(at);
  return found;
}

// A line's parts: points are [x, y, attempt]. Time passes between two attempts without anything being measured,
// and after a start from scratch the remaining steps are those of an older attempt.
export function segments(points, isTime) {
  const parts = [];
  points.forEach((point, place) => {
    const [before, now] = [points[place - 1]?.[2], point[2]];
    const isBreak = before !== undefined && now !== undefined && (isTime ? before !== now : now < before);
    if (place === 0 || isBreak) parts.push([]);
    parts.at(-1).push(point);
  });
  return parts;
}
