// A run as a file, to be opened again here or elsewhere.

import { dataUri, keep, uniqueId, Unreadable } from "./images";
import { state, update, w } from "./state";
import * as store from "./store";
import type { Run } from "./store";

interface Exported {
  format: "retouch-run";
  version: 1;
  run: Run;
  files: { id: string; name: string; data: string }[];
}

export async function exportRun(run: Run): Promise<void> {
  const ids = [...run.draft.inputs.flatMap((input) => ("file" in input ? [input.file] : [])), ...run.results];
  const files: Exported["files"] = [];
  for (const id of ids) {
    const file = await store.readFile(id);
    if (file) files.push({ id, name: file.name, data: await dataUri(file.blob) });
  }
  const content: Exported = { format: "retouch-run", version: 1, run, files };
  download(new Blob([JSON.stringify(content)], { type: "application/json" }), `retouch-${run.id.slice(0, 8)}.json`);
}

export function download(blob: Blob, name: string): void {
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
}

/** Open a run that was exported, here or elsewhere; it becomes the newest of the history. */
export async function importRun(file: Blob): Promise<void> {
  try {
    const { format, run, files } = JSON.parse(await file.text()) as Exported;
    if (format !== "retouch-run") throw new SyntaxError(format);
    const ids = new Map<string, string>();
    for (const { id, name, data } of files) ids.set(id, (await keep(await (await fetch(data)).blob(), name)).id);
    const known = (id: string) => ids.get(id) ?? id;
    const inputs = run.draft.inputs.map((input) => ("file" in input ? { file: known(input.file) } : input));
    const opened: Run = {
      ...run,
      id: uniqueId(),
      requestId: null,
      state: run.results.length ? "done" : "cancelled",
      results: run.results.map(known),
      draft: { ...run.draft, inputs },
    };
    await store.writeRun(opened);
    update({ runs: [opened, ...state.runs], selected: opened.id, answer: 0, compared: null, comparing: null });
  } catch (error) {
    if (!(error instanceof SyntaxError) && !(error instanceof TypeError) && !(error instanceof Unreadable)) throw error;
    update({ imageNote: w().notARun });
  }
}
