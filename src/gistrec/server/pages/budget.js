// Budget: what a recipe keeps of the accuracy for its bytes and milliseconds, and what it costs.

import * as api from "./api.js";
import {empty, figure, h, loading, say, table} from "./dom.js";
import {bytes, ms, number, percent} from "./format.js";
import {choose, fits, frontier} from "./choice.js";
import {pareto} from "./pareto.js";
import {runFile} from "./runfile.js";

export const title = "Budget";

const STEPS = 8;  // of the slider, for twice the bytes
const remembered = {group: "", users: 1_000_000};

export function open(root) {
  root.append(h("h1", {class: "unseen"}, "Budget"));
  const content = h("div", {}, loading("Reading the results…"));
  root.append(content);
  let picture = null;

  async function begin() {
    let answer;
    try {
      answer = await api.get("v1/results");
    } catch (error) {
      content.replaceChildren(empty("The results can't be read", h("p", {class: "bad"}, error.message)));
      return;
    }
    const wrong = answer.errors.map(error => h("p", {class: "bad"}, error.message));
    const groups = grouped(answer.benches);
    if (!groups.length) {
      content.replaceChildren(...wrong, empty("No results at hand",
        h("p", {}, "Measure recipes with ", h("code", {}, "gistrec bench"), " and serve with ", h("code", {}, "--results FILE"),
          "; a results.jsonl beside the model is found by itself.")));
      return;
    }
    content.replaceChildren(...wrong);
    arrange(groups);
  }

  function arrange(groups) {
    const select = h("select", {id: "group", onchange: () => { remembered.group = select.value; show(); }},
      groups.map(group => h("option", {value: group.name}, group.name)));
    if (groups.some(group => group.name === remembered.group)) select.value = remembered.group;
    const size = h("input", {id: "bytes", type: "range", oninput: () => update()});
    const sizeText = h("output", {for: "bytes"});
    const slow = h("input", {id: "p99", type: "range", min: "0", step: "1", oninput: () => update()});
    const slowText = h("output", {for: "p99"});
    const users = h("input", {id: "users", type: "number", min: "1", step: "1", value: String(remembered.users), oninput: () => update()});
    const drawing = h("figure", {class: "pareto"});
    const detail = h("figcaption", {class: "note"});
    const answer = h("section", {class: "answer", "aria-live": "polite", "aria-label": "Choice"});
    const others = h("section", {});
    content.append(
      h("div", {class: "bar"}, h("label", {class: "field grow", for: "group"}, "Measured on", select)),
      h("div", {class: "budget-grid"},
        h("div", {}, drawing,
          h("div", {class: "dials"},
            h("label", {class: "field", for: "bytes"}, h("span", {}, "Bytes per user, at most ", sizeText), size),
            h("label", {class: "field", for: "p99"}, h("span", {}, "Recommended within, p99 ", slowText), slow),
            h("label", {class: "field", for: "users"}, "Users", users))),
        answer),
      others);
    let group = null, limits = [];

    function show() {
      group = groups.find(one => one.name === select.value);
      const sizes = group.points.filter(point => point.encoded).map(point => point.state_bytes);
      size.min = String(Math.floor(Math.log2(Math.min(...sizes)) * STEPS));
      size.max = String(Math.ceil(Math.log2(Math.max(...sizes)) * STEPS));
      size.step = "1";
      const middle = (Number(size.min) + Number(size.max)) / 2;
      size.value = String(Math.round(Math.min(9.5 * STEPS, middle)));
      const times = group.points.filter(point => point.encoded).map(point => point.recommend_ms_p99).filter(value => value !== null);
      limits = [...new Set(times.map(value => Math.ceil(value * 10) / 10))].sort((a, b) => a - b);
      slow.max = String(limits.length);
      slow.value = String(limits.length);
      slow.disabled = !limits.length;
      picture?.close();
      detail.textContent = "";
      picture = pareto(drawing, group, point => { detail.textContent = point ? described(point) : ""; });
      drawing.append(detail);
      const best = frontier(group.points);
      others.replaceChildren(h("h2", {}, "The frontier: no other is better in fewer bytes"),
        table("The frontier", [{name: "recipe"}, {name: "state", number: true}, {name: "p99", number: true}, {name: "NDCG@10", number: true}, {name: "of full", number: true}, {name: "recommend p99", number: true}],
          best.map(point => ({cells: [h("code", {class: "spec"}, point.name), bytes(point.state_bytes), bytes(point.state_bytes_p99),
            point.ndcg_10.toFixed(4), percent(point.kept, 1), ms(point.recommend_ms_p99)]}))),
        ...group.benches.length > 3 ? [] : group.benches.map(bench => h("p", {class: "note"}, `${bench.backbone}. ${bench.measured}`)));
      update();
    }

    function update() {
      const budget = 2 ** (Number(size.value) / STEPS);
      const limit = Number(slow.value) < limits.length ? limits[Number(slow.value)] : null;
      const count = Math.max(1, Math.floor(Number(users.value) || 1));
      remembered.users = count;
      sizeText.textContent = bytes(budget);
      size.setAttribute("aria-valuetext", bytes(budget));
      slowText.textContent = !limits.length ? "not measured" : limit === null ? "any time" : ms(limit);
      slow.setAttribute("aria-valuetext", slowText.textContent);
      const chosen = choose(group.points, budget, limit);
      picture.mark(budget, chosen, point => fits(point, budget, limit));
      answer.replaceChildren(...answered(group, chosen, budget, limit, count));
    }

    show();
  }

  begin();
  return () => picture?.close();
}

