// The Pareto picture: bytes on a logarithmic axis against accuracy.

import {svg} from "./dom.js";
import {bytes} from "./format.js";
import {frontier} from "./choice.js";

const HEIGHT = 380, LEFT = 50, RIGHT = 26, TOP = 14, BOTTOM = 40;

/**
 * Draws a group's points, and again when the width changes.
 * @param {HTMLElement} root where
 * @param group its points are those of all models on one log
 * @param pointed called with the point under the pointer, or nothing
 */
export function pareto(root, group, pointed) {
  const encoded = group.points.filter(point => point.encoded);
  const best = frontier(group.points);
  const baseline = group.points.filter(point => point.kind === "baseline").sort((a, b) => b.ndcg_10 - a.ndcg_10)[0];
  const full = encoded.filter(point => point.kind === "identity").sort((a, b) => b.ndcg_10 - a.ndcg_10)[0];
  const sizes = encoded.map(point => Math.log2(Math.max(point.state_bytes, 1)));
  const heights = [...encoded, ...(baseline ? [baseline] : [])].map(point => point.ndcg_10);
  const low = Math.floor(Math.min(...sizes)), high = Math.ceil(Math.max(...sizes));
  const bottom = Math.min(...heights), span = Math.max(...heights) - bottom || 1;
  const floor = Math.max(0, bottom - span * 0.08), top = Math.max(...heights) + span * 0.08;
  let marked = null, places = [];
  root.replaceChildren();
  const drawing = svg("svg", {class: "plot", height: String(HEIGHT), role: "img"});
  root.append(drawing);

  function draw() {
    const width = Math.max(root.clientWidth, 280);
    const x = value => LEFT + (width - LEFT - RIGHT) * (Math.log2(Math.max(value, 1)) - low) / (high - low || 1);
    const y = value => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - floor) / (top - floor);
    drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    drawing.setAttribute("width", String(width));
    const every = Math.max(1, Math.ceil((high - low) / (width / 70)));
    const parts = [];
    for (let power = low; power <= high; power += every) {
      parts.push(svg("line", {class: "grid", x1: x(2 ** power), x2: x(2 ** power), y1: TOP, y2: HEIGHT - BOTTOM}),
        svg("text", {class: "tick", x: x(2 ** power), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle"}, bytes(2 ** power, 0)));
    }
    for (let n = 0; n <= 4; n++) {
      const value = floor + (top - floor) * n / 4;
      parts.push(svg("line", {class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value)}),
        svg("text", {class: "tick", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end"}, value.toFixed(3)));
    }
    parts.push(svg("text", {class: "axis", x: width - RIGHT, y: HEIGHT - 6, "text-anchor": "end"}, "bytes of a user's state"),
      svg("text", {class: "axis", x: LEFT + 4, y: TOP + 10}, "NDCG@10"));
    if (marked) {
      const edge = Math.min(Math.max(x(marked.budget), LEFT), width - RIGHT);
      parts.push(svg("rect", {class: "beyond", x: edge, y: TOP, width: Math.max(width - RIGHT - edge, 0), height: HEIGHT - TOP - BOTTOM}),
        svg("line", {class: "limit", x1: edge, x2: edge, y1: TOP, y2: HEIGHT - BOTTOM}));
    }
    for (const [point, what] of [[full, "uncompressed"], [baseline, baseline && `counting: ${baseline.name}`]]) {
      if (!point) continue;
      parts.push(svg("line", {class: "reference", x1: LEFT, x2: width - RIGHT, y1: y(point.ndcg_10), y2: y(point.ndcg_10)}),
        svg("text", {class: "tick", x: width - RIGHT - 4, y: y(point.ndcg_10) - 5, "text-anchor": "end"}, what));
    }
    let path = "";
    best.forEach((point, n) => { path += n ? `H${x(point.state_bytes)}V${y(point.ndcg_10)}` : `M${x(point.state_bytes)} ${y(point.ndcg_10)}`; });
    if (best.length) parts.push(svg("path", {class: "frontier", d: `${path}H${width - RIGHT}`}));
    places = encoded.map(point => ({point, x: x(point.state_bytes), y: y(point.ndcg_10)}));
    const onto = new Set(best);
    for (const place of [...places].sort((a, b) => onto.has(a.point) - onto.has(b.point))) {
      const fits = !marked || marked.fits(place.point);
      parts.push(svg("circle", {class: `point${onto.has(place.point) ? " best" : ""}${fits ? "" : " out"}`, cx: place.x, cy: place.y, r: onto.has(place.point) ? 4 : 3}));
    }
    const chosen = places.find(place => place.point === marked?.chosen);
    if (chosen) parts.push(svg("circle", {class: "chosen", cx: chosen.x, cy: chosen.y, r: 8}));
    drawing.setAttribute("aria-label", `${encoded.length} recipes by bytes and NDCG@10, ${best.length} of them on the frontier`
      + (chosen ? `; chosen: ${chosen.point.name}` : ""));
    drawing.replaceChildren(...parts);
  }

  drawing.addEventListener("pointermove", event => {
    const box = drawing.getBoundingClientRect(), scale = drawing.viewBox.baseVal.width / box.width;
    const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
    let near = null, least = 20 ** 2;
    for (const place of places) {
      const distance = (place.x - px) ** 2 + (place.y - py) ** 2;
      if (distance < least) [near, least] = [place.point, distance];
    }
    pointed(near);
  });
  const watcher = new ResizeObserver(draw);
  watcher.observe(root);
  draw();
  return {
    mark(budget, chosen, fits) {
      marked = {budget, chosen, fits};
      draw();
    },
    close() { watcher.disconnect(); },
  };
}
