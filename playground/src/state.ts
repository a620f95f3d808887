// The page's state and what can be done to it. Components read it by `useApp` and call the functions below; nothing
// else changes it.

import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import { dataUri, difference, forgetLink, keep, linkOf, TooLarge, uniqueId, Unreadable } from "./images";
import { keepOutside, maskFile } from "./mask";
import { complaint, endpointFor, keepsSize, type Endpoint } from "./schema";
import * as store from "./store";
import type { Draft, Input, Run, StoredFile } from "./store";
import { suggestionsFor } from "./suggestions";
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
  estimate: api.Estimate | null;
  estimating: boolean;
  seedLocked: boolean;
  keyAsked: null | "needed" | "refused" | "chosen";
  lostSince: number | null;
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

export function chooseLanguage(language: Language): void {
  localStorage.setItem("retouch.language", language);
  const before = suggestionsFor(state.model, state.language);
  const untouched = before.first === state.draft.prompt;
  update({ language });
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  if (untouched) change({ prompt: suggestionsFor(state.model, language).first });
}

export const currentEndpoint = (): Endpoint | undefined => endpointNamed(state.draft.endpoint);
export const endpointNamed = (id: string): Endpoint | undefined => state.endpoints.find((known) => known.id === id);
export const runNamed = (id: string | null): Run | undefined => state.runs.find((run) => run.id === id);
export const active = (run: Run): boolean => ["sending", "queued", "running"].includes(run.state);

// --- start

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
}

async function learnModel(): Promise<void> {
  try {
    update({ model: await api.loadedModel() });
  } catch (error) {
    if (error instanceof api.Refused && error.status === 401) update({ keyAsked: api.readKey() ? "refused" : "needed" });
  }
}

/** The first glance: an image and an instruction that works on the loaded model, one key press before an edit. */
export async function showSample(): Promise<void> {
  const blob = await api.fetchBlob("/playground/sample.jpg");
  const file = await keep(blob, "cat.jpg");
  localStorage.setItem(SAMPLE, file.id);
  const prompt = state.draft.prompt || suggestionsFor(state.model, state.language).first;
  change({ inputs: [{ file: file.id }], prompt });
}

// --- the draft

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
  const problem = property ? complaint(property, value, w().complaints) : null;
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

export function addLink(link: string): void {
  addInputs([{ link }]);
}

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

