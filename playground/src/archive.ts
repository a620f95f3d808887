// The runs that are there: chosen, compared, used again, deleted.

import { deleteOnServer } from "./deletion";
import { change } from "./draft";
import { brought } from "./remote";
import { edit } from "./runs";
import { active, currentEndpoint, runNamed, state, update, w } from "./state";
import * as store from "./store";
import type { Run } from "./store";

export function select(id: string, answer = 0): void {
  if (state.comparing && state.comparing !== id && hasResults(runNamed(id))) {
    update({ compared: [state.comparing, id], comparing: null, selected: id, answer: 0 });
    void Promise.all([brought(state.compared?.[0] ?? ""), brought(id)]);
    return;
  }
  update({ selected: id, answer, compared: null, comparing: null });
  void brought(id);
}

/** Whether there is an image to look at, here or on the server. */
export const hasResults = (run: Run | undefined): boolean => Boolean(run?.results.length || run?.remote?.length);

export function compare(id: string): void {
  if (state.comparing === null) update({ comparing: id, compared: null });
  else if (state.comparing === id) update({ comparing: null });
  else select(id);
}

export async function useAsInput(listed: Run): Promise<void> {
  const run = await brought(listed.id);
  const id = run?.results[run.id === state.selected ? state.answer : 0] ?? run?.results[0];
  if (!id) return;
  const endpoint = currentEndpoint();
  const rest = endpoint && endpoint.maxImages > 1 ? state.draft.inputs.slice(1) : [];
  change({ inputs: [{ file: id }, ...rest], mask: null });
  update({ imageNote: null, selected: null, compared: null, announcement: w().nowInput });
}

export async function sameAgain(listed: Run): Promise<void> {
  const run = (await brought(listed.id)) ?? listed;
  update({ problems: {}, imageNote: null, seedLocked: run.draft.values["seed"] !== undefined });
  change(structuredClone(run.draft));
  await edit();
}

export async function remove(id: string): Promise<void> {
  const run = runNamed(id);
  await store.deleteRun(id);
  if (run?.requestId) deleteOnServer({ endpoint: run.draft.endpoint, requestId: run.requestId, active: active(run) });
  const runs = state.runs.filter((other) => other.id !== id);
  const selected = state.selected === id ? (runs[0]?.id ?? null) : state.selected;
  update({ runs, selected, answer: 0, compared: null, comparing: null, announcement: w().deleted });
  await store.collectGarbage(runs, state.draft);
}
