// Images as files of this browser: read, measured, made small, and sent to the server when it needs them.

import * as api from "./api";
import { readFile, writeFile, type Input, type StoredFile } from "./store";

const THUMBNAIL_SIDE = 384;

/** The server's own limit for one upload. */
export const MAX_BYTES = 128 * 1024 * 1024;

export class Unreadable extends Error {}
export class TooLarge extends Error {}

/** Keep an image; raises Unreadable for what this browser cannot show, TooLarge for what the server refuses. */
export async function keep(blob: Blob, name: string): Promise<StoredFile> {
  if (blob.size > MAX_BYTES) throw new TooLarge(name);
  const digest = await crypto.subtle?.digest("SHA-256", await blob.arrayBuffer());
  // Without https or localhost there is no subtle crypto; then the same image is kept twice.
  const id = digest ? [...new Uint8Array(digest)].map((b) => b.toString(16).padStart(2, "0")).join("") : uniqueId();
  const known = await readFile(id);
  if (known) return known;
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new Unreadable(name);
  }
  const { width, height } = bitmap;
  const file = { id, blob, name, width, height, thumbnail: await smaller(bitmap) };
  bitmap.close();
  await writeFile(file);
  return file;
}

export const uniqueId = (): string =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

async function smaller(bitmap: ImageBitmap): Promise<Blob> {
  const scale = Math.min(1, THUMBNAIL_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(
    Math.max(1, Math.round(bitmap.width * scale)),
    Math.max(1, Math.round(bitmap.height * scale)),
  );
  const context = canvas.getContext("2d") as OffscreenCanvasRenderingContext2D;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/webp", quality: 0.86 });
}

const uploads = new Map<string, Promise<string>>();

/** A link the server can read the image by; uploaded once, and again when the link is about to expire. */
export function linkOf(id: string): Promise<string> {
  const under = uploads.get(id);
  if (under) return under;
  const started = (async () => {
    const file = await readFile(id);
    if (!file) throw new Unreadable(id);
    if (file.link && (file.linkUntil ?? 0) > Date.now() + 600_000) return file.link;
    const link = await api.upload(file.blob, file.name);
    const expires = Number(new URL(link, location.href).searchParams.get("expires"));
    await writeFile({ ...file, link, linkUntil: expires ? expires * 1000 : Date.now() + 3_600_000 });
    return link;
  })();
  uploads.set(id, started);
  const forget = () => uploads.delete(id);
  started.then(forget, forget);
  return started;
}

/** The server does not know the link any more: the next use uploads the image again. */
export async function forgetLink(id: string): Promise<void> {
  const file = await readFile(id);
  if (file?.link) await writeFile({ ...file, link: undefined, linkUntil: undefined });
}

/** An input as an image of this browser, where the page may read it; a link that only the server opens stays one. */
export async function held(input: Input, name: string): Promise<Input> {
  if (!("link" in input) || !api.readable(input.link)) return input;
  try {
    return { file: (await keep(await api.fetchBlob(input.link), name)).id };
  } catch (error) {
    // It has expired, or is no image; the server says so where it is used.
    if (error instanceof Unreadable || (error instanceof api.Refused && !error.lost)) return input;
    throw error;
  }
}

const COMPARED_SIDE = 96;

/** Mean difference between two images, 0 to 255 per channel, looked at small, so that grain does not count. */
export async function difference(one: Blob, other: Blob): Promise<number> {
  const [first, second] = await Promise.all([one, other].map(pixels));
  if (!first || !second) return 255;
  let sum = 0;
  for (let i = 0; i < first.length; i++) if (i % 4 !== 3) sum += Math.abs((first[i] ?? 0) - (second[i] ?? 0));
  return sum / (first.length * 0.75);
}

async function pixels(blob: Blob): Promise<Uint8ClampedArray> {
  const bitmap = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(COMPARED_SIDE, COMPARED_SIDE);
  const context = canvas.getContext("2d") as OffscreenCanvasRenderingContext2D;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, COMPARED_SIDE, COMPARED_SIDE);
  bitmap.close();
  return context.getImageData(0, 0, COMPARED_SIDE, COMPARED_SIDE).data;
}

export const dataUri = (blob: Blob): Promise<string> =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