/** Benches of one log and split together: every model with every recipe. */
function grouped(benches) {
  const groups = new Map();
  for (const bench of benches) {
    const name = `${bench.data}, ${bench.split}`;
    if (!groups.has(name)) groups.set(name, {name, benches: [], points: []});
    const group = groups.get(name);
    group.benches.push(bench);
    for (const point of bench.points) {
      const encoded = point.kind === "recipe" || point.kind === "identity";
      if (encoded || !group.points.some(other => other.name === point.name && !other.encoded)) {
        group.points.push({...point, encoded, bench});
      }
    }
  }
  return [...groups.values()].filter(group => group.points.some(point => point.encoded))
    .sort((a, b) => b.points.length - a.points.length);
}

const described = point => [point.name, point.encoded ? point.bench.backbone : null, point.encoded ? bytes(point.state_bytes) : null,
  `NDCG@10 ${point.ndcg_10.toFixed(4)}`, point.kept !== null && point.encoded ? `${percent(point.kept, 1)} of full` : null,
  point.recommend_ms_p99 !== null ? `recommends in ${ms(point.recommend_ms_p99)} (p99)` : null].filter(Boolean).join(" · ");

function answered(group, chosen, budget, limit, users) {
  if (!chosen) {
    return [h("h2", {}, "Nothing fits"), h("p", {}, `No recipe was measured within ${bytes(budget)}${limit === null ? "" : ` and ${ms(limit)}`}. Allow more of either.`)];
  }
  const states = chosen.state_bytes * users, logs = chosen.log_bytes * users, shared = chosen.shared_bytes ?? 0;
  const baseline = group.points.filter(point => point.kind === "baseline").sort((a, b) => b.ndcg_10 - a.ndcg_10)[0];
  const recompute = group.points.find(point => point.kind === "recompute" && point.bench === chosen.bench);
  const told = h("p", {role: "status", class: "note"});
  const file = runFile(chosen, {budget_bytes: Math.round(budget), p99_ms: limit, users});
  const notes = [];
  if (baseline && baseline.ndcg_10 >= chosen.ndcg_10) {
    notes.push(h("p", {class: "caution"}, `${baseline.name}, which only counts over the history, is at least as accurate (${baseline.ndcg_10.toFixed(4)}).`));
  }
  if (recompute && recompute.log_bytes <= budget) {
    notes.push(h("p", {class: "caution"}, `The history alone (${bytes(recompute.log_bytes)}) fits as well, and recomputing from it is exact; it takes ${ms(recompute.recommend_ms_p99)} (p99).`));
  }
  return [
    h("h2", {}, "Take"),
    h("p", {class: "recipe"}, h("code", {}, chosen.name)),
    h("p", {class: "note"}, `of ${chosen.bench.backbone}`),
    h("dl", {class: "figures small"},
      figure("NDCG@10", chosen.ndcg_10.toFixed(4)), figure("of full", percent(chosen.kept, 1)),
      figure("state", bytes(chosen.state_bytes)), figure("recommend p99", ms(chosen.recommend_ms_p99))),
    h("h3", {}, `For ${number(users)} users`),
    h("dl", {class: "sum"},
      h("dt", {}, "states"), h("dd", {}, bytes(states)), h("dt", {}, "histories"), h("dd", {}, bytes(logs)),
      h("dt", {}, "shared tables"), h("dd", {}, bytes(shared)),
      h("dt", {class: "total"}, "together"), h("dd", {class: "total"}, bytes(states + logs + shared))),
    ...notes,
    h("details", {}, h("summary", {}, "Run file"), h("pre", {tabindex: "0", role: "region", "aria-label": "Run file"}, file)),
    h("p", {class: "actions"},
      h("button", {type: "button", class: "main", onclick: () => save("run.toml", file)}, "Save run.toml"),
      h("button", {type: "button", onclick: async () => {
        try {
          await navigator.clipboard.writeText(file);
          say(told, "Copied.");
        } catch {
          say(told, "This browser does not let the page copy: open the run file above and copy it by hand.", true);
        }
      }}, "Copy")), told];
}

function save(name, content) {
  const url = URL.createObjectURL(new Blob([content], {type: "application/toml"}));
  const link = h("a", {href: url, download: name});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
