// A document without a browser: elements that remember their children, attributes and listeners.

export class Node {
  constructor(tag) {
    Object.assign(this, { tag, dataset: {}, children: [], attributes: {}, hidden: false, checked: true, value: "debug", clientWidth: 400, className: "", style: { setProperty() {} } });
  }
  append(...nodes) { this.children.push(...nodes); }
  replaceChildren(...nodes) { this.children = nodes; }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  addEventListener() {}
  set textContent(text) { this.children = [text]; }
  get lastChild() { return this.children.at(-1); }
  get textContent() { return this.children.map((child) => (child instanceof Node ? child.textContent : String(child))).join(" "); }
}

// Sets the global document of the page of `run`; returns its elements by id.
export function installDocument(run) {
  const elements = {};
  globalThis.document = {
    hidden: false,
    body: { dataset: { run } },
    getElementById: (id) => (elements[id] ??= new Node(id)),
    createElement: (tag) => new Node(tag),
    createElementNS: (_, tag) => new Node(tag),
  };
  return elements;
}

export const find = (node, tag) => (node instanceof Node ? [...(node.tag === tag ? [node] : []), ...node.children.flatMap((child) => find(child, tag))] : []);
