// Deleting on the server. What is to be deleted is remembered until the server has confirmed it, over reloads and
// outages. A request that has not ended is cancelled first.

import * as api from "./api";
import { state, update } from "./state";

const KEPT = "retouch.deleting";
const PAUSE_MS = 1500;

interface Deletion {
  endpoint: string;
  requestId: string;
  /** It waits or runs, as far as this page knows: it is cancelled first. */
  active: boolean;
}

export const deletions = (): Deletion[] => JSON.parse(localStorage.getItem(KEPT) ?? "[]") as Deletion[];

const keep = (list: Deletion[]): void => localStorage.setItem(KEPT, JSON.stringify(list));

export function deleteOnServer(deletion: Deletion): void {
  keep([...deletions(), deletion]);
  void settleDeletions();
}

let settling = false;
let keyRefused = false;

/** Go through the list until it is empty; what cannot be done now is tried again after a pause, and with a new key. */
export async function settleDeletions(): Promise<void> {
  if (settling) return;
  settling = true;
  try {
    for (let list = deletions(); list.length && !state.keyAsked; list = deletions()) {
      let later = false;
      keyRefused = false;
      for (const each of list) {
        if (await settled(each)) keep(deletions().filter(({ requestId }) => requestId !== each.requestId));
        else later = true;
      }
      update({ deleting: deletions().length });
      if (keyRefused) return;
      if (later) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  } finally {
    settling = false;
  }
}

/** Whether there is nothing left to do: deleted now, or there is no such request of this key any more. */
async function settled({ endpoint, requestId, active }: Deletion): Promise<boolean> {
  try {
    if (active && !(await ended(endpoint, requestId))) return false;
    await api.deletePayloads(requestId);
    return true;
  } catch (error) {
    if (!(error instanceof api.Refused)) throw error;
    keyRefused ||= error.status === 401;
    return error.status === 404;
  }
}

/** Cancel a request; whether it has ended by now. A running one ends at its next step. */
async function ended(endpoint: string, requestId: string): Promise<boolean> {
  if ((await api.status(endpoint, requestId)).status === "COMPLETED") return true;
  await api.cancel(endpoint, requestId);
  return (await api.status(endpoint, requestId)).status === "COMPLETED";
}
