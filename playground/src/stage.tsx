// What came of an edit beside what it began with, and in words: where it stands, what was not done as asked.

import { useEffect, useRef, useState } from "preact/hooks";
import { Chips } from "./form";
import { noticesOfResult } from "./notices";
import { active, runNamed, useApp, w, type Run } from "./state";
import { isDemo, suggestionsFor, UNCHANGED } from "./suggestions";
import { useFile } from "./ui";
import { Comparison } from "./comparison";
import { Viewer } from "./viewer";

export function Stage() {
  const app = useApp();
  const section = useRef<HTMLElement>(null);
  const run = runNamed(app.selected);
  const running = run !== undefined && active(run);
  const first = (run?.draft ?? app.draft).inputs[0];
  const original = useFile(first && "file" in first ? first.file : undefined);
  const answer = useFile(run?.results[app.answer]);
  const [a, b] = app.compared?.map(runNamed) ?? [];
  useEffect(() => {
    // On a phone the canvas is below the form; it is what an edit is about.
    if (running && section.current && section.current.getBoundingClientRect().top > innerHeight * 0.6) {
      section.current.scrollIntoView({ behavior: "smooth" });
    }
  }, [app.selected, running]);
  const preview = run && app.previews[run.id];
  const text = w();
  return (
    <section class="stage" ref={section} aria-label={text.stage.split(/[:：]/)[0]}>
      <StatusLine />
      {a && b ? (
        <Comparison a={a} b={b} />
      ) : (
        <>
          <Viewer
            key={`${run?.id ?? "draft"}-${answer ? "done" : ""}`}
            before={original}
            after={answer}
            names={[text.original, text.result]}
            preview={running ? preview : undefined}
            grid={run?.results ?? []}
            run={run}
          />
          {run && <Outcome run={run} />}
        </>
      )}
    </section>
  );
}

function StatusLine() {
  const app = useApp();
  const run = runNamed(app.selected);
  const now = useClock(run !== undefined && active(run));
  const text = w();
  const part = run ? (run.steps ? run.step / run.steps : 0) : 0;
  const going = run !== undefined && active(run);
  return (
    <div class="status-row">
      <p role="status">{app.lostSince !== null ? text.lost : sentenceFor(run, now)}</p>
      {run && (
        <div
          class={going ? "progress" : "progress over"}
          role="progressbar"
          aria-label={text.running}
          aria-valuemin={0}
          aria-valuemax={100}
          aria-valuenow={run.state === "done" ? 100 : going && !run.step ? undefined : Math.round(part * 100)}
        >
          <div
            class={going && !run.step ? "bar unknown" : "bar"}
            style={{ width: `${run.state === "done" ? 100 : going && !run.step ? 100 : part * 100}%` }}
          />
        </div>
      )}
    </div>
  );
}

function useClock(ticking: boolean): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    if (!ticking) return;
    const timer = setInterval(() => setNow(Date.now()), 500);
    return () => clearInterval(timer);
  }, [ticking]);
  return now;
}

function sentenceFor(run: Run | undefined, now: number): string {
  const app = useApp();
  const text = w();
  if (Object.keys(app.problems).some((name) => name !== "")) return text.checkForm;
  if (!run) return app.loaded ? text.ready : (app.trouble ?? text.connecting);
  if (run.cancelling && active(run)) return text.cancelling;
  switch (run.state) {
    case "sending":
      return text.sending;
    case "queued":
      return text.queued(run.position, secondsLeft(run, now));
    case "running":
      if (!run.step) return text.preparing;
      return run.step >= run.steps ? text.finishing : text.stepOf(run.step, run.steps, secondsLeft(run, now));
    case "done":
      return run.remote && !run.problems.length ? text.fetching : text.done(run.seconds);
    case "failed":
      return text.failed;
    case "cancelled":
      return run.problems[0]?.text ?? text.cancelled;
  }
}

/** As the server predicted it, less what has passed since; null while it has not. */
const secondsLeft = ({ left }: Run, now: number): number | null =>
  left && Math.max(0, left.seconds - Math.max(0, now - left.at) / 1000);

/** Below the canvas: several answers, what was not done as asked, what went wrong, what to try instead. */
function Outcome({ run }: { run: Run }) {
  const app = useApp();
  const text = w();
  const suggestions = suggestionsFor(app.model, app.language);
  const unchanged = run.state === "done" && run.change !== null && run.change < UNCHANGED && !run.draft.mask;
  // What the person set deserves a frame; how a default was read is a line in small type.
  const { asked: notices, quiet } = noticesOfResult(run);
  return (
    <>
      {run.state === "done" && run.remote && run.problems.length > 0 && (
        <p class="message calm" role="note">
          {run.problems.map((problem) => problem.text).join(" ")}
        </p>
      )}
      {run.state === "failed" && (
        <div class="message" role="alert">
          <strong>{text.failed}</strong> {run.problems.map((problem) => problem.text).join(" ")}
        </div>
      )}
      {unchanged && (
        <div class="message calm" role="note">
          <p>
            <strong>{text.unchanged}</strong> {isDemo(app.model) && text.unchangedDemo}
          </p>
          {isDemo(app.model) && <Chips label={text.suggestions} offered={[suggestions.first, ...suggestions.more].slice(0, 8)} />}
        </div>
      )}
      {run.flagged[app.answer] && (
        <p class="message calm" role="note">
          {text.flagged}
        </p>
      )}
      {run.rewritten && (
        <p class="message calm" role="note">
          <strong>{text.rewritten}</strong> {run.rewritten}
        </p>
      )}
      {notices.length > 0 && (
        <div class="message calm" role="note">
          <strong>{text.notices}</strong>
          <ul>
            {notices.map((notice) => (
              <li key={notice.parameter}>
                <code>{notice.parameter}</code> {notice.detail}
              </li>
            ))}
          </ul>
        </div>
      )}
      {quiet.map((notice) => (
        <p key={notice.parameter} class="hint">
          {notice.detail}
        </p>
      ))}
    </>
  );
}
