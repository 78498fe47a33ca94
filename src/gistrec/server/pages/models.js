// Models: which versions there are, how far each is built, and which one serves.

import * as api from "./api.js";
import {figure, h, loading, say} from "./dom.js";
import {bytes, number, percent} from "./format.js";
import {every} from "./poll.js";

export const title = "Models";

const share = part => percent(part, part === 0 || part === 1 ? 0 : 1);

export function open(root, shell) {
  const list = h("div", {class: "versions"}, loading("Counting states…"));
  const told = h("p", {role: "status", class: "told"});
  const back = h("p", {class: "actions", hidden: true});
  const sure = h("dialog", {"aria-labelledby": "sure-title"});
  root.append(h("h1", {}, "Models"),
    h("p", {class: "lead"}, "States of several versions stand beside each other in the store. One version serves; switching is a record in the store that all servers follow within a second or two, and can be taken back."),
    told, back, list, sure);
  let before = null, shown = "";

  async function refresh() {
    let answer;
    try {
      answer = await api.get("v1/versions");
    } catch (error) {
      say(told, error.message, true);
      return;
    }
    if (told.classList.contains("bad")) say(told, "");
    const {versions, log} = answer;
    const text = JSON.stringify([versions, log.users]);
    if (text === shown) return;  // keeps the focus where it is
    shown = text;
    list.replaceChildren(...versions.map(version => card(version, log.users)),
      h("p", {class: "note"}, `users and bytes are counted anew once a minute, ${number(answer.age_s)} s ago`));
  }

  function card(version, users) {
    const built = users ? Math.min(version.states.users / users, 1) : null;
    const whyNot = shell.whyNot("admin");
    const button = version.serving ? h("strong", {class: "badge"}, "serves")
      : !version.here ? h("span", {class: "note"}, "not given to this server")
      : h("button", {type: "button", disabled: Boolean(whyNot), title: whyNot, onclick: () => ask(version, built)}, "Serve this version");
    return h("article", {class: version.serving ? "version serving" : "version", "aria-label": `version ${version.version}`},
      h("header", {}, h("h2", {}, h("code", {}, version.version)), button),
      version.codec && h("dl", {class: "specs"},
        h("dt", {}, "model"), h("dd", {}, h("code", {}, version.backbone ?? version.model)),
        h("dt", {}, "recipe"), h("dd", {}, h("code", {}, version.codec))),
      h("div", {class: "built"},
        h("span", {class: "meter wide", role: "img", "aria-label": built === null ? "no user" : `${share(built)} built`},
          h("i", {style: {width: `${100 * (built ?? 0)}%`}})),
        h("span", {}, built === null ? "no user yet" : `${share(built)} of users built`)),
      h("dl", {class: "figures small"},
        figure("states", number(version.states.users)),
        figure("p50", version.states.users ? bytes(version.states.bytes_p50) : "–"),
        figure("p99", version.states.users ? bytes(version.states.bytes_p99) : "–"),
        figure("total", bytes(version.states.bytes_total)),
        version.here && figure("shared tables", bytes(version.shared_bytes)),
        version.here && figure("items", number(version.num_items))),
      whyNot && !version.serving && version.here && h("p", {class: "note"}, `To switch, ${whyNot}.`));
  }

  function ask(version, built) {
    const lacking = built ? `${share(1 - built)} of users have` : "No user has";
    const rest = built === null || built === 1 ? "No state has to be rebuilt."
      : `${lacking} ${built ? "no" : "a"} state of it yet: it is rebuilt from the history when the user comes. Build all ahead with gistrec state build.`;
    sure.replaceChildren(h("h2", {id: "sure-title"}, `Serve ${version.version}?`),
      h("p", {}, h("code", {}, version.codec)), h("p", {}, rest),
      h("p", {class: "actions"},
        h("button", {type: "button", class: "main", onclick: () => { sure.close(); change(version.version); }}, "Serve it"),
        h("button", {type: "button", onclick: () => sure.close()}, "Cancel")));
    sure.showModal();
  }

  async function change(version) {
    try {
      const done = await api.put("v1/serving", {version});
      before = done.before;
      say(told, `${done.serving} serves now, before it was ${before}.`);
      back.hidden = before === done.serving;
      back.replaceChildren(h("button", {type: "button", onclick: () => change(before)}, `Return to ${before}`));
    } catch (error) {
      say(told, error.message, true);
    }
    shown = "";
    await refresh();
  }

  return every(5000, refresh);
}
