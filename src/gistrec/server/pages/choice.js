// Which recipe to take: the same rule as `gistrec report`.

/** A dial is turned on a sample of users, so that the mean of all may be a little over its budget. */
export const fits = (point, budget, limit) => point.encoded
  && (point.state_bytes <= budget || (point.budget_bytes ?? Infinity) <= budget)
  && (limit === null || (point.recommend_ms_p99 !== null && point.recommend_ms_p99 <= limit));

/** The most accurate that fits; of equals the smallest. */
export function choose(points, budget, limit) {
  let best = null;
  for (const point of points) {
    if (!fits(point, budget, limit)) continue;
    if (!best || point.ndcg_10 > best.ndcg_10
      || (point.ndcg_10 === best.ndcg_10 && point.state_bytes < best.state_bytes)) best = point;
  }
  return best;
}

/** Recipes that no other beats in both bytes and accuracy, by bytes. */
export function frontier(points) {
  const best = [];
  const encoded = points.filter(point => point.encoded);
  for (const point of encoded.sort((a, b) => a.state_bytes - b.state_bytes || b.ndcg_10 - a.ndcg_10)) {
    if (!best.length || point.ndcg_10 > best.at(-1).ndcg_10) best.push(point);
  }
  return best;
}
