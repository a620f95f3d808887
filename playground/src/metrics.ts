// The server's metrics over time: read from their text form, kept while the page is open, and turned into what is drawn.

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

/** Lines of Prometheus' text form; comments and what is not a number are left out. */
export function parseMetrics(text: string): Sample[] {
  const found: Sample[] = [];
  for (const line of text.split("\n")) {
    const match = /^([a-z_:]+)(?:\{(.*)\})? (\S+)/i.exec(line);
    if (!match?.[1] || line.startsWith("#")) continue;
    const labels = Object.fromEntries(
      [...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [
        name,
        (value ?? "").replace(/\\(.)/g, (_, letter: string) => (letter === "n" ? "\n" : letter)),
      ]),
    ) as Record<string, string>;
    found.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return found;
}

export interface KeyUsage {
  edits: number;
  images: number;
  seconds: number;
  dollars: number;
}

/** One reading. Sums over every queue; those of edits grow for ever. */
export interface Point {
  at: number;
  waiting: number;
  running: number;
  edits: number;
  waitSeconds: number;
  runSeconds: number;
  /** By the name of the key; null where this page's key may not see it. */
  usage: Map<string, KeyUsage> | null;
}

export function pointOf(samples: Sample[], at: number): Point {
  const sum = (name: string, state?: string) =>
    samples
      .filter((sample) => sample.name === name && (state === undefined || sample.labels["state"] === state))
      .reduce((total, { value }) => total + value, 0);
  return {
    at,
    waiting: sum("retouch_jobs", "queued"),
    running: sum("retouch_jobs", "running"),
    edits: sum("retouch_job_wait_seconds_count"),
    waitSeconds: sum("retouch_job_wait_seconds_sum"),
    runSeconds: sum("retouch_job_run_seconds_sum"),
    usage: usageIn(samples),
  };
}

const USAGE: Record<string, keyof KeyUsage> = {
  retouch_usage_edits_total: "edits",
  retouch_usage_images_total: "images",
  retouch_usage_device_seconds_total: "seconds",
  retouch_usage_dollars_total: "dollars",
};

function usageIn(samples: Sample[]): Map<string, KeyUsage> | null {
  const found = new Map<string, KeyUsage>();
  for (const { name, labels, value } of samples) {
    const field = USAGE[name];
    if (field === undefined) continue;
    const key = labels["key"] ?? "";
    const usage = found.get(key) ?? { edits: 0, images: 0, seconds: 0, dollars: 0 };
    found.set(key, { ...usage, [field]: value });
  }
  return found.size ? found : null;
}

const WINDOW_MS = 60_000;

/** For each point, the earliest of the minute before it; itself where there is none. */
const before = (points: Point[]): [Point, Point][] =>
  points.map((point) => [points.find(({ at }) => at >= point.at - WINDOW_MS) ?? point, point]);

/** Edits that ended in the minute before each point, as a pace per hour; null before there is a past. */
export const pace = (points: Point[]): (number | null)[] =>
  before(points).map(([first, last]) =>
    last.at > first.at ? (Math.max(0, last.edits - first.edits) / (last.at - first.at)) * 3_600_000 : null,
  );

/** Mean seconds of the edits of the minute before each point; null where none ended in it. */
export const mean = (points: Point[], field: "waitSeconds" | "runSeconds"): (number | null)[] =>
  before(points).map(([first, last]) =>
    last.edits > first.edits ? (last[field] - first[field]) / (last.edits - first.edits) : null,
  );

/** Edits of a key in the minute before each point. */
export const editsOf = (points: Point[], key: string): (number | null)[] =>
  before(points).map(([first, last]) => (last.usage?.get(key)?.edits ?? 0) - (first.usage?.get(key)?.edits ?? 0));