export const shortName = (id: string): string => id.replace(/^fal-ai\//, "");

/** What is sent, but for the links of images kept in this browser: `links` has one for each input, in order. */
export function bodyOf(draft: Draft, endpoint: Endpoint, links: string[]): Record<string, unknown> {
  const images = endpoint.imageField === "image_urls" ? links : links[0];
  const values = Object.entries(draft.values).filter(([name]) => name in endpoint.properties);
  return { prompt: draft.prompt, [endpoint.imageField]: images, ...Object.fromEntries(values.map(numeric(endpoint))) };
}

/** Numbers are kept as typed; one that JavaScript cannot hold exactly is sent as text, which the server reads too. */
const numeric =
  (endpoint: Endpoint) =>
  ([name, value]: [string, unknown]): [string, unknown] => {
    const type = endpoint.properties[name]?.type;
    if ((type !== "integer" && type !== "number") || typeof value === "number") return [name, value];
    const number = Number(value);
    return [name, type === "number" || Number.isSafeInteger(number) ? number : String(value)];
  };

export const linksOf = (draft: Draft): Promise<string[]> =>
  Promise.all(draft.inputs.map((input) => ("link" in input ? input.link : linkOf(input.file))));

// --- the price

let pricing: ReturnType<typeof setTimeout> | undefined;
let priced = 0;

function scheduleEstimate(): void {
  clearTimeout(pricing);
  pricing = setTimeout(() => void estimate(), 350);
}

async function estimate(): Promise<void> {
  const endpoint = currentEndpoint();
  const { draft } = state;
  if (!endpoint || !draft.inputs.length || state.keyAsked || Object.keys(state.problems).length) return;
  const turn = ++priced;
  update({ estimating: true });
  try {
    const links = await linksOf(draft);
    const body = bodyOf(draft, endpoint, links);
    const property = endpoint.properties["image_size"];
    body["image_size"] ??= property?.default ?? (keepsSize(property) ? await sizeOfLast(draft) : undefined);
    const found = await api.estimate(endpoint, body);
    if (turn === priced) update({ estimate: found, estimating: false });
  } catch (error) {
    if (turn === priced) update({ estimate: null, estimating: false });
    if (error instanceof api.Refused && error.status === 401) update({ keyAsked: api.readKey() ? "refused" : "needed" });
  }
}

async function sizeOfLast(draft: Draft): Promise<unknown> {
  const last = draft.inputs.at(-1);
  const file = last && "file" in last ? await store.readFile(last.file) : undefined;
  return file && { width: file.width, height: file.height };
}

// --- runs

let waitingForKey = false;

/** Send what is entered. Everything stays in the form, whatever comes of it. */
export async function edit(): Promise<void> {
  const endpoint = currentEndpoint();
  if (!endpoint) return;
  const draft = structuredClone(state.draft);
  const problems: Record<string, string> = {};
  if (!draft.prompt.trim()) problems["prompt"] = w().noPrompt;
  if (!draft.inputs.length) problems[endpoint.imageField] = w().noImage;
  if (draft.inputs.length > endpoint.maxImages) problems[endpoint.imageField] = w().atMost(endpoint.maxImages);
  for (const [name, value] of Object.entries(draft.values)) {
    const property = endpoint.properties[name];
    const problem = property && complaint(property, value, w().complaints);
    if (problem) problems[name] = problem;
  }
  update({ problems });
  if (Object.keys(problems).length) return;
  const run: Run = {
    id: uniqueId(),
    createdAt: Date.now(),
    draft,
    body: "",
    requestId: null,
    state: "sending",
    cancelling: false,
    step: 0,
    steps: 0,
    position: null,
    stepTimes: [],
    results: [],
    seed: null,
    seconds: null,
    notices: [],
    rewritten: null,
    flagged: [],
    problems: [],
    change: null,
  };
  update({ runs: [run, ...state.runs], selected: run.id, answer: 0, compared: null, comparing: null });
  await store.writeRun(run);
  await carryOn(run);
}

function alter(id: string, patch: Partial<Run>): void {
  const runs = state.runs.map((run) => (run.id === id ? { ...run, ...patch } : run));
  update({ runs });
  const run = runNamed(id);
  if (run) void store.writeRun(run);
}

const watched = new Set<string>();
const wakes = new Map<string, () => void>();

/** Send a run that was not sent yet, and follow it to its end; also after a reload. */
async function carryOn({ id }: Run): Promise<void> {
  if (watched.has(id)) return;
  watched.add(id);
  let pause = 1000;
  try {
    for (;;) {
      const run = runNamed(id);
      if (!run || !active(run)) return;
      try {
        if (run.requestId === null) await send(run);
        else await look(run);
        if (state.lostSince !== null) update({ lostSince: null });
        pause = 1000;
      } catch (error) {
        if (!(error instanceof api.Refused)) throw error;
        if (error.lost || error.status === 503) {
          update({ lostSince: state.lostSince ?? Date.now() });
          await sleep(pause, id);
          pause = Math.min(pause * 1.6, 8000);
          continue;
        }
        if (error.status === 401 && run.requestId !== null) {
          // The edit goes on without this page; a good key finds it again.
          update({ keyAsked: api.readKey() ? "refused" : "needed" });
          return;
        }
        await refuse(run, error);
        return;
      }
      if (runNamed(id)?.requestId) await sleep(state.selected === id ? 350 : 1500, id);
    }
  } finally {
    watched.delete(id);
  }
}

function sleep(milliseconds: number, id: string): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    wakes.set(id, () => (clearTimeout(timer), resolve()));
  });
}

async function send(run: Run): Promise<void> {
  const endpoint = endpointNamed(run.draft.endpoint);
  if (!endpoint) throw new api.Refused(404, [{ field: [], text: w().noEndpoint(run.draft.endpoint), type: "" }]);
  let { body } = run;
  if (!body) {
    const fields = bodyOf(run.draft, endpoint, await linksOf(run.draft));
    if (run.draft.mask && endpoint.maskField) fields[endpoint.maskField] = await maskLink(run.draft);
    body = JSON.stringify(fields);
    alter(run.id, { body });
  }
  if (!runNamed(run.id)) return;
  const submitted = await api.submit(run.draft.endpoint, body, run.id);
  alter(run.id, { requestId: submitted.request_id, state: "queued", position: submitted.queue_position ?? null });
  if (runNamed(run.id)?.cancelling) await api.cancel(run.draft.endpoint, submitted.request_id);
}

