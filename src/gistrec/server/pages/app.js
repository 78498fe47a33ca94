// The frame: which page is shown, which key is used, whether the server answers.

import * as api from "./api.js";
import {empty, h, loading, say} from "./dom.js";
import * as overview from "./overview.js";
import * as user from "./user.js";
import * as budget from "./budget.js";
import * as models from "./models.js";

const PAGES = {overview, user, budget, models};
const at = id => document.getElementById(id);
const main = at("main");
const dialog = at("key-dialog");
let leave = () => {};
let silentSince = null;

/** What pages know of the key. */
const shell = {
  access: null,
  may: scope => shell.access?.scopes.includes(scope) ?? false,
  /** Why something is not allowed, or nothing. */
  whyNot: scope => shell.may(scope) ? ""
    : `the key ${shell.access?.name ?? ""} may not ${scope === "write" ? "append" : "do this"}: it needs the scope ${scope}`,
};

function pageName() {
  const name = location.hash.slice(1);
  return Object.hasOwn(PAGES, name) ? name : "overview";
}

function show() {
  leave();
  const name = pageName();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${PAGES[name].title} · gistrec`;
  const root = h("div", {class: `page ${name}`});
  main.replaceChildren(root);
  leave = shell.access ? PAGES[name].open(root, shell) ?? (() => {}) : closed(root);
}

/** The page while no key is known to be right, or the server is gone. */
function closed(root) {
  if (silentSince) {
    root.append(empty("The server does not answer",
      h("p", {}, "Is gistrec serve running, and can it be reached from here?"),
      h("button", {type: "button", class: "main", onclick: begin}, "Try again")));
  } else if (at("ask-key").hidden) {
    root.append(loading("Asking the server…"));
  } else {
    root.append(empty("This server asks for a key",
      h("p", {}, "Make one with ", h("code", {}, "gistrec keys add"), " and enter it here."),
      h("button", {type: "button", class: "main", onclick: askKey}, "Enter a key")));
  }
  return () => {};
}

async function begin() {
  try {
    shell.access = await api.get("v1/access");
    at("ask-key").hidden = !shell.access.asks_for_keys;
    at("who").textContent = shell.access.asks_for_keys
      ? `key ${shell.access.name}: ${shell.access.scopes.join(", ")}` : "open to all who reach it";
    if (dialog.open) dialog.close();
  } catch (error) {
    shell.access = null;
    if (error.status === 401) say(at("key-error"), at("key").value ? error.message : "", true);
  }
  show();
}

function askKey() {
  at("key").value = "";
  say(at("key-error"), "");
  if (!dialog.open) dialog.showModal();
  at("key").focus();
}

function heard(answered) {
  const since = answered ? null : silentSince ?? new Date();
  if (answered === (silentSince === null) && at("pulse").textContent) return;
  silentSince = since;
  at("pulse").classList.toggle("silent", !answered);
  at("pulse").textContent = answered ? "live" : `no answer since ${since.toTimeString().slice(0, 8)}`;
}

api.watch(() => {
  at("ask-key").hidden = false;
  if (shell.access) {  // it was good until now: revoked
    shell.access = null;
    show();
  }
}, heard);
at("key-form").addEventListener("submit", event => {
  event.preventDefault();
  api.useKey(at("key").value);
  begin();
});
at("key-cancel").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => { at("key").value = ""; });
at("ask-key").addEventListener("click", askKey);
document.querySelector(".skip").addEventListener("click", event => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", show);
show();
await begin();
if (!shell.access && !silentSince) askKey();
