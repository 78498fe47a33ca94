// Overview: who is stored, what it takes, what is being asked, and where the time goes. Live.

import * as api from "./api.js";
import {lines} from "./chart.js";
import {empty, figure, h, loading, table} from "./dom.js";
import {bytes, ms, number, percent, rate} from "./format.js";
import {between, none, parse} from "./metrics.js";
import {every} from "./poll.js";

export const title = "Overview";

const EVERY_MS = 2000;
const COUNTED_EVERY_MS = 10_000;
const POINTS = 300;
/** Seconds over which rates and times of the tables are taken. */
const WINDOW_S = 60;
const STAGES = {
  load: "states and histories are read",
  decode: "bytes to a state",
  compute: "the model",
  store: "events and states are encoded and written",
};
const FOUND = {
  fresh: ["hit", "the state was there and up to the history"],
  replayed: ["caught up", "the newest events were added first"],
  missing: ["rebuilt: missing", "there was no state"],
  stale: ["rebuilt: stale", "of another version, or of an erased history"],
  corrupt: ["rebuilt: corrupt", "its bytes were damaged"],
  conflict: ["conflicts", "somebody else wrote the user's state first; tried again"],
  refused: ["refused", "a long rebuild, and too many others were under way"],
  touched: ["touched", "read while old, so written anew"],
};

