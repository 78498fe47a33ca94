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

/**
 * A table from heads and rows; numbers stand on the right.
 * On a narrow screen rows become blocks, so the roles are written out: they would get lost.
 */
export function table(caption, heads, rows) {
  const cell = (tag, role, value, n) =>
    h(tag, {role, class: heads[n].number ? "number" : null, "data-name": heads[n].name}, value);
  return h("table", {role: "table", "aria-label": caption, class: heads.length > 4 ? "records" : null},
    h("thead", {role: "rowgroup"}, h("tr", {role: "row"}, heads.map((head, n) => cell("th", "columnheader", head.name, n)))),
    h("tbody", {role: "rowgroup"}, rows.map(row => h("tr", {role: "row", class: row.class}, row.cells.map((value, n) =>
      n === 0 ? cell("th", "rowheader", value, n) : cell("td", "cell", value, n))))));
}

/** A figure with its name: `users  2,337`. */
export const figure = (name, value, note = "") =>
  h("div", {}, h("dt", {}, name), h("dd", {}, value, note && h("span", {class: "note"}, note)));

/** What stands where nothing can be shown: why, and what to do. */
export const empty = (title, ...more) => h("div", {class: "empty"}, h("h2", {}, title), more);

/** While something is fetched. */
export const loading = text => h("p", {class: "loading", role: "status"}, text);
