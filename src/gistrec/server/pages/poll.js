// Something done again and again while it can be seen.

/** Runs `work` now and every so often; the function that it returns ends it. */
export function every(milliseconds, work) {
  let timer = null, ended = false;
  async function turn() {
    clearTimeout(timer);
    if (ended) return;
    if (!document.hidden) await work();
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
