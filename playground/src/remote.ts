// The runs of the key that this browser does not have: listed by the server, shown by its links, and brought here when
// they are looked at.

import * as api from "./api";
import { deletions } from "./deletion";
import { held, keep, Unreadable } from "./images";
import { alter, carryOn } from "./runs";
import { active, runNamed, state, update, w } from "./state";
import type { Input, Run } from "./store";

/** Ask the server for the newest runs of this key; older ones with `more`. */
export async function listRuns(more = false): Promise<void> {
  const endpoints = state.endpoints.map(({ id }) => id);
  // Without a key the server cannot tell this person from others, so there is nothing of one's own to list.
  if (!endpoints.length || state.keyAsked || !api.readKey()) return;
  let page: api.ListedPage;
  try {
    page = await api.requests(endpoints, more ? state.older : null);
  } catch (error) {
    // What this browser has is shown all the same; a lost server or key is told where it matters more.
    if (error instanceof api.Refused) return;
    throw error;
  }
  const gone = new Set(deletions().map(({ requestId }) => requestId));
  const kept = more ? state.runs : state.runs.filter((run) => !run.remote || run.id === state.selected);
  const known = new Set(kept.map((run) => run.requestId));
  const found = page.items.filter((item) => item.json_input && !known.has(item.request_id) && !gone.has(item.request_id));
  const runs = [...kept, ...found.map(runOf)].sort((one, other) => other.createdAt - one.createdAt);
  update({ runs, older: page.next_cursor });
  for (const run of runs) if (run.remote && active(run)) void carryOn(run);
}

/** Forget what the server has listed: it belongs to the key that was used. */
export function dropListed(): void {
  const runs = state.runs.filter((run) => !run.remote);
  update({ runs, older: null, selected: runNamed(state.selected)?.remote ? (runs[0]?.id ?? null) : state.selected });
}

function runOf(item: api.Listed): Run {
  const { prompt, image_url, image_urls, ...values } = item.json_input ?? {};
  const links = (image_urls ?? [image_url]) as string[];
  const output = item.json_output as unknown as api.Output | null;
  const done = item.status_code === 200;
  const running: Run["state"] = item.started_at === null ? "queued" : "running";
  const ended: Run["state"] = done ? "done" : item.status_code === 499 ? "cancelled" : "failed";
  const problems =
    ended === "cancelled"
      ? [{ field: [], text: w().cancelled, type: "client_cancelled" }]
      : api.problemsIn(JSON.stringify(item.json_output), w().failed);
  return {
    id: item.request_id,
    createdAt: Date.parse(item.sent_at),
    draft: {
      endpoint: item.endpoint_id,
      prompt: String(prompt ?? ""),
      inputs: links.filter(Boolean).map((link) => ({ link })),
      mask: null,
      values,
    },
    body: "",
    requestId: item.request_id,
    state: item.ended_at === null ? running : ended,
    cancelling: false,
    step: 0,
    steps: 0,
    position: null,
    left: null,
    results: [],
    seed: done && output ? String(output.seed) : null,
    seconds: (done && output?.timings?.["inference"]) || null,
    notices: (done && output?.notices) || [],
    rewritten: done && output?.prompt && output.prompt !== prompt ? output.prompt : null,
    flagged: (done && output?.has_nsfw_concepts) || [],
    problems: item.ended_at === null || done ? [] : problems,
    change: null,
    remote: done && output ? output.images.map((image) => image.url) : [],
  };
}

const bringing = new Map<string, Promise<Run | undefined>>();

/** The run with its images in this browser, where it stays; what was here already is returned as it is. */
export function brought(id: string): Promise<Run | undefined> {
  const run = runNamed(id);
  if (!run?.remote || active(run)) return Promise.resolve(run);
  const under = bringing.get(id) ?? bring(run).finally(() => bringing.delete(id));
  bringing.set(id, under);
  return under;
}

async function bring(run: Run): Promise<Run | undefined> {
  try {
    const inputs: Input[] = [];
    for (const [index, input] of run.draft.inputs.entries()) inputs.push(await held(input, `image-${index + 1}`));
    const results: string[] = [];
    for (const link of run.remote ?? []) {
      const blob = await api.fetchBlob(link);
      results.push((await keep(blob, `${run.id.slice(0, 8)}.${blob.type.split("/")[1] ?? "png"}`)).id);
    }
    alter(run.id, { remote: undefined, results, draft: { ...run.draft, inputs } });
  } catch (error) {
    if (!(error instanceof api.Refused) && !(error instanceof Unreadable)) throw error;
    alter(run.id, { problems: [{ field: [], text: w().gone, type: "gone" }] });
  }
  return runNamed(run.id);
}
