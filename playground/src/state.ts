// The page's state. Components read it by `useApp`; `start`, `draft`, `runs` and `archive` change it, nothing else does.

import { useEffect, useState } from "preact/hooks";
import { readKey, type Estimate } from "./api";
import type { Endpoint } from "./schema";
import type { Draft, Input, Run, StoredFile } from "./store";
import { words, type Language, type Words } from "./words";

export interface State {
  language: Language;
  loaded: boolean;
  /** Why the page cannot begin, e.g. no answer from the server. */
  trouble: string | null;
  endpoints: Endpoint[];
  /** The checkpoint behind all endpoints; empty until it is known. */
  model: string;
  draft: Draft;
  runs: Run[];
  selected: string | null;
  /** Index of the answer that is looked at, of a run with several. */
  answer: number;
  /** Two runs beside each other. */
  compared: [string, string] | null;
  /** A run that waits for its partner in a comparison. */
  comparing: string | null;
  previews: Record<string, string>;
  /** Sentences that belong to a field of the form; "" is the form as a whole. */
  problems: Record<string, string>;
  /** Sentences about images, under the list of them. */
  imageNote: string | null;
  estimate: Estimate | null;
  estimating: boolean;
  seedLocked: boolean;
  keyAsked: null | "needed" | "refused" | "chosen";
  lostSince: number | null;
  /** Runs that wait to be deleted on the server. */
  deleting: number;
  /** Where the server's list of runs goes on; null at its end. */
  older: string | null;
  announcement: string;
}

const EMPTY: Draft = { endpoint: "", prompt: "", inputs: [], mask: null, values: {} };

export const state: State = {
  language: firstLanguage(),
  loaded: false,
  trouble: null,
  endpoints: [],
  model: "",
  draft: EMPTY,
  runs: [],
  selected: null,
  answer: 0,
  compared: null,
  comparing: null,
  previews: {},
  problems: {},
  imageNote: null,
  estimate: null,
  estimating: false,
  seedLocked: false,
  keyAsked: null,
  lostSince: null,
  deleting: 0,
  older: null,
  announcement: "",
};

const listeners = new Set<() => void>();

export function update(patch: Partial<State>): void {
  Object.assign(state, patch);
  for (const listener of listeners) listener();
}

export function useApp(): State {
  const [, render] = useState(0);
  useEffect(() => {
    const listener = () => render((count) => count + 1);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return state;
}

export const w = (): Words => words[state.language];

function firstLanguage(): Language {
  const kept = localStorage.getItem("retouch.language");
  if (kept === "en" || kept === "zh") return kept;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export const currentEndpoint = (): Endpoint | undefined => endpointNamed(state.draft.endpoint);
export const endpointNamed = (id: string): Endpoint | undefined => state.endpoints.find((known) => known.id === id);
export const runNamed = (id: string | null): Run | undefined => state.runs.find((run) => run.id === id);
export const active = (run: Run): boolean => ["sending", "queued", "running"].includes(run.state);

export const shortName = (id: string): string => id.replace(/^fal-ai\//, "");

let declined: string | null = null;

/** Ask for a key. insist: also if the person has closed the question about the present one, because they act now. */
export function askForKey(insist = false): void {
  if (insist || declined !== readKey()) update({ keyAsked: readKey() ? "refused" : "needed" });
}

export function closeKeyQuestion(): void {
  declined = readKey();
  update({ keyAsked: null });
}

export type { Draft, Input, Run, StoredFile };
