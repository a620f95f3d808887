// What this browser keeps: images and runs in IndexedDB, the draft in localStorage. Nothing of it is sent anywhere.

import type { Notice, Problem } from "./api";
import type { Stroke } from "./mask";

export interface StoredFile {
  /** SHA-256 of the bytes; the same image is kept once. */
  id: string;
  blob: Blob;
  name: string;
  width: number;
  height: number;
  thumbnail: Blob;
  /** Where the server reads it, once it was uploaded, and until when (milliseconds). */
  link?: string;
  linkUntil?: number;
}

/** An input: an image kept here, or a link that only the server reads. */
export type Input = { file: string } | { link: string };

export interface Mask {
  strokes: Stroke[];
  inverted: boolean;
}

/** What a person has entered. values: parameters that were set; absent ones are the model's own. */
export interface Draft {
  endpoint: string;
  prompt: string;
  inputs: Input[];
  mask: Mask | null;
  values: Record<string, unknown>;
}

export type RunState = "sending" | "queued" | "running" | "done" | "failed" | "cancelled";

export interface Run {
  id: string;
  createdAt: number;
  draft: Draft;
  /** The body exactly as sent, so that the same idempotency key joins the same edit. */
  body: string;
  requestId: string | null;
  state: RunState;
  /** We asked for the cancellation; otherwise another page or program did. */
  cancelling: boolean;
  step: number;
  steps: number;
  position: number | null;
  /** Until its images are there, as the server predicted it, and when it did (milliseconds since 1970). */
  left: { seconds: number; at: number } | null;
  results: string[];
  seed: string | null;
  seconds: number | null;
  notices: Notice[];
  /** The instruction as the model got it, where it was rewritten. */
  rewritten: string | null;
  /** For each answer, whether the safety checker flagged it. */
  flagged: boolean[];
  problems: Problem[];
  /** Mean difference between input and answer, 0 to 255; null where it was not measured. */
  change: number | null;
  /** Known from the server's list only: links to its results, which are not in this browser yet. */
  remote?: string[];
}

const opened: Promise<IDBDatabase> = new Promise((resolve, reject) => {
  const opening = indexedDB.open("retouch", 1);
  opening.onupgradeneeded = () => {
    opening.result.createObjectStore("files", { keyPath: "id" });
    opening.result.createObjectStore("runs", { keyPath: "id" });
  };
  opening.onsuccess = () => resolve(opening.result);
  opening.onerror = () => reject(opening.error);
});

type Name = "files" | "runs";

async function access<T>(
  name: Name,
  mode: IDBTransactionMode,
  act: (store: IDBObjectStore) => IDBRequest<T>,
): Promise<T> {
  const request = act((await opened).transaction(name, mode).objectStore(name));
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export const readFile = (id: string): Promise<StoredFile | undefined> =>
  access("files", "readonly", (store) => store.get(id) as IDBRequest<StoredFile | undefined>);
export const writeFile = (file: StoredFile) => access("files", "readwrite", (store) => store.put(file));
export const readRuns = async (): Promise<Run[]> => {
  const runs = await access("runs", "readonly", (store) => store.getAll() as IDBRequest<Run[]>);
  return runs.sort((one, other) => other.createdAt - one.createdAt);
};
export const writeRun = (run: Run) => access("runs", "readwrite", (store) => store.put(run));
export const deleteRun = (id: string) => access("runs", "readwrite", (store) => store.delete(id));

const DRAFT = "retouch.draft";

/** The draft is small and is kept synchronously, so that a reload right after a key press loses nothing. */
export function readDraft(): Draft | null {
  return JSON.parse(localStorage.getItem(DRAFT) ?? "null") as Draft | null;
}

export const writeDraft = (draft: Draft): void => localStorage.setItem(DRAFT, JSON.stringify(draft));

const filesOf = (draft: Draft): string[] => draft.inputs.flatMap((input) => ("file" in input ? [input.file] : []));

/** Delete the images that neither a run nor the draft shows any more. */
export async function collectGarbage(runs: Run[], draft: Draft): Promise<void> {
  const used = new Set([...filesOf(draft), ...runs.flatMap((run) => [...filesOf(run.draft), ...run.results])]);
  const keys = await access("files", "readonly", (store) => store.getAllKeys() as IDBRequest<string[]>);
  for (const key of keys) {
    if (!used.has(key)) await access("files", "readwrite", (store) => store.delete(key));
  }
}
