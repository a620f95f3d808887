// What the draft would cost, by a dry run a moment after it was changed.

import * as api from "./api";
import { bodyOf, linksOf } from "./body";
import { keepsSize } from "./schema";
import { askForKey, currentEndpoint, state, update } from "./state";
import * as store from "./store";
import type { Draft } from "./store";

let pricing: ReturnType<typeof setTimeout> | undefined;
let priced = 0;

export function scheduleEstimate(): void {
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
    if (error instanceof api.Refused && error.status === 401) askForKey();
  }
}

async function sizeOfLast(draft: Draft): Promise<unknown> {
  const last = draft.inputs.at(-1);
  const file = last && "file" in last ? await store.readFile(last.file) : undefined;
  return file && { width: file.width, height: file.height };
}
