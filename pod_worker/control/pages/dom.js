// Elements from data. Text is always set as text: nothing that a run says can become markup.

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) element.append(child);
  return element;
}

export const make = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const draw = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Replaces the children only when `key` changed, so that a selection or an open <details> survives a refresh.
export function show(element, key, build) {
  const text = JSON.stringify(key);
  if (element.dataset.key === text) return;
  element.dataset.key = text;
  element.replaceChildren(...[build()].flat().filter((child) => child !== null && child !== undefined));
}

export const pill = (status) => make("span", { class: `pill ${String(status).toLowerCase()}` }, words(status));

const words = (status) => String(status ?? "?").toLowerCase().replaceAll("_", " ");

export function bar(progress, tone) {
  const share = Math.max(0, Math.min(1, Number(progress) || 0));
  return make(
    "div",
    { class: `track ${tone ?? ""}`, role: "progressbar", "aria-valuenow": Math.round(share * 100), "aria-valuemin": 0, "aria-valuemax": 100 },
    make("div", { class: "fill", style: { width: `${share * 100}%` } }),
  );
}
