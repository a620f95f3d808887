// For the operator: queue, pace, times, workers and the usage of each key, live from the server's metrics.

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import { editsOf, mean, pace, parseMetrics, pointOf, type Point, type Sample } from "./metrics";
import { largest, Plot, type Line } from "./plot";
import { w } from "./state";
import { Dialog } from "./ui";

const EVERY_MS = 2000;
/** Five minutes of readings. */
const KEPT = 150;

/** Of the whole visit: the view goes on where it was closed. */
let points: Point[] = [];

export function ServerDialog({ onClose }: { onClose: () => void }) {
  const [samples, setSamples] = useState<Sample[]>([]);
  const [failed, setFailed] = useState(false);
  const text = w();
  useEffect(() => {
    let stopped = false;
    let timer: ReturnType<typeof setTimeout>;
    const read = async () => {
      try {
        const found = parseMetrics(await api.metrics());
        if (stopped) return;
        points = [...points.filter(({ at }) => at > Date.now() - KEPT * EVERY_MS), pointOf(found, Date.now())];
        setSamples(found);
        setFailed(false);
      } catch (error) {
        if (!(error instanceof api.Refused)) throw error;
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
  return (
    <Dialog title={text.serverTitle} onClose={onClose} wide>
      {failed && (
        <p class="problem" role="alert">
          {text.noMetrics}
        </p>
      )}
      {samples.length > 0 && (
        <>
          <Figures />
          <Usage />
          <div class="columns">
            <Workers samples={samples} />
            <Ended samples={samples} />
          </div>
        </>
      )}
    </Dialog>
  );
}

function Figures() {
  const text = w();
  const last = points.at(-1);
  if (!last) return null;
  const hourly = pace(points);
  const [wait, run] = [mean(points, "waitSeconds"), mean(points, "runSeconds")];
  const [waitNow, runNow] = [wait.at(-1) ?? null, run.at(-1) ?? null];
  const ever = last.edits > 0;
  const rate = hourly.at(-1);
  return (
    <div class="figures">
      <Figure
        title={text.queue}
        lines={[{ values: points.map(({ waiting }) => waiting) }, { values: points.map(({ running }) => running), second: true }]}
      >
        <Number value={last.waiting} unit={text.waiting} />
        <Number value={last.running} unit={text.runningNow} second />
      </Figure>
      <Figure title={text.perHour} hint={rate ? text.perHourHint : text.perHourIdle} lines={[{ values: hourly }]}>
        <Number value={rate ? Math.round(rate) : 0} />
      </Figure>
      <Figure
        title={text.times}
        hint={waitNow !== null ? text.lately : ever ? text.overall : undefined}
        lines={[{ values: wait }, { values: run, second: true }]}
      >
        <Number value={waitNow ?? (ever ? last.waitSeconds / last.edits : null)} unit={text.wait} seconds />
        <Number value={runNow ?? (ever ? last.runSeconds / last.edits : null)} unit={text.run} seconds second />
      </Figure>
    </div>
  );
}

interface FigureProps {
  title: string;
  hint?: string;
  lines: Line[];
  children: ComponentChildren;
}

function Figure({ title, hint, lines, children }: FigureProps) {
  const text = w();
  const times = points.map(({ at }) => at);
  const minutes = ((times.at(-1) ?? 0) - (times[0] ?? 0)) / 60_000;
  const top = largest(lines);
  return (
    <figure class="figure">
      <figcaption>{title}</figcaption>
      <p class="numbers">{children}</p>
      <p class="hint">{hint ?? "\u00a0"}</p>
      <Plot times={times} lines={lines} marks={{ from: text.ago5(minutes), to: text.nowLabel, top: top ? short(top) : "" }} />
    </figure>
  );
}

const short = (value: number): string => (value >= 100 || value === Math.round(value) ? value.toFixed(0) : value.toFixed(1));

interface NumberProps {
  value: number | null;
  unit?: string;
  seconds?: boolean;
  second?: boolean;
}

function Number({ value, unit, seconds, second }: NumberProps) {
  return (
    <span class={second ? "number second" : "number"}>
      {value === null ? "–" : seconds ? value.toFixed(1) : value}
      {unit && <small>{unit}</small>}
    </span>
  );
}

/** What each key has used since the beginning, and its pace of the last minutes. */
function Usage() {
  const text = w();
  const usage = points.at(-1)?.usage ?? null;
  const rows = [...(usage ?? [])].sort(([, one], [, other]) => other.seconds - one.seconds);
  const most = Math.max(1e-9, ...rows.map(([, { seconds }]) => seconds));
  return (
    <section class="usage" aria-labelledby="usage-title">
      <h3 id="usage-title">{text.usage}</h3>
      {usage === null && <p class="hint">{points.at(-1)?.edits ? text.usageDenied : text.usageNone}</p>}
      {usage !== null && (
        <div class="scroll" tabIndex={0} role="group" aria-labelledby="usage-title">
          <table>
            <thead>
              <tr>
                <th scope="col">{text.usageKey}</th>
                <th scope="col" class="figures-column">{text.usageEdits}</th>
                <th scope="col" class="figures-column">{text.usageImages}</th>
                <th scope="col">{text.usageTime}</th>
                <th scope="col" class="figures-column">{text.usageCost}</th>
                <th scope="col">{text.usageLately}</th>
              </tr>
            </thead>
            <tbody>
              {rows.map(([key, used]) => (
                <tr key={key}>
                  <th scope="row">{key === "anonymous" ? text.anonymous : key}</th>
                  <td class="figures-column">{used.edits}</td>
                  <td class="figures-column">{used.images}</td>
                  <td>
                    <span class="share" style={{ "--share": `${(used.seconds / most) * 100}%` }}>
                      {duration(used.seconds)}
                    </span>
                  </td>
                  <td class="figures-column">${used.dollars.toFixed(used.dollars < 1 ? 4 : 2)}</td>
                  <td>
                    <Plot times={points.map(({ at }) => at)} lines={[{ values: editsOf(points, key) }]} small />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

const duration = (seconds: number): string =>
  seconds < 100 ? `${seconds.toFixed(1)} s` : seconds < 6000 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;

function Workers({ samples }: { samples: Sample[] }) {
  const text = w();
  const workers = samples.filter(({ name }) => name === "retouch_worker_up");
  return (
    <section>
      <h3>{text.workers}</h3>
      {workers.length === 0 && <p class="problem">{text.noWorkers}</p>}
      <ul class="plain">
        {workers.map(({ labels }) => (
          <li key={`${labels["worker"]}-${labels["queue"]}`}>
            <span class={labels["state"] === "ready" ? "dot" : "dot waiting"} aria-hidden="true" />
            <strong>{labels["queue"]}</strong> {labels["state"]}
            <small>
              {labels["worker"]} · {labels["device"]}
            </small>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Ended({ samples }: { samples: Sample[] }) {
  const text = w();
  const states = samples.filter(({ name }) => name === "retouch_jobs_ended_total");
  const queues = [...new Set(states.map(({ labels }) => labels["queue"] ?? ""))];
  return (
    <section>
      <h3>{text.states}</h3>
      <ul class="plain">
        {queues.map((queue) => (
          <li key={queue}>
            <strong>{queue}</strong>{" "}
            {states
              .filter(({ labels }) => labels["queue"] === queue)
              .map(({ labels, value }) => `${value} ${text.stateNames[labels["state"] ?? ""] ?? labels["state"] ?? ""}`)
              .join(", ")}
          </li>
        ))}
      </ul>
    </section>
  );
}
