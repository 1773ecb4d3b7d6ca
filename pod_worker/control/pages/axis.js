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