/** The mask of a draft, stored on the server as a file. */
export async function maskLink(draft: Draft): Promise<string> {
  const first = draft.inputs[0];
  const file = first && "file" in first ? await store.readFile(first.file) : undefined;
  if (!file || !draft.mask) throw new Unreadable("mask");
  const blob = await maskFile(draft.mask.strokes, draft.mask.inverted, file.width, file.height);
  return api.upload(blob, "mask.png");
}

/** One look at a run that the server has. */
async function look(run: Run): Promise<void> {
  const { requestId } = run;
  if (requestId === null) return;
  const status = await api.status(run.draft.endpoint, requestId);
  if (status.status !== "COMPLETED") {
    const running = status.status === "IN_PROGRESS";
    alter(run.id, { state: running ? "running" : "queued", position: status.queue_position ?? null });
    for (const line of status.logs ?? []) {
      const step = /^Step (\d+) of (\d+)$/.exec(line.message);
      if (step) noteStep(run.id, Number(step[1]), Number(step[2]), Date.parse(line.timestamp));
    }
    // Before its first step the stream of a run has no answer yet, and a cancel would make it an error.
    const now = runNamed(run.id);
    if (state.selected === run.id && now?.step && !now.cancelling) void followRun(run);
    return;
  }
  if (status.error_type === "client_cancelled") {
    const text = run.cancelling ? w().cancelled : w().cancelledElsewhere;
    alter(run.id, { state: "cancelled", problems: [{ field: [], text, type: "client_cancelled" }] });
  } else {
    await finish(run, await api.result(run.draft.endpoint, requestId), status.metrics.inference_time ?? null);
  }
  dropPreview(run.id);
}

function noteStep(id: string, step: number, steps: number, at: number): void {
  const run = runNamed(id);
  if (!run || step <= run.step || !active(run)) return;
  alter(id, { state: "running", position: null, step, steps, stepTimes: [...run.stepTimes, at] });
}

let following: string | null = null;
/** Runs whose stream was refused; it would be refused again at every look. */
const unfollowed = new Set<string>();

/** Previews of the run that is looked at. One stream at a time: a browser opens few connections to one server. */
async function followRun(run: Run): Promise<void> {
  if (following !== null || unfollowed.has(run.id) || !run.body) return;
  following = run.id;
  const stop = new AbortController();
  try {
    for await (const news of api.follow(run.draft.endpoint, run.body, run.id, stop.signal)) {
      if (news.step && news.steps) noteStep(run.id, news.step, news.steps, Date.now());
      if (news.preview) await showPreview(run.id, news.preview);
      const now = runNamed(run.id);
      if (!now || !active(now) || state.selected !== run.id) break;
    }
  } catch (error) {
    // Previews are an extra; the run itself is followed by its status, which reports what went wrong.
    if (!(error instanceof api.Refused) && !(error instanceof TypeError)) throw error;
    if (error instanceof api.Refused && !error.lost) unfollowed.add(run.id);
  } finally {
    stop.abort();
    following = null;
    wakes.get(run.id)?.();
  }
}

async function showPreview(id: string, url: string): Promise<void> {
  const blob = await api.fetchBlob(url);
  const run = runNamed(id);
  if (!run || !active(run)) return;
  const before = state.previews[id];
  update({ previews: { ...state.previews, [id]: URL.createObjectURL(blob) } });
  if (before) setTimeout(() => URL.revokeObjectURL(before), 1000);
}

function dropPreview(id: string): void {
  const { [id]: gone, ...previews } = state.previews;
  if (gone) setTimeout(() => URL.revokeObjectURL(gone), 1000);
  update({ previews });
}

async function finish(run: Run, output: api.Output, seconds: number | null): Promise<void> {
  const first = run.draft.inputs[0];
  const original = first && "file" in first ? await store.readFile(first.file) : undefined;
  const { mask } = run.draft;
  const results: string[] = [];
  const inPage = mask && original && !endpointNamed(run.draft.endpoint)?.maskField;
  for (const image of output.images) {
    let blob = await api.fetchBlob(image.url);
    if (inPage) blob = await keepOutside(original.blob, blob, mask);
    results.push((await keep(blob, `${run.id.slice(0, 8)}.${blob.type.split("/")[1] ?? "png"}`)).id);
  }
  const answer = results[0] ? await store.readFile(results[0]) : undefined;
  const notices = inPage
    ? [...output.notices, { parameter: "mask", action: "converted", detail: w().maskInPage }]
    : output.notices;
  alter(run.id, {
    state: "done",
    results,
    notices,
    seed: output.seed,
    rewritten: output.prompt && output.prompt !== run.draft.prompt ? output.prompt : null,
    flagged: output.has_nsfw_concepts ?? [],
    seconds: output.timings["inference"] ?? seconds,
    change: original && answer ? await difference(original.blob, answer.blob) : null,
  });
}

