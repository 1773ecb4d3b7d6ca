// A line chart in SVG: axes, grid, one line for each series, and the values under the pointer.

import { range, segments, ticks, timeTicks } from "./axis.js";
import { draw, make } from "./dom.js";
import { clock, figure, measure, tick } from "./words.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [52, 10, 10, 22];
const TICK_PX = 78; // of a time of day and the space beside it

// series: [{name, unit, points: [[x, y, attempt], ...], isTime}]; with isTime, x is in seconds since 1970.
export function chart(series, { width = 480, height = 190, label = "" } = {}) {
  const isTime = series.some((each) => each.isTime);
  const shownX = isTime ? (x) => clock(x * 1000) : figure;
  const points = series.flatMap((each) => each.points);
  const box = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label });
  const [x0, x1] = range(points.map(([x]) => x), 0);
  const [y0, y1] = range(points.map(([, y]) => y), 0.06);
  const px = (x) => LEFT + ((x - x0) / (x1 - x0)) * (width - LEFT - RIGHT);
  const py = (y) => height - BOTTOM - ((y - y0) / (y1 - y0)) * (height - TOP - BOTTOM);
  const shownY = measure(series[0] ?? {}).tick;
  for (const y of ticks(y0, y1, height < 150 ? 3 : 4)) {
    box.append(
      draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: py(y), y2: py(y) }),
      draw("text", { class: "tick", x: LEFT - 6, y: py(y) + 3.5, "text-anchor": "end" }, shownY(y)),
    );
  }
  const space = width - LEFT - RIGHT;
  for (const x of isTime ? timeTicks(x0, x1, Math.max(1, space / TICK_PX)) : ticks(x0, x1, 5)) {
    const at = px(x);
    if (at <= width - (isTime ? TICK_PX / 3 : 0)) box.append(draw("text", { class: "tick", x: at, y: height - 6, "text-anchor": "middle" }, isTime ? tick(x * 1000, x1 - x0) : figure(x)));
  }
  series.forEach((each, place) => {
    for (const part of segments(each.points, each.isTime)) box.append(line(part, `tone${place % 4}`, px, py));
  });
  box.append(pointer(series, { width, height, px, py, shownX }));
  return box;
}

function line(points, tone, px, py) {
  if (points.length === 1) {
    const [[x, y]] = points;
    return draw("circle", { class: `dot ${tone}`, cx: px(x), cy: py(y), r: 3 });
  }
  const path = points.map(([x, y], n) => `${n ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("");
  return draw("path", { class: `line ${tone}`, d: path });
}

export function legend(series) {
  return make(
    "div",
    { class: "legend" },
    ...series.map((each, place) => {
      const { title, shown } = measure(each);
      return make("span", {}, make("i", { class: `swatch tone${place % 4}` }), `${title} `, make("b", {}, shown(each.points.at(-1)?.[1])));
    }),
  );
}

// What is measured where the pointer is: "140: loss 3.378, eval loss 3.358 (at 150)".
export function reading(series, x, found, shownX) {
  const values = series.map((each, place) => {
    const point = found[place];
    if (!point) return null;
    const { title, shown } = measure(each);
    return `${title} ${shown(point[1])}${point[0] === x ? "" : ` (at ${shownX(point[0])})`}`;
  });
  return `${shownX(x)}: ${values.filter(Boolean).join(", ")}`;
}

function pointer(series, { width, height, px, py, shownX }) {
  const rule = draw("line", { class: "rule", y1: TOP, y2: height - BOTTOM });
  const text = draw("text", { class: "tip", y: TOP + 2 });
  const marks = series.map((_, place) => draw("circle", { class: `dot tone${place % 4}`, r: 3 }));
  const group = draw("g", { class: "pointer", visibility: "hidden" }, rule, ...marks, text);
  const area = draw("rect", { x: LEFT, y: TOP, width: width - LEFT - RIGHT, height: height - TOP - BOTTOM, fill: "transparent" });
  area.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    const at = LEFT + ((event.clientX - box.left) / box.width) * (width - LEFT - RIGHT);
    const found = series.map((each) => nearest(each.points, at, px));
    const x = nearest(found.filter(Boolean), at, px)?.[0];
    if (x === undefined) return;
    group.setAttribute("visibility", "visible");
    rule.setAttribute("x1", px(x));
    rule.setAttribute("x2", px(x));
    found.forEach((point, place) => {
      marks[place].setAttribute("cx", point ? px(point[0]) : -9);
      marks[place].setAttribute("cy", point ? py(point[1]) : -9);
    });
    text.textContent = reading(series, x, found, shownX);
    const end = px(x) > width / 2;
    text.setAttribute("x", end ? width - RIGHT : LEFT);
    text.setAttribute("text-anchor", end ? "end" : "start");
  });
  area.addEventListener("pointerleave", () => group.setAttribute("visibility", "hidden"));
  return draw("g", {}, group, area);
}

function nearest(points, at, px) {
  let best;
  for (const point of points) if (!best || Math.abs(px(point[0]) - at) < Math.abs(px(best[0]) - at)) best = point;
  return best;
}
