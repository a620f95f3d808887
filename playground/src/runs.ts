// Runs on their way: sent, followed step by step, finished or refused.

import * as api from "./api";
import { bodyOf, linksOf, maskLink } from "./body";
import { deleteOnServer } from "./deletion";
import { difference, forgetLink, held, keep, uniqueId } from "./images";
import { keepOutside } from "./mask";
import { complaint } from "./schema";
import { active, askForKey, currentEndpoint, endpointNamed, runNamed, state, update, w } from "./state";
import * as store from "./store";
import type { Run } from "./store";

let waitingForKey = false;

/** An edit that was refused for want of a key, now that there is one. */
export async function sendWhatWaitedForTheKey(): Promise<void> {
  if (!waitingForKey) return;
  waitingForKey = false;
  await edit();
}

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
    left: null,
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

export function alter(id: string, patch: Partial<Run>): void {
  const runs = state.runs.map((run) => (run.id === id ? { ...run, ...patch } : run));
  update({ runs });
  const run = runNamed(id);
  if (run && !run.remote) void store.writeRun(run);
}

const watched = new Set<string>();
const wakes = new Map<string, () => void>();

/** Send a run that was not sent yet, and follow it to its end; also after a reload. */
export async function carryOn({ id }: Run): Promise<void> {
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
          askForKey();
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
  if (!runNamed(run.id)) {
    deleteOnServer({ endpoint: run.draft.endpoint, requestId: submitted.request_id, active: true });
    return;
  }
  // The list of the key may have had it while its answer was on the way.
  update({ runs: state.runs.filter((other) => !other.remote || other.requestId !== submitted.request_id) });
  alter(run.id, { requestId: submitted.request_id, state: "queued", position: submitted.queue_position ?? null });
  if (runNamed(run.id)?.cancelling) await api.cancel(run.draft.endpoint, submitted.request_id);
}

/** One look at a run that the server has. */
async function look(run: Run): Promise<void> {
  const { requestId } = run;
  if (requestId === null) return;
  const status = await api.status(run.draft.endpoint, requestId);
  if (status.status !== "COMPLETED") {
    const running = status.status === "IN_PROGRESS";
    const seconds = status.metrics.seconds_left;
    alter(run.id, {
      state: running ? "running" : "queued",
      position: status.queue_position ?? null,
      left: seconds === undefined ? null : { seconds, at: Date.now() },
    });
    for (const line of status.logs ?? []) {
      const step = /^Step (\d+) of (\d+)$/.exec(line.message);
      if (step) noteStep(run.id, Number(step[1]), Number(step[2]));
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

function noteStep(id: string, step: number, steps: number): void {
  const run = runNamed(id);
  if (!run || step <= run.step || !active(run)) return;
  alter(id, { state: "running", position: null, step, steps });
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
      if (news.step && news.steps) noteStep(run.id, news.step, news.steps);
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
  const inputs = await Promise.all(run.draft.inputs.map((input, n) => held(input, `image-${n + 1}`)));
  const first = inputs[0];
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
    remote: undefined,
    draft: { ...run.draft, inputs },
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
    askForKey(true);
  }
  const problems: Record<string, string> = {};
  for (const { field, text } of error.problems) {
    const name = String(field[0] ?? "");
    const ofEntry = /^image_urls?$/.test(name) ? w().ofImage : w().complaints.entry;
    const place = typeof field[1] === "number" ? ofEntry(field[1] + 1, text) : text;
    problems[name] = problems[name] ? `${problems[name]} ${place}` : place;
  }
  if (error.status === 429) problems[""] = `${w().queueFull} ${problems[""] ?? ""}`.trim();
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
