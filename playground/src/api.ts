// Every call this page makes: the public fal routes, and `/v1` for the list of models and the price without a run.
// It keeps no state but the key, and decides nothing.

import { appOf, endpointsOf, type Endpoint } from "./schema";

const KEY = "retouch.key";

export interface Notice {
  parameter: string;
  action: string;
  detail: string;
}

export interface Problem {
  /** Path to the field within the body, e.g. ["image_urls", 1]; empty when no field is to blame. */
  field: (string | number)[];
  text: string;
  type: string;
}

/** An answer that says no, as sentences. status 0: there was no answer at all. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly problems: Problem[],
    readonly retryAfterS: number | null = null,
  ) {
    super(problems.map((problem) => problem.text).join(" "));
  }

  get lost(): boolean {
    return this.status === 0;
  }
}

export const readKey = (): string => localStorage.getItem(KEY) ?? "";

export function writeKey(key: string): void {
  if (key) localStorage.setItem(KEY, key);
  else localStorage.removeItem(KEY);
}

async function call(path: string, init: RequestInit = {}, scheme = "Key"): Promise<Response> {
  const headers = new Headers(init.headers);
  const key = readKey();
  if (key) headers.set("authorization", `${scheme} ${key}`);
  let answer: Response;
  try {
    answer = await fetch(path, { ...init, headers, credentials: "omit" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Refused(0, [{ field: [], text: "", type: "lost" }]);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer: Response): Promise<Refused> {
  const text = await answer.text();
  const after = Number(answer.headers.get("retry-after"));
  return new Refused(answer.status, problemsIn(text, answer.statusText), after > 0 ? after : null);
}

export function problemsIn(text: string, otherwise: string): Problem[] {
  try {
    const body = JSON.parse(text) as {
      detail?: string | { loc: (string | number)[]; msg: string; type: string }[];
      error?: { message?: string; code?: string };
      error_type?: string;
      message?: string;
    };
    if (Array.isArray(body.detail)) {
      return body.detail.map(({ loc, msg, type }) => ({ field: loc.slice(1), text: sentence(msg), type }));
    }
    const message = body.detail ?? body.error?.message ?? body.message;
    if (message) return [{ field: [], text: sentence(message), type: body.error_type ?? body.error?.code ?? "" }];
  } catch {
    // A proxy's page instead of JSON; its status line is all there is to say.
  }
  return [{ field: [], text: sentence(otherwise || text.slice(0, 200)), type: "" }];
}

const sentence = (text: string): string => (/[.!?。！？]$/.test(text) ? text : `${text}.`);

const json = (body: unknown, headers: Record<string, string> = {}): RequestInit => ({
  method: "POST",
  headers: { "content-type": "application/json", ...headers },
  body: JSON.stringify(body),
});

export async function endpoints(): Promise<Endpoint[]> {
  return endpointsOf(await (await call("/fal/openapi.json")).json());
}

/** The checkpoint that answers, e.g. "demo"; it decides which suggestions make sense. */
export async function loadedModel(): Promise<string> {
  const { data } = (await (await call("/v1/models", {}, "Bearer")).json()) as { data: { executed_model: string }[] };
  return data[0]?.executed_model.replace(/^local\//, "") ?? "";
}

export interface Estimate {
  microUsd: number;
  canvas: string | null;
  output: string | null;
  steps: number | null;
}

/** What a body would cost and come to, by a dry run: nothing is run. */
export async function estimate(endpoint: Endpoint, body: Record<string, unknown>): Promise<Estimate> {
  const { num_images, enable_prompt_expansion: _, image_size, ...rest } = body;
  const size = typeof image_size === "object" && image_size ? image_size : { size: image_size };
  const request = { ...rest, ...size, n: num_images, model: endpoint.id, prompt: body["prompt"] || "price" };
  const answer = (await (await call("/v1/images/edits?dryRun=true", json(request), "Bearer")).json()) as {
    total_cost_micros: number;
    resolved: { canvas: string | null; output: string | null; steps: number | null };
  };
  return { microUsd: answer.total_cost_micros, ...answer.resolved };
}

/** Store a file on the server, whole; its link can be read without a key until it expires. */
export async function upload(blob: Blob, name: string): Promise<string> {
  const begun = await call(
    "/fal/rest/storage/upload/initiate",
    json({ content_type: blob.type || "application/octet-stream", file_name: name }),
  );
  const { upload_url, file_url } = (await begun.json()) as { upload_url: string; file_url: string };
  await call(ownPath(upload_url), { method: "PUT", body: blob, headers: { "content-type": blob.type } });
  return file_url;
}

/** The server may know itself by another name than the one this page was opened by; its files are at both. */
export function ownPath(url: string): string {
  const { pathname, search } = new URL(url, location.href);
  return /^\/(files|fal)\//.test(pathname) ? pathname + search : url;
}

/** Whether this page may read a link itself: data, or a file of this server. Any other is the server's to open. */
export function readable(link: string): boolean {
  if (link.startsWith("data:")) return true;
  try {
    const { origin, pathname, searchParams } = new URL(link, location.href);
    return origin === location.origin || (pathname.startsWith("/files/") && searchParams.has("signature"));
  } catch {
    return false;
  }
}

export interface Status {
  status: "IN_QUEUE" | "IN_PROGRESS" | "COMPLETED";
  request_id: string;
  queue_position?: number;
  logs: { message: string; level: string; timestamp: string }[] | null;
  metrics: { inference_time?: number; seconds_left?: number };
  error?: string;
  error_type?: string;
}

/** Queue an edit. The same idempotency key with the same body joins the edit that is there. */
export async function submit(endpoint: string, body: string, idempotencyKey: string): Promise<Status> {
  const headers = { "content-type": "application/json", "idempotency-key": idempotencyKey };
  return (await call(`/fal/queue/${endpoint}`, { method: "POST", body, headers })).json();
}

const requestPath = (endpoint: string, id: string): string => `/fal/queue/${appOf(endpoint)}/requests/${id}`;

export async function status(endpoint: string, id: string): Promise<Status> {
  return (await call(`${requestPath(endpoint, id)}/status?logs=1`)).json();
}

export async function cancel(endpoint: string, id: string): Promise<void> {
  await call(`${requestPath(endpoint, id)}/cancel`, { method: "PUT" });
}

export interface Output {
  images: { url: string; content_type?: string; width?: number; height?: number }[];
  seed: string;
  timings: Record<string, number>;
  prompt?: string;
  has_nsfw_concepts?: boolean[];
  notices: Notice[];
}

export async function result(endpoint: string, id: string): Promise<Output> {
  const answer = await call(requestPath(endpoint, id));
  return outputOf(await answer.text(), answer.headers.get("x-retouch-notices"));
}

/** Notices stand in the body or, on older servers, in a header. */
function outputOf(text: string, header: string | null): Output {
  const body = JSON.parse(text) as Omit<Output, "seed"> & { seed: number };
  // A seed may be larger than a JavaScript number holds exactly, so its digits are taken from the text.
  const seed = /"seed":\s*(\d+)/.exec(text)?.[1] ?? String(body.seed);
  return { ...body, seed, timings: body.timings ?? {}, notices: body.notices ?? JSON.parse(header ?? "[]") };
}

/** A request of this key as the server lists it; null for what it has not come to yet, or has no more. */
export interface Listed {
  request_id: string;
  endpoint_id: string;
  sent_at: string;
  started_at: string | null;
  ended_at: string | null;
  status_code: number | null;
  duration: number | null;
  json_input: Record<string, unknown> | null;
  json_output: Record<string, unknown> | null;
}

export interface ListedPage {
  items: Listed[];
  next_cursor: string | null;
}

/** As far back as the list goes; how long the server keeps requests is its own matter. */
const LISTED_MS = 90 * 86_400_000;

/** The requests of this key, those that have not ended first, then the latest. */
export async function requests(endpoints: string[], cursor: string | null): Promise<ListedPage> {
  const query = new URLSearchParams({
    endpoint_id: endpoints.join(","),
    start: new Date(Date.now() - LISTED_MS).toISOString(),
    expand: "payloads",
    limit: "48",
    ...(cursor === null ? {} : { cursor }),
  });
  const text = await (await call(`/fal/api/v1/models/requests/by-endpoint?${query}`)).text();
  // A seed may be larger than a JavaScript number holds exactly: its digits are kept as text.
  return JSON.parse(text.replace(/("seed":\s*)(\d{16,})/g, '$1"$2"')) as ListedPage;
}

/** Delete what a request was given and made; it must have ended. */
export async function deletePayloads(id: string): Promise<void> {
  await call(`/fal/api/v1/models/requests/${id}/payloads`, { method: "DELETE" });
}

export interface Partial {
  preview: string | null;
  step: number | null;
  steps: number | null;
}

/** Steps and previews of a queued edit, from its `/stream` route, which it joins by its idempotency key. */
export async function* follow(
  endpoint: string,
  body: string,
  idempotencyKey: string,
  signal: AbortSignal,
): AsyncGenerator<Partial> {
  const headers = { "content-type": "application/json", "idempotency-key": idempotencyKey };
  const answer = await call(`/fal/run/${endpoint}/stream`, { method: "POST", body, headers, signal });
  for await (const event of events(answer)) {
    const { partial, images, progress } = event as {
      partial?: boolean;
      images?: { url: string }[];
      progress?: { step?: number; steps?: number };
    };
    if (!partial) return;
    yield { preview: images?.[0]?.url ?? null, step: progress?.step ?? null, steps: progress?.steps ?? null };
  }
}

async function* events(answer: Response): AsyncGenerator<unknown> {
  if (!answer.body) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (waiting + value).split("\n\n");
    waiting = parts.pop() ?? "";
    for (const part of parts) {
      if (part.startsWith("data: ")) yield JSON.parse(part.slice("data: ".length));
    }
  }
}

export async function fetchBlob(url: string): Promise<Blob> {
  let answer: Response;
  try {
    answer = await fetch(ownPath(url), { credentials: "omit" });
  } catch {
    throw new Refused(0, [{ field: [], text: "", type: "lost" }]);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer.blob();
}

export async function metrics(): Promise<string> {
  return (await call("/metrics", {}, "Bearer")).text();
}
