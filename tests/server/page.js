// Runs the dashboard's script on the least of a browser that it needs, and types a key.
"use strict";
const fs = require("fs");
const script = /<script>([^]*?)<\/script>/.exec(fs.readFileSync(process.argv[2], "utf8"))[1];

const nodes = {};
const node = () => ({
  children: [], append(...more) { this.children.push(...more); }, replaceChildren() {},
  querySelector: () => node(), style: {}, hidden: false, value: "", textContent: "",
});
for (const [, id] of fs.readFileSync(process.argv[2], "utf8").matchAll(/ id="(\w+)"/g)) nodes[id] = node();
nodes.asked.hidden = true;
globalThis.document = {getElementById: id => nodes[id], createElement: node};
globalThis.location = {hash: ""};
const sent = [];
globalThis.fetch = async (path, options) => {
  sent.push({path, authorization: options.headers.Authorization ?? null});
  const right = options.headers.Authorization === "Bearer the-key";
  const body = right
    ? {backbone: "b", codec: "c", users: 0, shared_bytes: 0, num_items: 3, item_id_type: "integer"}
    : {error: {message: "no key given"}};
  return {ok: right, status: right ? 200 : 401, text: async () => JSON.stringify(body)};
};
(async () => {
  (0, eval)(script);
  await new Promise(setImmediate);
  const before = {asked: !nodes.asked.hidden, metrics: !nodes.metrics.hidden, said: nodes.message.textContent};
  nodes.key.value = " the-key ";
  nodes.key.onchange();
  await new Promise(setImmediate);
  console.log(JSON.stringify({before, said: nodes.message.textContent, sent, hash: location.hash}));
})();
