// A line chart in SVG: axes, grid, one line for each series, and the values under the pointer.

import { range, ticks } from "./axis.js";
import { draw, make } from "./dom.js";
import { clock, figure } from "./words.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [46, 10, 10, 22];

// series: [{name, points: [[x, y], ...], isTime}]; with isTime, x is in seconds since 1970.
export function chart(series, { width = 480, height = 190, label = "" } = {}) {
  const shownX = series.some((each) => each.isTime) ? (x) => clock(x * 1000) : figure;
  const points = series.flatMap((each) => each.points);
  const box = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label });
  const [x0, x1] = range(points.map(([x]) => x), 0);
  const [y0, y1] = range(points.map(([, y]) => y), 0.06);
  const px = (x) => LEFT + ((x - x0) / (x1 - x0)) * (width - LEFT - RIGHT);
  const py = (y) => height - BOTTOM - ((y - y0) / (y1 - y0)) * (height - TOP - BOTTOM);
  for (const y of ticks(y0, y1, 4)) {
    box.append(
      draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: py(y), y2: py(y) }),
      draw("text", { class: "tick", x: LEFT - 6, y: py(y) + 3.5, "text-anchor": "end" }, figure(y)),
    );
  }
  for (const x of ticks(x0, x1, series.some((each) => each.isTime) ? 3 : 5)) {
    box.append(draw("text", { class: "tick", x: px(x), y: height - 6, "text-anchor": "middle" }, shownX(x)));
  }
  series.forEach((each, place) => {
    const tone = `line tone${place % 4}`;
    if (each.points.length === 1) {
      const [x, y] = each.points[0];
      box.append(draw("circle", { class: `dot tone${place % 4}`, cx: px(x), cy: py(y), r: 3 }));
      return;
    }
    const path = each.points.map(([x, y], n) => `${n ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("");
    box.append(draw("path", { class: tone, d: path }));
  });
  box.append(pointer(series, { width, height, px, py, shownX }));
  return box;
}

export function legend(series) {
  return make(
    "div",
    { class: "legend" },
    ...series.map((each, place) =>
      make("span", {}, make("i", { class: `swatch tone${place % 4}` }), `${each.name} `, make("b", {}, figure(each.points.at(-1)?.[1]))),
    ),
  );
}

function pointer(series, { width, height, px, py, shownX }) {
  const rule = draw("line", { class: "rule", y1: TOP, y2: height - BOTTOM });
  const text = draw("text", { class: "tip", y: TOP + 8 });
  const marks = series.map((_, place) => draw("circle", { class: `dot tone${place % 4}`, r: 3 }));
  const group = draw("g", { class: "pointer", visibility: "hidden" }, rule, ...marks, text);
  const area = draw("rect", { x: LEFT, y: TOP, width: width - LEFT - RIGHT, height: height - TOP - BOTTOM, fill: "transparent" });
  area.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    const at = LEFT + ((event.clientX - box.left) / box.width) * (width - LEFT - RIGHT);
    const found = series.map((each) => nearest(each.points, at, px));
    const x = found.find(Boolean)?.[0];
    if (x === undefined) return;
    group.setAttribute("visibility", "visible");
    rule.setAttribute("x1", px(x));
    rule.setAttribute("x2", px(x));
    found.forEach((point, place) => {
      marks[place].setAttribute("cx", point ? px(point[0]) : -9);
      marks[place].setAttribute("cy", point ? py(point[1]) : -9);
    });
    const named = (y, place) => (series.length > 1 ? `${series[place].name} ${figure(y)}` : figure(y));
    text.textContent = `${shownX(x)}:  ${found.map((point, place) => point && named(point[1], place)).filter(Boolean).join("  ")}`;
    const end = px(x) > width * 0.6;
    text.setAttribute("x", px(x) + (end ? -6 : 6));
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
