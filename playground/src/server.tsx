// For the operator: queue, workers, pace and times of this server, live from its metrics.

import { useEffect, useRef, useState } from "preact/hooks";
import { metrics, Refused } from "./api";
import { w } from "./state";
import { Dialog } from "./ui";

const EVERY_MS = 2000;
const KEPT = 150;

interface Sample {
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
      [...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]),
    ) as Record<string, string>;
    found.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return found;
}

interface Point {
  at: number;
  waiting: number;
  running: number;
  ended: number;
  stages: number;
}

export function ServerDialog({ onClose }: { onClose: () => void }) {
  const [samples, setSamples] = useState<Sample[]>([]);
  const [failed, setFailed] = useState(false);
  const points = useRef<Point[]>([]);
  const text = w();
  useEffect(() => {
    let stopped = false;
    let timer: ReturnType<typeof setTimeout>;
    const read = async () => {
      try {
        const found = parseMetrics(await metrics());
        const sum = (name: string, state?: string) =>
          found
            .filter((sample) => sample.name === name && (state === undefined || sample.labels["state"] === state))
            .reduce((total, { value }) => total + value, 0);
        if (stopped) return;
        points.current = [
          ...points.current.slice(-KEPT + 1),
          {
            at: Date.now(),
            waiting: sum("retouch_jobs", "queued"),
            running: sum("retouch_jobs", "running"),
            ended: sum("retouch_jobs_ended_total", "succeeded"),
            stages: sum("retouch_stage_seconds_total"),
          },
        ];
        setSamples(found);
        setFailed(false);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        if (!stopped) setFailed(true);
      }
      if (!stopped) timer = setTimeout(() => void read(), EVERY_MS);
    };
    void read();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, []);
  const { current } = points;
  const first = current[0];
  const last = current.at(-1);
  const hours = first && last ? (last.at - first.at) / 3_600_000 : 0;
  const ended = first && last ? last.ended - first.ended : 0;
  const worked = first && last ? last.stages - first.stages : 0;
  const workers = samples.filter(({ name }) => name === "retouch_worker_up");
  const states = samples.filter(({ name }) => name === "retouch_jobs_ended_total");
  return (
    <Dialog title={text.serverTitle} onClose={onClose} wide>
      {failed && (
        <p class="problem" role="alert">
          {text.noMetrics}
        </p>
      )}
      <div class="figures">
        <Figure title={text.waiting} value={last?.waiting} values={current.map((point) => point.waiting)} />
        <Figure title={text.running} value={last?.running} values={current.map((point) => point.running)} />
        <Figure
          title={text.perHour}
          hint={text.sinceOpened}
          value={hours > 0 ? Math.round(ended / hours) : undefined}
          values={current.map((point, index) => point.ended - (current[index - 1] ?? point).ended)}
        />
        <Figure
          title={text.runTime}
          hint={text.sinceOpened}
          value={ended > 0 ? Number((worked / ended).toFixed(1)) : undefined}
          values={current.map((point, index) => point.stages - (current[index - 1] ?? point).stages)}
        />
      </div>
      <h3>{text.workers}</h3>
      <ul class="plain">
        {workers.map(({ labels }) => (
          <li key={`${labels["worker"]}-${labels["queue"]}`}>
            <strong>{labels["queue"]}</strong> {labels["worker"]} · {labels["device"]} · {labels["state"]}
          </li>
        ))}
      </ul>
      {states.length > 0 && (
        <>
          <h3>{text.states}</h3>
          <ul class="plain">
            {states.map(({ labels, value }) => (
              <li key={`${labels["queue"]}-${labels["state"]}`}>
                <strong>{value}</strong> {labels["queue"]} · {labels["state"]}
              </li>
            ))}
          </ul>
        </>
      )}
    </Dialog>
  );
}

interface FigureProps {
  title: string;
  hint?: string;
  value: number | undefined;
  values: number[];
}

function Figure({ title, hint, value, values }: FigureProps) {
  const most = Math.max(1, ...values);
  const points = values.map((each, index) => `${(index / Math.max(1, values.length - 1)) * 100},${30 - (each / most) * 28}`);
  return (
    <figure class="figure">
      <figcaption>
        {title} {hint && <small>{hint}</small>}
      </figcaption>
      <p class="number">{value ?? "–"}</p>
      <svg viewBox="0 0 100 32" preserveAspectRatio="none" aria-hidden="true">
        <polyline points={points.join(" ")} />
      </svg>
    </figure>
  );
}
