// What is entered: the instruction, the images in their order, the parameters.

import * as api from "./api";
import { held, keep, TooLarge, Unreadable } from "./images";
import { scheduleEstimate } from "./price";
import { importRun } from "./runfile";
import { complaint, endpointFor } from "./schema";
import { currentEndpoint, endpointNamed, shortName, state, update, w } from "./state";
import * as store from "./store";
import type { Draft, Input } from "./store";
import { suggestionsFor } from "./suggestions";

/** The first glance: an image and an instruction that works on the loaded model, one key press before an edit. */
export async function showSample(): Promise<void> {
  const blob = await api.fetchBlob("/playground/sample.jpg");
  const file = await keep(blob, "cat.jpg");
  localStorage.setItem(SAMPLE, file.id);
  const prompt = state.draft.prompt || suggestionsFor(state.model, state.language).first;
  change({ inputs: [{ file: file.id }], prompt });
}

/** Change what is entered; it is kept in this browser, so that a reload loses nothing. */
export function change(patch: Partial<Draft>): void {
  const draft = { ...state.draft, ...patch };
  const problems = { ...state.problems };
  if ("prompt" in patch) delete problems["prompt"];
  delete problems[""];
  if ("inputs" in patch) {
    delete problems["image_url"];
    delete problems["image_urls"];
  }
  update({ draft, problems });
  store.writeDraft(draft);
  scheduleEstimate();
}

export function setValue(name: string, value: unknown): void {
  const values = { ...state.draft.values };
  if (value === undefined || value === "") delete values[name];
  else values[name] = value;
  change({ values });
  const property = currentEndpoint()?.properties[name];
  const problem = property ? complaint(property, value, w().complaints, true) : null;
  const problems = { ...state.problems };
  if (problem) problems[name] = problem;
  else delete problems[name];
  update({ problems });
}

export function chooseEndpoint(id: string): void {
  const endpoint = endpointNamed(id);
  if (!endpoint) return;
  const values = Object.fromEntries(
    Object.entries(state.draft.values).filter(([name, value]) => {
      const property = endpoint.properties[name];
      return property && (!property.enum || property.enum.includes(String(value)));
    }),
  );
  update({ problems: {}, imageNote: null });
  change({ endpoint: id, values });
}

export async function addFiles(files: Iterable<File | Blob>): Promise<void> {
  const added: Input[] = [];
  const refused: string[] = [];
  for (const file of files) {
    const name = file instanceof File && file.name ? file.name : "pasted.png";
    if (name.endsWith(".json")) {
      await importRun(file);
      continue;
    }
    try {
      added.push({ file: (await keep(file, name)).id });
    } catch (error) {
      if (error instanceof Unreadable) refused.push(w().unreadable(name));
      else if (error instanceof TooLarge) refused.push(w().tooLarge(name));
      else throw error;
    }
  }
  addInputs(added);
  if (refused.length) update({ imageNote: refused.join(" ") });
}

/** A link that this page may read is kept as an image, like a file; any other stays a link, which the server opens. */
export async function addLink(link: string): Promise<void> {
  addInputs([await held({ link }, link.startsWith("data:") ? "pasted" : nameOf(link))]);
}

const nameOf = (link: string): string => decodeURIComponent(link.split(/[?#]/)[0]?.split("/").pop() ?? "") || "image";

function addInputs(added: Input[]): void {
  if (!added.length) return;
  // The sample stands in for an image of one's own; the first of these takes its place.
  const kept = isSample(state.draft.inputs) ? [] : state.draft.inputs;
  const inputs = [...kept, ...added];
  const endpoint = currentEndpoint();
  let note: string | null = null;
  if (endpoint && inputs.length > endpoint.maxImages) {
    const larger = endpointFor(inputs.length, state.endpoints);
    if (larger) {
      chooseEndpoint(larger.id);
      note = w().switched(shortName(endpoint.id), endpoint.maxImages, shortName(larger.id));
    } else {
      note = w().tooMany(Math.max(...state.endpoints.map((known) => known.maxImages)));
    }
  }
  change({ inputs, mask: kept.length ? state.draft.mask : null });
  // The canvas shows what will be edited next, not what was made from other images.
  update({ imageNote: note, selected: null, compared: null });
}

const SAMPLE = "retouch.sample";
const isSample = (inputs: Input[]): boolean => {
  const only = inputs.length === 1 ? inputs[0] : undefined;
  return only !== undefined && "file" in only && only.file === localStorage.getItem(SAMPLE);
};

export function moveInput(from: number, to: number): void {
  const inputs = [...state.draft.inputs];
  const [moved] = inputs.splice(from, 1);
  if (!moved || to < 0 || to > inputs.length) return;
  inputs.splice(to, 0, moved);
  // A mask belongs to the first image.
  change({ inputs, mask: from === 0 || to === 0 ? null : state.draft.mask });
  update({ announcement: w().moved(from + 1, to + 1) });
}

export function removeInput(index: number): void {
  change({ inputs: state.draft.inputs.filter((_, at) => at !== index), mask: index ? state.draft.mask : null });
  update({ imageNote: null, announcement: w().removed(index + 1) });
}
