// User: a history, what the memory kept of it, and what is recommended; beside a second recipe.

import * as api from "./api.js";
import {empty, figure, h, loading, say} from "./dom.js";
import {bytes, number, plural} from "./format.js";
import {legend, parts, recommendations, strip, timeline} from "./memory.js";

export const title = "User";

const OLDER = 100;

let remembered = {user: "", other: ""};  // until the page is closed; never in its address

export function open(root, shell) {
  let user = null, past = null, events = [], stored = null, other = null, turn = 0;
  /** Resolves to the versions; counting them may take a while, and nothing else waits for it. */
  let versions = null;
  const name = h("input", {id: "user-id", required: true, autocomplete: "off", spellcheck: "false", value: remembered.user});
  const told = h("p", {role: "status", class: "told"});
  const content = h("div", {});
  root.append(h("h1", {class: "unseen"}, "User"),
    h("form", {class: "bar", onsubmit: event => { event.preventDefault(); look(name.value); }},
      h("label", {class: "field grow", for: "user-id"}, "User id", name),
      h("button", {class: "main"}, "Look")),
    content);
  const choice = h("select", {id: "other", onchange: () => chosen()},
    h("option", {value: ""}, "nothing"), h("option", {value: "codec"}, "other codecs, typed in"));
  const codec = h("input", {id: "codec", placeholder: "recent(keep=32) | int8()", spellcheck: "false", autocomplete: "off", required: true});
  const ownCodec = h("form", {class: "bar", hidden: true, onsubmit: event => { event.preventDefault(); compare(); }},
    h("label", {class: "field grow", for: "codec"}, "Codecs", codec), h("button", {}, "Compare"));
  const item = h("input", {id: "item", required: true, autocomplete: "off", spellcheck: "false"});
  const heads = h("div", {class: "pair heads"}), lists = h("div", {class: "pair"}), histories = h("section", {});

  async function look(id) {
    if (!id) return;
    const mine = ++turn;
    user = remembered.user = id;
    [stored, other, past, events] = [null, null, null, []];
    content.replaceChildren(told, loading("Reading the history…"));
    say(told, "");
    versions ??= known();
    try {
      const [found, kept] = await Promise.all([
        api.post("v1/look/history", {user_id: id, events: OLDER}), api.post("v1/look/state", {user_id: id})]);
      if (mine !== turn) return;
      [past, events, stored] = [found, found.events, kept];
      arrange();
      if (choice.value) await chosen();
    } catch (error) {
      if (mine !== turn) return;
      content.replaceChildren(told);
      say(told, error.message, true);
    }
  }

  async function known() {
    let answer;
    try {
      answer = await api.get("v1/versions");
    } catch (error) {
      versions = null;  // asked for again with the next user
      say(told, error.message, true);
      return [];
    }
    const others = answer.versions.filter(version => version.here && !version.serving);
    choice.firstChild.after(...others.map(version => h("option", {value: version.version}, `${version.version}: ${version.codec}`)));
    if (others.some(version => version.version === remembered.other)) {
      choice.value = remembered.other;
      if (stored) await chosen();
    }
    return answer.versions;
  }

  function arrange() {
    const whyNot = shell.whyNot("write");
    const first = past.length ? [] : [empty("No event of this user yet",
      h("p", {}, "Below is what everybody without a history gets. Append an event to begin one."))];
    content.replaceChildren(...first,
      h("div", {class: "bar"},
        h("form", {class: "bar inner", onsubmit: event => { event.preventDefault(); append(item.value, item.value); }},
          h("label", {class: "field grow", for: "item"}, "Item id", item),
          h("button", {disabled: Boolean(whyNot)}, "Append event")),
        h("label", {class: "field grow", for: "other"}, "Beside it", choice)),
      whyNot ? h("p", {class: "note"}, `To append, ${whyNot}.`) : "",
      ownCodec, told, heads, lists, histories);
    draw();
  }

  function draw(before = null) {
    const both = other ? [stored, other] : [stored];
    heads.replaceChildren(...both.map((kept, n) => head(kept, n)));
    heads.classList.toggle("single", !other);
    lists.classList.toggle("single", !other);
    const add = shell.may("write") ? append : null;
    lists.replaceChildren(...both.map((kept, n) => recommendations(n ? "Recommended beside it" : "Recommended", kept, before?.[n],
      add, n ? stored : null)));
    histories.replaceChildren(h("h2", {}, "History",
      h("span", {class: "note"}, other ? " left dot: kept in the store, right dot: beside it" : "")), ...(events.length ? [
      timeline(events, past.start, both),
      past.start ? h("p", {class: "actions"}, h("button", {type: "button", onclick: older}, `Show ${plural(Math.min(OLDER, past.start), "older event")}`)) : "",
    ] : [h("p", {class: "none"}, "Nothing is logged.")]));
  }

  function head(kept, n) {
    return h("section", {class: "kept"},
      h("h2", {}, kept.stored ? "Kept in the store" : "If it were encoded now"),
      h("p", {class: "spec"}, h("code", {}, kept.codec), other && kept.backbone !== both(0).backbone && n
        ? h("span", {class: "note"}, ` of ${kept.backbone}`) : ""),
      h("dl", {class: "figures small"},
        figure("events", number(past.length)), figure("slots", number(kept.slots)),
        figure("state", bytes(kept.state_bytes)), figure("history", bytes(past.log_bytes))),
      strip(kept.fates), legend(kept.fates), parts(kept));
  }

  const both = n => n ? other : stored;

  async function chosen() {
    remembered.other = choice.value;
    ownCodec.hidden = choice.value !== "codec";
    if (choice.value === "codec") {
      if (codec.value) await compare();
      else codec.focus();
      return;
    }
    await compare();
  }

  async function compare(before = null) {
    const mine = turn;
    other = null;
    say(told, "");
    if (choice.value) {
      const wanted = choice.value === "codec" ? {codec: codec.value} : {version: choice.value};
      if (choice.value === "codec") say(told, "Fitting the codecs to users of this store: the first time takes a few seconds…");
      try {
        const found = await api.post("v1/look/recipe", {user_id: user, ...wanted});
        if (mine !== turn) return;
        other = found;
        say(told, "");
      } catch (error) {
        if (mine === turn) say(told, error.message, true);
      }
    }
    draw(before);
  }

  async function append(id, label) {
    const before = [stored, other], mine = turn;
    try {
      const serving = (await versions).find(version => version.serving);
      await api.append(user, id, serving?.item_id_type === "integer");
      const [found, kept] = await Promise.all([
        api.post("v1/look/history", {user_id: user, events: Math.min(events.length + 1, 500)}),
        api.post("v1/look/state", {user_id: user})]);
      if (mine !== turn) return;  // somebody else is looked at by now
      [past, events, stored] = [found, found.events, kept];
      item.value = "";
      if (past.length === 1) arrange();
      if (other) await compare(before);
      else draw(before);
      const fresh = stored.items.filter(now => !before[0].items.some(old => old.item_id === now.item_id)).length;
      say(told, `Appended ${label}: ${plural(past.length, "event")} now, ${fresh ? `${fresh} of ${stored.items.length} recommended items are new` : "the same items are recommended"}.`);
    } catch (error) {
      say(told, error.message, true);
    }
  }

  async function older() {
    try {
      const more = await api.post("v1/look/history", {user_id: user, events: OLDER, before: past.start});
      events = [...more.events, ...events];
      past = {...past, start: more.start};
      draw();
    } catch (error) {
      say(told, error.message, true);
    }
  }

  if (remembered.user) look(remembered.user);
  else {
    content.append(h("p", {class: "hint"}, "Name a user to see the history, what the memory kept of it, and what is recommended."));
    name.focus();
  }
}
