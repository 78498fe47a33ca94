// Nodes and text. Nothing from the server is ever parsed as markup: text goes in as text nodes.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [rule, text] of Object.entries(value)) node.style.setProperty(rule, text);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false && child !== ""));
  return node;
}

/** An element: attributes, handlers as `onclick`, rules of style as an object; then its children. */
export const h = (tag, properties = {}, ...children) => filled(document.createElement(tag), properties, children);

/** The same for pictures. */
export const svg = (tag, properties = {}, ...children) => filled(document.createElementNS(SVG, tag), properties, children);

/** Say something to people and screen readers, in an element that has a live role. */
export function say(node, text, bad = false) {
  node.textContent = text;
  node.classList.toggle("bad", bad);
}

/** A table from heads and rows; a cell that is a number or begins with one stands on the right. */
export function table(caption, heads, rows) {
  const cell = (tag, value, column, extra = {}) =>
    h(tag, {class: heads[column].number ? "number" : null, ...extra}, value);
  return h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": caption},
    h("table", {},
      h("caption", {class: "unseen"}, caption),
      h("thead", {}, h("tr", {}, heads.map((head, n) => cell("th", head.name, n, {scope: "col", title: head.help})))),
      h("tbody", {}, rows.map(row => h("tr", {class: row.class}, row.cells.map((value, n) =>
        n === 0 ? cell("th", value, n, {scope: "row"}) : cell("td", value, n)))))));
}

/** A figure with its name: `users  2,337`. */
export const figure = (name, value, note = "") =>
  h("div", {}, h("dt", {}, name), h("dd", {}, value, note && h("span", {class: "note"}, note)));

/** What stands where nothing can be shown: why, and what to do. */
export const empty = (title, ...more) => h("div", {class: "empty"}, h("h2", {}, title), more);

/** While something is fetched. */
export const loading = text => h("p", {class: "loading", role: "status"}, text);
