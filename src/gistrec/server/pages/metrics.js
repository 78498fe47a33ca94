// Prometheus text to the figures that the overview shows.

const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
/** Requests of users; those of dashboards and probes are left out. */
const OF_USERS = /\/v1\/(users|batch)\//;

class Histogram {
  constructor() {
    this.buckets = new Map();
    this.count = 0;
    this.sum = 0;
  }

  add(part, labels, value) {
    if (part === "bucket") this.buckets.set(labels.le, (this.buckets.get(labels.le) ?? 0) + value);
    else if (part === "count") this.count += value;
    else if (part === "sum") this.sum += value;
  }

  /** What came since an earlier one. */
  since(before) {
    const part = new Histogram();
    part.count = this.count - before.count;
    part.sum = this.sum - before.sum;
    for (const [le, count] of this.buckets) part.buckets.set(le, count - (before.buckets.get(le) ?? 0));
    return part;
  }

  /** Milliseconds that a share of all stay below, interpolated inside a bucket; null of none. */
  quantile(share) {
    if (!this.count) return null;
    let low = 0, below = 0;
    const bounds = [...this.buckets].map(([le, count]) => [le === "+Inf" ? Infinity : Number(le), count]);
    for (const [high, count] of bounds.sort((a, b) => a[0] - b[0])) {
      if (count >= share * this.count && count > below) {
        return 1000 * (high === Infinity ? low : low + (high - low) * (share * this.count - below) / (count - below));
      }
      [low, below] = [high, count];
    }
    return 1000 * low;
  }
}

export const none = () => ({at: 0, requests: new Histogram(), refused: 0, failed: 0, stages: {}, found: {}, rebuilds: {}});

/** Requests, stages and how states were found, since the server began. */
export function parse(text) {
  const now = none();
  now.at = performance.now() / 1000;
  for (const line of text.split("\n")) {
    const match = LINE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    const value = Number(match[3]);
    const [, metric, part] = /^(.*?)(?:_(bucket|count|sum|total))?$/.exec(match[1]);
    if (metric === "gistrec_request_seconds" && OF_USERS.test(labels.route)) {
      now.requests.add(part, labels, value);
      if (part === "count" && labels.status >= 500) now.failed += value;
      if (part === "count" && labels.status === "429") now.refused += value;
    } else if (metric === "gistrec_stage_seconds") {
      (now.stages[labels.stage] ??= new Histogram()).add(part, labels, value);
    } else if (metric === "gistrec_rebuilds") {
      now.rebuilds[labels.state] = value;
    } else if (metric === "gistrec_state_loads" && part === "total") {
      now.found[labels.found] = (now.found[labels.found] ?? 0) + value;
    }
  }
  return now;
}

/** What came between two of them; null if the server began anew in between. */
export function between(before, now) {
  if (now.requests.count < before.requests.count) return null;
  const seconds = now.at - before.at;
  const stages = {};
  for (const [name, stage] of Object.entries(now.stages)) stages[name] = stage.since(before.stages[name] ?? new Histogram());
  const found = {};
  for (const [name, count] of Object.entries(now.found)) found[name] = count - (before.found[name] ?? 0);
  return {seconds, requests: now.requests.since(before.requests), stages, found,
    failed: now.failed - before.failed, refused: now.refused - before.refused};
}
