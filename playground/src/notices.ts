// Where what was not done as asked is told: beside the image or the parameter it is about, as long as that still stands
// in the form, and under the result otherwise.

import type { Notice } from "./api";
import { endpointNamed, runNamed, state } from "./state";
import type { Run } from "./store";

const IMAGE = /^(?:image_urls?|images)(?:[.[](\d+)\]?)?$/;

/** Of a notice about the input images: which of them, or "all"; null for any other notice. */
function imageOf({ parameter }: Notice): number | "all" | null {
  const match = IMAGE.exec(parameter);
  return match && (match[1] === undefined ? "all" : Number(match[1]));
}

/** The run that is looked at, if its images are still those of the form. */
function runOfInputs(): Run | undefined {
  const run = runNamed(state.selected);
  return run && JSON.stringify(run.draft.inputs) === JSON.stringify(state.draft.inputs) ? run : undefined;
}

export const noticesOfInput = (index: number): Notice[] =>
  runOfInputs()?.notices.filter((notice) => imageOf(notice) === index) ?? [];

export const noticesOfInputs = (): Notice[] => runOfInputs()?.notices.filter((notice) => imageOf(notice) === "all") ?? [];

/** The notice of the last run on a parameter, as long as it is still set that way. */
export function noticeOfField(name: string): string | null {
  const run = runNamed(state.selected);
  if (!run || run.draft.values[name] === undefined) return null;
  if (JSON.stringify(run.draft.values[name]) !== JSON.stringify(state.draft.values[name])) return null;
  return run.notices.find(({ parameter }) => parameter === name)?.detail ?? null;
}

interface Told {
  /** About something that the person has set. */
  asked: Notice[];
  /** How a default was read. */
  quiet: Notice[];
}

/** What is left to tell under the result. */
export function noticesOfResult(run: Run): Told {
  const besideImages = run === runOfInputs();
  const left = run.notices.filter((notice) => !(besideImages && imageOf(notice) !== null));
  const properties = endpointNamed(run.draft.endpoint)?.properties ?? {};
  const asked = left.filter(({ parameter }) => parameter in run.draft.values || !(parameter in properties));
  return { asked, quiet: left.filter((notice) => !asked.includes(notice)) };
}
