// Pictures of one user's memory: fates of events, bytes by kind, lists, the timeline.

import {h, svg} from "./dom.js";
import {bytes, day, number, percent, time} from "./format.js";

export const FATES = {
  kept: "has a slot of its own",
  merged: "a codec joined it with a later event",
  forgotten: "a codec dropped it",
  summed: "summed up by the model's own memory",
  waiting: "the newest one, held as it is",
  unknown: "the model does not know the item",
};
const PARTS = {
  floats: "keys and values", indices: "items and codes", scales: "scales of quantised numbers",
  positions: "places and times", tail: "the newest event", header: "header",
};

function counts(fates) {
  const found = {};
  for (const {fate, events} of fates) found[fate] = (found[fate] ?? 0) + events;
  return found;
}

const inWords = fates => Object.entries(counts(fates)).map(([fate, count]) => `${number(count)} ${fate}`).join(", ");

/** All events side by side, oldest on the left, coloured by their fate. */
export function strip(fates) {
  const total = fates.reduce((sum, run) => sum + run.events, 0);
  if (!total) return "";
  let start = 0;
  const marks = fates.map(({fate, events}) => {
    const mark = svg("rect", {class: `fate-${fate}`, x: start, y: 0, width: events, height: 1});
    start += events;
    return mark;
  });
  return h("div", {class: "strip"},
    svg("svg", {viewBox: `0 0 ${total} 1`, preserveAspectRatio: "none", role: "img", "aria-label": `Events from the oldest to the newest: ${inWords(fates)}`}, marks),
    h("div", {class: "ends", "aria-hidden": "true"}, h("span", {}, "oldest"), h("span", {}, "newest")));
}

/** What the colours mean, and how many events have each. */
export function legend(fates) {
  const found = counts(fates);
  return h("ul", {class: "legend"}, Object.entries(FATES).filter(([fate]) => found[fate]).map(([fate, what]) =>
    h("li", {title: what}, h("i", {class: `dot fate-${fate}`}), h("span", {class: "count"}, number(found[fate])), ` ${fate}`)));
}

/** The state's bytes by kind. */
export function parts(kept) {
  const all = Object.values(kept.parts).reduce((sum, part) => sum + part, 0);
  if (!all) return "";
  const some = Object.keys(PARTS).filter(kind => kept.parts[kind]);
  const packed = kept.state_bytes && Math.abs(kept.state_bytes - all) > 24
    ? h("p", {class: "note"}, `${bytes(all)} before packing, ${bytes(kept.state_bytes)} as stored`) : "";
  return h("div", {class: "parts"},
    h("div", {class: "stack", "aria-hidden": "true"}, some.map(kind =>
      h("i", {class: `part-${kind}`, style: {"flex-grow": String(kept.parts[kind])}}))),
    h("ul", {class: "legend"}, some.map(kind => h("li", {title: PARTS[kind]}, h("i", {class: `dot part-${kind}`}),
      h("span", {class: "count"}, bytes(kept.parts[kind])), ` ${kind}`))), packed);
}

export function movement(item, rank, before) {
  const old = before.items.findIndex(other => other.item_id === item.item_id);
  if (old < 0) return h("span", {class: "move up"}, "new");
  if (old === rank) return h("span", {class: "move"}, "=");
  return old > rank ? h("span", {class: "move up"}, `▲ ${old - rank}`) : h("span", {class: "move"}, `▼ ${rank - old}`);
}

/**
 * A list of recommended items.
 * @param before the list before an append, or nothing
 * @param add called to append an item as an event, or nothing
 * @param beside the other recipe's list, to say how much is the same
 */
export function recommendations(title, kept, before, add, beside) {
  const same = beside && kept.items.filter(item => beside.items.some(other => other.item_id === item.item_id)).length;
  const scores = kept.items.map(item => item.score);
  const low = Math.min(...scores), range = Math.max(...scores) - low || 1;
  return h("section", {},
    h("h2", {}, title, beside ? h("span", {class: "note"}, ` ${same} of ${kept.items.length} the same`) : ""),
    kept.items.length ? h("ol", {class: "items"}, kept.items.map((item, rank) => h("li", {},
      h("span", {class: "rank"}, String(rank + 1)),
      h("span", {class: "name"}, item.title, item.title === item.item_id ? "" : h("code", {}, ` ${item.item_id}`),
        h("span", {class: "meter", title: `score ${item.score}`, "aria-hidden": "true"}, h("i", {style: {width: percent(0.06 + 0.94 * (item.score - low) / range, 1)}}))),
      before ? movement(item, rank, before) : "",
      add ? h("button", {type: "button", class: "add", "aria-label": `Append ${item.title} as an event`, onclick: () => add(item.item_id, item.title)}, "+") : "")))
      : h("p", {class: "none"}, "Nothing is left to recommend."));
}

/** The fate of the event at a place in the history. */
export function fateAt(fates, place) {
  let end = 0;
  for (const {fate, events} of fates) {
    end += events;
    if (place < end) return fate;
  }
  return "waiting";  // appended since
}

/** Events of a part of the history, newest first, a day at a time; a dot for each recipe. */
export function timeline(events, start, recipes) {
  const days = [];
  events.forEach((event, n) => {
    const date = day(event.timestamp);
    if (days.at(-1)?.date !== date) days.push({date, events: []});
    days.at(-1).events.push({...event, place: start + n});
  });
  return h("ol", {class: "timeline"}, days.reverse().map(({date, events: found}) =>
    h("li", {}, h("h3", {}, h("time", {datetime: date}, date)),
      h("ol", {}, found.reverse().map(event => {
        const fates = recipes.map(kept => fateAt(kept.fates, event.place));
        return h("li", {class: fates[0] === "kept" || fates[0] === "waiting" ? null : "gone"},
          fates.map((fate, n) => h("i", {class: `dot fate-${fate}`, role: "img", "aria-label": recipes.length > 1 ? `${n ? "beside it" : "stored"}: ${fate}` : fate, title: FATES[fate]})),
          h("span", {class: "clock"}, time(event.timestamp)),
          h("span", {class: "name"}, event.title, event.title === event.item_id ? "" : h("code", {}, ` ${event.item_id}`)));
      })))));
}