export function open(root) {
  const users = h("dl", {class: "figures"});
  const perSecond = h("div", {class: "chart"}), latency = h("div", {class: "chart"});
  const nowRate = h("strong", {}, "–"), nowP50 = h("strong", {}, "–"), nowP99 = h("strong", {}, "–");
  const stages = h("div", {}), found = h("div", {}), held = h("div", {}), trouble = h("p", {class: "note", role: "status"});
  root.append(
    h("h1", {class: "unseen"}, "Overview"),
    h("section", {"aria-label": "Users and bytes"}, users),
    h("div", {class: "pair charts"},
      h("section", {}, h("h2", {}, "Requests per second ", nowRate), perSecond),
      h("section", {}, h("h2", {}, "Latency ", h("span", {class: "key a"}, "p50 "), nowP50,
        h("span", {class: "key b"}, "p99 "), nowP99), latency)),
    trouble,
    h("div", {class: "pair"},
      h("section", {}, h("h2", {}, "Where the time goes"), stages),
      h("section", {}, h("h2", {}, "How states were found"), found)),
    h("section", {}, h("h2", {}, "What is stored, by version"), held));
  users.append(loading("Counting users…"));
  held.append(loading("Counting states…"));

  const ratePlot = lines(perSecond, [{color: "--accent", fill: "--wash"}], rate);
  const timePlot = lines(latency, [{color: "--accent"}, {color: "--text"}], value => value >= 1000 ? ms(value) : `${number(value)} ms`);
  const times = [], rates = [], p50s = [], p99s = [];
  let samples = [];

  async function live() {
    let now;
    try {
      now = parse(await api.text("metrics"));
    } catch (error) {
      trouble.textContent = error.status ? error.message : "The server does not answer: what is shown is from before.";
      root.classList.add("old");
      gap();
      return;
    }
    root.classList.remove("old");
    trouble.textContent = "";
    const last = samples.at(-1);
    const step = last && between(last, now);
    if (last && !step) samples = [];  // begun anew
    samples.push(now);
    samples = samples.filter(sample => now.at - sample.at <= WINDOW_S + 5);
    if (step) point(step);
    const first = samples[0];
    const since = first === now ? {...between(none(), now), seconds: null} : between(first, now);
    tables(since, now);
  }

  function put(rate, p50, p99) {
    times.push(Date.now() / 1000);
    rates.push(rate);
    p50s.push(p50);
    p99s.push(p99);
    for (const column of [times, rates, p50s, p99s]) if (column.length > POINTS) column.shift();
    ratePlot.set([times, rates]);
    timePlot.set([times, p50s, p99s]);
  }

  const gap = () => put(null, null, null);

  function point(step) {
    const requests = step.requests, persecond = requests.count / step.seconds;
    const p50 = requests.quantile(0.5), p99 = requests.quantile(0.99);
    put(persecond, p50, p99);
    nowRate.textContent = rate(persecond);
    nowP50.textContent = ms(p50);
    nowP99.textContent = ms(p99);
    const bad = [step.refused && `${number(step.refused)} refused`, step.failed && `${number(step.failed)} failed`].filter(Boolean);
    trouble.textContent = bad.length ? `In the last seconds: ${bad.join(", ")}.` : "";
  }

  function tables(since, now) {
    const all = Object.values(since.stages).reduce((sum, stage) => sum + stage.sum, 0);
    const over = since.seconds === null ? "since the server began" : `over the last ${Math.round(since.seconds)} s`;
    const rows = Object.entries(STAGES).filter(([name]) => now.stages[name]).map(([name, what]) => {
      const stage = since.stages[name];
      const share = all ? stage.sum / all : 0;
      const bar = h("span", {class: "meter"}, h("i", {style: {width: `${100 * share}%`}}));
      return {cells: [h("span", {title: what}, name), ms(stage.quantile(0.5)), ms(stage.quantile(0.99)),
        h("span", {class: "with-meter"}, all ? percent(share) : "–", bar)]};
    });
    stages.replaceChildren(rows.length
      ? table(`Stages, ${over}`, [{name: "stage"}, {name: "p50", number: true}, {name: "p99", number: true}, {name: "share", number: true}], rows)
      : h("p", {class: "none"}, "No request yet: nothing was timed."),
    rows.length ? h("p", {class: "note"}, `${over}; quantiles are interpolated between the ends of histogram buckets`) : "");
    const counted = Object.entries(FOUND).filter(([name]) => now.found[name] || ["fresh", "stale", "missing", "conflict"].includes(name));
    found.replaceChildren(table("How states were found", [{name: "states"}, {name: "since the start", number: true}, {name: "per second", number: true}],
      counted.map(([name, [word, what]]) => ({
        class: (now.found[name] ?? 0) ? null : "zero",
        cells: [h("span", {title: what}, word), number(now.found[name] ?? 0),
          since.seconds === null ? "–" : rate((since.found[name] ?? 0) / since.seconds)],
      }))), h("p", {class: "note"}, "A state that is missing, stale or corrupt is rebuilt from the history; nothing is lost. Long rebuilds now: ",
      `${number(now.rebuilds.running ?? 0)} running, ${number(now.rebuilds.waiting ?? 0)} waiting.`));
  }

  async function counted() {
    let answer;
    try {
      answer = await api.get("v1/versions");
    } catch (error) {
      if (!users.querySelector("dt")) {
        users.replaceChildren(h("p", {class: "bad"}, `Users can't be counted: ${error.message}`));
        held.replaceChildren();
      }
      return;
    }
    const {log, versions} = answer;
    const serving = versions.find(version => version.serving);
    const {states} = serving;
    const some = states.users > 0;
    users.replaceChildren(
      figure("users", number(log.users), "with a history"),
      figure("state, p50", some ? bytes(states.bytes_p50) : "–"),
      figure("state, p99", some ? bytes(states.bytes_p99) : "–"),
      figure("states", bytes(versions.reduce((sum, version) => sum + version.states.bytes_total, 0)), "of all versions"),
      figure("histories", bytes(log.bytes_total), log.users ? `${bytes(log.bytes_total / log.users)} a user` : ""),
      figure("shared tables", bytes(serving.shared_bytes)));
    const rows = versions.map(version => ({
      class: version.serving ? "chosen" : null,
      cells: [h("code", {}, version.version), h("code", {class: "spec"}, version.codec), number(version.states.users),
        version.states.users ? bytes(version.states.bytes_p50) : "–",
        version.states.users ? bytes(version.states.bytes_p99) : "–", bytes(version.states.bytes_total)],
    }));
    rows.push({cells: ["histories", "", number(log.users), bytes(log.bytes_p50), bytes(log.bytes_p99), bytes(log.bytes_total)]});
    held.replaceChildren(table("Bytes by version",
      [{name: "version"}, {name: "recipe"}, {name: "users", number: true}, {name: "p50", number: true}, {name: "p99", number: true}, {name: "total", number: true}], rows),
    h("p", {class: "note"}, `counted ${number(answer.age_s)} s ago; the version that serves comes first`));
    if (!log.users) held.append(empty("No user yet", h("p", {}, "Append events (POST /v1/users/…/events, or on the page User), or bring in a log: ",
      h("code", {}, "gistrec import LOG --store URL"))));
  }

  const ends = [every(EVERY_MS, live), every(COUNTED_EVERY_MS, counted)];
  return () => {
    ends.forEach(end => end());
    ratePlot.close();
    timePlot.close();
  };
}
