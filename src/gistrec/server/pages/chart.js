// Lines over time, drawn by uPlot in the page's colours.

import uPlot from "./uplot.js";

/** At least so many seconds are shown, so that the first points do not fill the picture. */
const SHOWN_S = 120;
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");

/**
 * A chart that grows to the right.
 * @param {HTMLElement} root where it is drawn
 * @param {{name: string, color: string}[]} lines names and variables of the style sheet
 * @param {(value: number) => string} show a value of the left axis
 */
export function lines(root, lines, show) {
  let plot = null, data = [[], ...lines.map(() => [])];

  function draw() {
    plot?.destroy();
    const axis = {
      stroke: color("--faint"), font: "12px system-ui, sans-serif", ticks: {show: false},
      grid: {stroke: color("--line"), width: 1},
    };
    plot = new uPlot({
      width: root.clientWidth, height: 150, legend: {show: false},
      cursor: {show: false}, padding: [8, 30, 0, 0],
      scales: {x: {range: (_, low, high) => [Math.min(low, high - SHOWN_S), high]}, y: {range: (_, low, high) => [0, Math.max(high * 1.15, 1e-3)]}},
      axes: [
        {...axis, grid: {show: false}, space: 90, values: (_, ticks) => ticks.map(t => new Date(t * 1000).toTimeString().slice(0, 8))},
        {...axis, size: 56, space: 36, values: (_, ticks) => ticks.map(show)},
      ],
      series: [{}, ...lines.map(line => ({
        stroke: color(line.color), width: 1.5, spanGaps: false, points: {show: false},
        fill: line.fill ? color(line.fill) : undefined,
      }))],
    }, data, root);
  }

  const watcher = new ResizeObserver(() => plot?.setSize({width: root.clientWidth, height: 150}));
  watcher.observe(root);
  dark.addEventListener("change", draw);
  draw();
  return {
    set(columns) {
      data = columns;
      plot.setData(data);
    },
    close() {
      watcher.disconnect();
      dark.removeEventListener("change", draw);
      plot.destroy();
    },
  };
}
