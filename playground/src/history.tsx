// The runs of this browser and of this key, newest first.

import { useEffect, useId, useState } from "preact/hooks";
import { ownPath, readKey } from "./api";
import { compare, hasResults, remove, sameAgain, select, useAsInput } from "./archive";
import { noticesOfResult } from "./notices";
import { brought, listRuns } from "./remote";
import { exportRun, importRun } from "./runfile";
import { active, shortName, useApp, w, type Run } from "./state";
import { LinkImage, useFile } from "./ui";

export function History() {
  const app = useApp();
  const text = w();
  const [filter, setFilter] = useState("");
  const wanted = filter.trim().toLowerCase();
  const runs = app.runs.filter((run) =>
    [run.draft.prompt, run.draft.endpoint, run.seed ?? "", run.state].join(" ").toLowerCase().includes(wanted),
  );
  const open = () => {
    // Made when it is needed: the page has one file input, the one for images.
    const chooser = document.createElement("input");
    chooser.type = "file";
    chooser.accept = "application/json,.json";
    chooser.onchange = () => chooser.files?.[0] && void importRun(chooser.files[0]);
    chooser.click();
  };
  return (
    <section class="history" aria-label={text.history}>
      <header class="row">
        <h2>{text.history}</h2>
        <span class="spacer" />
        {app.runs.length > 3 && (
          <input
            type="search"
            aria-label={text.filter}
            placeholder={text.filter}
            value={filter}
            onInput={(event) => setFilter(event.currentTarget.value)}
          />
        )}
        <button type="button" class="quiet" onClick={open}>
          {text.openRun}
        </button>
      </header>
      {app.runs.length === 0 && <p class="hint">{readKey() ? text.historyOfKeyEmpty : text.historyEmpty}</p>}
      {app.runs.length > 0 && runs.length === 0 && <p class="hint">{text.noneFound}</p>}
      <div class="runs">
        {runs.map((run) => (
          <Entry key={run.id} run={run} />
        ))}
      </div>
      {app.older !== null && !wanted && (
        <p class="older">
          <button type="button" class="quiet" onClick={() => void listRuns(true)}>
            {text.older}
          </button>
        </p>
      )}
      {app.deleting > 0 && <p class="note">{text.deletingLater(app.deleting)}</p>}
    </section>
  );
}

function Entry({ run }: { run: Run }) {
  const app = useApp();
  const text = w();
  const id = useId();
  const first = run.draft.inputs[0];
  const answer = useFile(run.results[0]);
  const input = useFile(first && "file" in first ? first.file : undefined);
  const result = answer?.thumbnail ?? (run.remote?.[0] && ownPath(run.remote[0]));
  const thumbnail = result ?? input?.thumbnail;
  const results = run.results.length || run.remote?.length || 0;
  const { asked } = noticesOfResult(run);
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((count) => count + 1), 30_000);
    return () => clearInterval(timer);
  }, []);
  const facts = [
    shortName(run.draft.endpoint),
    text.ago((Date.now() - run.createdAt) / 1000),
    ...(run.state === "done" && run.seconds !== null ? [`${run.seconds.toFixed(1)} s`] : []),
    ...(run.seed !== null ? [text.seed(run.seed)] : []),
    ...(asked.length ? [text.notes(asked.length)] : []),
    ...(run.remote ? [text.elsewhere] : []),
  ];
  const waiting = app.comparing !== null;
  const chosen = app.comparing === run.id;
  return (
    <article class={app.selected === run.id ? "run selected" : "run"} aria-labelledby={id}>
      <button type="button" class="run-thumbnail" aria-label={text.show} aria-describedby={id} onClick={() => select(run.id)}>
        {thumbnail && <img src={thumbnail} alt="" class={result ? "" : "faint"} loading="lazy" draggable={false} />}
        {!thumbnail && first && "link" in first && <LinkImage link={first.link} alt="" />}
        {results > 1 && <span class="count">{results}</span>}
      </button>
      <div class="run-text">
        <p class="run-prompt" id={id}>
          {run.draft.prompt}
        </p>
        <p class="hint">
          {active(run) ? (run.steps ? text.stepOf(run.step, run.steps, null) : text.queued(run.position, null)) : facts.join(" · ")}
        </p>
        {(run.state === "failed" || run.state === "cancelled") && (
          <p class={run.state === "failed" ? "problem" : "note"}>{run.problems.map((problem) => problem.text).join(" ")}</p>
        )}
        <div class="run-actions">
          <button type="button" disabled={!hasResults(run)} onClick={() => void useAsInput(run)}>
            {text.useAsInput}
          </button>
          <button type="button" onClick={() => void sameAgain(run)}>
            {text.sameAgain}
          </button>
          <button type="button" class="quiet" aria-pressed={chosen} disabled={!hasResults(run)} onClick={() => compare(run.id)}>
            {waiting && !chosen ? text.compareWith : text.compare}
          </button>
          <button type="button" class="quiet" onClick={() => void brought(run.id).then((here) => here && exportRun(here))}>
            {text.export}
          </button>
          <button type="button" class="quiet" onClick={() => void remove(run.id)}>
            {text.delete}
          </button>
        </div>
      </div>
    </article>
  );
}
