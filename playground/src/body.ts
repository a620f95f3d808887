// The request as it is sent: the draft as the body of a call, with links in place of this browser's images.

import * as api from "./api";
import { linkOf, Unreadable } from "./images";
import { maskFile } from "./mask";
import type { Endpoint, Property } from "./schema";
import * as store from "./store";
import type { Draft } from "./store";

/** What is sent, but for the links of images kept in this browser: `links` has one for each input, in order. */
export function bodyOf(draft: Draft, endpoint: Endpoint, links: string[]): Record<string, unknown> {
  const images = endpoint.imageField === "image_urls" ? links : links[0];
  const values = Object.entries(draft.values).filter(([name]) => name in endpoint.properties);
  const sent = values.map(([name, value]): [string, unknown] => [name, sendable(endpoint.properties[name], value)]);
  return { prompt: draft.prompt, [endpoint.imageField]: images, ...Object.fromEntries(sent) };
}

/** A value as it is sent. Numbers are kept as typed; one that JavaScript cannot hold exactly is sent as text, which the
 *  server reads too. */
function sendable(property: Property | undefined, value: unknown): unknown {
  if (property?.type === "array" && Array.isArray(value)) {
    return value.map((entry: unknown) =>
      typeof entry !== "object" || entry === null
        ? entry
        : Object.fromEntries(Object.entries(entry).map(([name, each]) => [name, sendable(property.items?.properties?.[name], each)])),
    );
  }
  const type = property?.type;
  if ((type !== "integer" && type !== "number") || typeof value === "number" || value === undefined) return value;
  const number = Number(value);
  return type === "number" || Number.isSafeInteger(number) ? number : String(value);
}

export const linksOf = (draft: Draft): Promise<string[]> =>
  Promise.all(draft.inputs.map((input) => ("link" in input ? input.link : linkOf(input.file))));

/** The mask of a draft, stored on the server as a file. */
export async function maskLink(draft: Draft): Promise<string> {
  const first = draft.inputs[0];
  const file = first && "file" in first ? await store.readFile(first.file) : undefined;
  if (!file || !draft.mask) throw new Unreadable("mask");
  const blob = await maskFile(draft.mask.strokes, draft.mask.inverted, file.width, file.height);
  return api.upload(blob, "mask.png");
}
