// How the page begins: what it kept, what the server has, in which language and with which key.

import * as api from "./api";
import { settleDeletions } from "./deletion";
import { change, showSample } from "./draft";
import { scheduleEstimate } from "./price";
import { dropListed, listRuns } from "./remote";
import { carryOn, sendWhatWaitedForTheKey } from "./runs";
import { active, askForKey, state, update, w } from "./state";
import * as store from "./store";
import type { Run } from "./store";
import { suggestionsFor } from "./suggestions";
import type { Language } from "./words";

export function chooseLanguage(language: Language): void {
  localStorage.setItem("retouch.language", language);
  const before = suggestionsFor(state.model, state.language);
  const untouched = before.first === state.draft.prompt;
  update({ language });
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  if (untouched) change({ prompt: suggestionsFor(state.model, language).first });
}

export async function start(): Promise<void> {
  document.documentElement.lang = state.language === "zh" ? "zh-Hans" : "en";
  addEventListener("unhandledrejection", ({ reason }) => {
    // Whatever was not foreseen, e.g. a full disk, appears on the page and not in the console only.
    update({ problems: { ...state.problems, "": w().unexpected(String((reason as Error)?.message ?? reason)) } });
  });
  const draft = store.readDraft();
  let runs: Run[];
  try {
    runs = await store.readRuns();
  } catch {
    update({ trouble: w().noStorage });
    return;
  }
  update({ runs, selected: runs[0]?.id ?? null });
  if (draft) update({ draft, seedLocked: draft.values["seed"] !== undefined });
  await connect(draft === null);
}

/** Ask the server what there is; again every few seconds while it does not answer. */
async function connect(first: boolean): Promise<void> {
  try {
    const endpoints = await api.endpoints();
    const draft = endpoints.some((known) => known.id === state.draft.endpoint)
      ? state.draft
      : { ...state.draft, endpoint: endpoints[0]?.id ?? "" };
    update({ endpoints, draft, trouble: null, lostSince: null });
  } catch (error) {
    update({ trouble: error instanceof api.Refused && !error.lost ? error.message : w().lost });
    setTimeout(() => void connect(first), 3000);
    return;
  }
  await learnModel();
  // The form appears with the sample in it: no input can come before it is there.
  if (first) await showSample();
  update({ loaded: true });
  for (const run of state.runs) if (active(run)) void carryOn(run);
  scheduleEstimate();
  void settleDeletions();
  await listRuns();
  addEventListener("visibilitychange", () => document.visibilityState === "visible" && void listRuns());
}

async function learnModel(insist = false): Promise<void> {
  try {
    update({ model: await api.loadedModel() });
  } catch (error) {
    if (error instanceof api.Refused && error.status === 401) askForKey(insist);
  }
}

export async function saveKey(key: string): Promise<void> {
  if (key.trim() !== api.readKey()) dropListed();
  api.writeKey(key.trim());
  update({ keyAsked: null, problems: {} });
  await learnModel(true);
  if (state.keyAsked) return;
  scheduleEstimate();
  for (const run of state.runs) if (active(run)) void carryOn(run);
  await sendWhatWaitedForTheKey();
  void settleDeletions();
  await listRuns();
}
