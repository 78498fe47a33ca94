// Something done again and again while it can be seen.

/** Runs `work` now and every so often; the function that it returns ends it. */
export function every(milliseconds, work) {
  let timer = null, ended = false, working = false;
  async function turn() {
    if (ended || working) return;
    clearTimeout(timer);
    working = true;
    if (!document.hidden) await work();
    working = false;
    if (!ended) timer = setTimeout(turn, milliseconds);
  }
  const seen = () => { if (!document.hidden) turn(); };
  document.addEventListener("visibilitychange", seen);
  turn();
  return () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", seen);
  };
}
