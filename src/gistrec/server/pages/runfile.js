// A choice as a run file, for `gistrec train --run` and `gistrec serve --run`.

function toml(run) {
  const lines = [], tables = [];
  for (const [name, value] of Object.entries(run)) {
    if (value === null || value === undefined) continue;
    if (typeof value === "object" && !Array.isArray(value)) tables.push("", `[${name}]`, toml(value));
    else lines.push(`${name} = ${JSON.stringify(value)}`);
  }
  return [...lines, ...tables].join("\n");
}

/** What the model was trained with, the codecs, and facts about the choice. */
export function runFile(point, wanted) {
  const {plan = {}, ...run} = point.bench.run;
  const facts = {
    ...plan, ...wanted, state_bytes: point.state_bytes, shared_bytes: point.shared_bytes,
    ndcg_10: point.ndcg_10, kept: point.kept, recommend_ms_p99: point.recommend_ms_p99,
  };
  const note = plan.model ? "" : "# The rows do not say where the log lies: complete `data`, and say how to train.\n";
  return `${note}${toml({codec: point.name, ...run, plan: facts})}\n`;
}
