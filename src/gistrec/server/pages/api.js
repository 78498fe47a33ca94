// Requests to the server. The key lives in this module's memory only.

let key = "";
let refused = () => {};
let heard = () => {};

/** What the server said, or that it said nothing (status 0). */
export class Failure extends Error {
  constructor(message, status, type) {
    super(message);
    this.status = status;
    this.type = type;
  }
}

export const useKey = text => { key = text.trim(); };

/** Calls when the server wants another key, and after every answer or its absence. */
export function watch(onRefused, onHeard) {
  refused = onRefused;
  heard = onHeard;
}

// Ids of 64 bits do not fit a JavaScript number: they stay the text that the server wrote.
const exact = (name, value, context) =>
  name === "item_id" && typeof value === "number" ? context?.source ?? String(value) : value;

async function send(method, path, body) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  let response, text;
  try {
    response = await fetch(path, {method, body, headers, cache: "no-store", signal: AbortSignal.timeout(40_000)});
    text = await response.text();
  } catch {
    heard(false);
    throw new Failure("the server does not answer", 0, "Unreachable");
  }
  heard(true);
  if (response.ok) return text;
  let error;
  try {
    ({error} = JSON.parse(text));
  } catch {
    error = {message: `the answer has status ${response.status} and is not gistrec's`, type: "Unknown"};
  }
  if (response.status === 401) refused();
  throw new Failure(error.message, response.status, error.type);
}

export const get = async path => JSON.parse(await send("GET", path), exact);
export const text = path => send("GET", path);
export const post = async (path, body) => JSON.parse(await send("POST", path, JSON.stringify(body)), exact);
export const put = async (path, body) => JSON.parse(await send("PUT", path, JSON.stringify(body)), exact);

/** Append one event of now. The user's id stands in the body: no address ever holds it. */
export async function append(user, item, isNumber) {
  const id = isNumber && /^-?\d+$/.test(item) ? item : JSON.stringify(item);
  const body = `{"users":[{"user_id":${JSON.stringify(user)},"events":[{"item_id":${id}}]}]}`;
  const {users: [{kept, error}]} = JSON.parse(await send("POST", "v1/batch/events", body));
  if (error) throw new Failure(error.message, error.status, error.type);
  return kept;
}