/** The server refused: the sentences go where their fields are. */
async function refuse(run: Run, error: api.Refused): Promise<void> {
  dropPreview(run.id);
  const stale = error.problems.some(({ type }) => type === "file_download_error");
  if (stale) {
    for (const input of run.draft.inputs) if ("file" in input) await forgetLink(input.file);
  }
  if (error.status === 401 || error.status === 403) {
    waitingForKey = run.requestId === null;
    update({ keyAsked: api.readKey() ? "refused" : "needed" });
  }
  const problems: Record<string, string> = {};
  for (const { field, text } of error.problems) {
    const name = String(field[0] ?? "");
    const place = typeof field[1] === "number" && field.length > 1 ? w().ofImage(field[1] + 1, text) : text;
    problems[name] = problems[name] ? `${problems[name]} ${place}` : place;
  }
  if (state.selected === run.id) update({ problems });
  if (run.requestId === null) {
    // It never became an edit; the form has it all.
    await store.deleteRun(run.id);
    const runs = state.runs.filter((other) => other.id !== run.id);
    update({ runs, selected: runs[0]?.id ?? null });
  } else {
    alter(run.id, { state: "failed", problems: error.problems });
  }
}

export async function cancel(): Promise<void> {
  const run = runNamed(state.selected);
  if (!run || !active(run)) return;
  alter(run.id, { cancelling: true });
  if (!run.requestId) return;
  try {
    await api.cancel(run.draft.endpoint, run.requestId);
  } catch (error) {
    // 400: it ended meanwhile, which the next look at it tells.
    if (!(error instanceof api.Refused)) throw error;
  }
  wakes.get(run.id)?.();
}

export async function saveKey(key: string): Promise<void> {
  api.writeKey(key.trim());
  update({ keyAsked: null, problems: {} });
  await learnModel();
  if (state.keyAsked) return;
  scheduleEstimate();
  for (const run of state.runs) if (active(run)) void carryOn(run);
  if (waitingForKey) {
    waitingForKey = false;
    await edit();
  }
}

// --- history

export function select(id: string, answer = 0): void {
  if (state.comparing && state.comparing !== id && runNamed(id)?.results.length) {
    update({ compared: [state.comparing, id], comparing: null, selected: id, answer: 0 });
    return;
  }
  update({ selected: id, answer, compared: null, comparing: null });
}

export function compare(id: string): void {
  if (state.comparing === null) update({ comparing: id, compared: null });
  else if (state.comparing === id) update({ comparing: null });
  else select(id);
}

export async function useAsInput(run: Run): Promise<void> {
  const id = run.results[run.id === state.selected ? state.answer : 0] ?? run.results[0];
  if (!id) return;
  const endpoint = currentEndpoint();
  const rest = endpoint && endpoint.maxImages > 1 ? state.draft.inputs.slice(1) : [];
  change({ inputs: [{ file: id }, ...rest], mask: null });
  update({ imageNote: null, selected: null, compared: null, announcement: w().nowInput });
}

export async function sameAgain(run: Run): Promise<void> {
  update({ problems: {}, imageNote: null, seedLocked: run.draft.values["seed"] !== undefined });
  change(structuredClone(run.draft));
  await edit();
}

export async function remove(id: string): Promise<void> {
  const run = runNamed(id);
  if (run && active(run) && run.requestId) {
    await api.cancel(run.draft.endpoint, run.requestId).catch((error: unknown) => {
      if (!(error instanceof api.Refused)) throw error;
    });
  }
  await store.deleteRun(id);
  const runs = state.runs.filter((other) => other.id !== id);
  const selected = state.selected === id ? (runs[0]?.id ?? null) : state.selected;
  update({ runs, selected, answer: 0, compared: null, comparing: null, announcement: w().deleted });
  await store.collectGarbage(runs, state.draft);
}

// --- a run as a file

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

export type { Draft, Input, Run, StoredFile };
