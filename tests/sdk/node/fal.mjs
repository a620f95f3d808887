// What fal's JavaScript clients do, one behaviour a function. Each is given {server, key, recipe, …} and returns
// what a person who uses the client would see.
import { createServer } from "node:http";
import { ApiError, createFalClient, ValidationError } from "@fal-ai/client";
import { createHandler } from "@fal-ai/server-proxy/express";
import WebSocket from "ws";

const EDIT = "fal-ai/qwen-image-edit";
const TWO = "fal-ai/qwen-image-2/edit";
const SERVICES = { "fal.run": "/fal/run", "queue.fal.run": "/fal/queue", "rest.fal.ai": "/fal/rest" };

const redirected = (server) => (address) => {
  const url = new URL(address);
  return url.host in SERVICES ? server + SERVICES[url.host] + url.pathname + url.search : address;
};

// Ways to point the client here; the last needs the vendor's names to lead to the server.
const RECIPES = {
  middleware: (server) => ({ requestMiddleware: async (r) => ({ ...r, url: redirected(server)(r.url) }) }),
  proxy: (server) => ({ proxyUrl: { url: `${server}/fal/proxy`, when: "always" } }),
  fetch: (server) => ({ fetch: (address, options) => fetch(redirected(server)(String(address)), options) }),
  names: () => ({}),
};

const clientFor = ({ server, key, recipe = "middleware" }) =>
  createFalClient({ credentials: key ?? "any", ...RECIPES[recipe](server) });

// A client, and the addresses it has called.
const countingClientFor = ({ server, key }) => {
  const sent = [];
  const counting = (address, options) => (sent.push(address), fetch(redirected(server)(String(address)), options));
  return [createFalClient({ credentials: key, fetch: counting }), sent];
};

const KINDS = new Map([[ValidationError, "ValidationError"], [ApiError, "ApiError"]]);

const shown = (error) => ({
  kind: KINDS.get(error.constructor) ?? error.name,
  message: error.message,
  status: error.status,
  body: error.body,
  requestId: error.requestId,
});

const refusal = async (call) => {
  try {
    await call();
  } catch (error) {
    return error;
  }
  throw new Error("it was not refused");
};

const bytesAt = async (url) => Buffer.from(await (await fetch(url)).arrayBuffer());

const blob = (png, type = "image/png") => new Blob([Buffer.from(png, "base64")], { type });

export async function everything({ image: png, ...where }) {
  const fal = clientFor(where);
  const input = { prompt: "make it snow", image_url: `data:image/png;base64,${png}`, seed: 7 };
  const updates = [];
  const onQueueUpdate = (update) => updates.push(update.status);

  const run = await fal.run(EDIT, { input });
  const polled = await fal.subscribe(EDIT, { input, logs: true, pollInterval: 50, onQueueUpdate });
  const streamed = await fal.subscribe(EDIT, { input, logs: true, mode: "streaming", onQueueUpdate });

  const submitted = await fal.queue.submit(TWO, { input: { prompt: "p", image_urls: [input.image_url], seed: 7 } });
  await fal.queue.subscribeToStatus(TWO, { requestId: submitted.request_id, pollInterval: 50 });
  const status = await fal.queue.status(TWO, { requestId: submitted.request_id, logs: true });
  const result = await fal.queue.result(TWO, { requestId: submitted.request_id });
  const late = await refusal(() => fal.queue.cancel(TWO, { requestId: submitted.request_id }));

  const stream = await fal.stream(EDIT, { input });
  const events = [];
  for await (const event of stream) events.push(event);
  const last = await stream.done();

  const uploaded = await fal.storage.upload(blob(png));
  const withBlob = await fal.run(EDIT, { input: { prompt: "p", image_url: blob(png), seed: 7 } });

  const answers = [run, polled, streamed, result, { data: last }, withBlob];
  return {
    seeds: answers.map((answer) => answer.data.seed),
    links: answers.map((answer) => answer.data.images[0].url),
    requestIds: [run, polled, streamed, result].map((answer) => answer.requestId),
    first: (await bytesAt(run.data.images[0].url)).subarray(1, 4).toString(),
    updates,
    status,
    submitted,
    late: shown(late),
    events: events.length,
    uploaded,
    uploadedIsTheSame: (await bytesAt(uploaded)).equals(Buffer.from(png, "base64")),
  };
}

export async function cancelWaiting(where) {
  const fal = clientFor(where);
  const { request_id: requestId } = await fal.queue.submit(EDIT, { input: where.input, priority: "low", hint: "h" });
  const waiting = await fal.queue.status(EDIT, { requestId });
  const early = await refusal(() => fal.queue.result(EDIT, { requestId }));
  await fal.queue.cancel(EDIT, { requestId });
  const status = await fal.queue.subscribeToStatus(EDIT, { requestId, pollInterval: 50 });
  const result = await refusal(() => fal.queue.result(EDIT, { requestId }));
  return { requestId, waiting, early: shown(early), status, result: shown(result) };
}

export async function timeouts(where) {
  const [fal, sent] = countingClientFor(where);
  const start = await refusal(() => fal.run(EDIT, { input: where.input, startTimeout: 1.1 }));
  const runs = sent.length;
  let requestId;
  const onEnqueue = (id) => (requestId = id);
  const waiting = () => fal.subscribe(EDIT, { input: where.input, timeout: 300, pollInterval: 50, onEnqueue });
  const client = await refusal(waiting);
  const cancelled = await fal.queue.subscribeToStatus(EDIT, { requestId, pollInterval: 50 });
  return { start: shown(start), user: start.isUserTimeout, runs, client: client.message, cancelled };
}

export async function hangUp(where) {
  const leave = new AbortController();
  setTimeout(() => leave.abort(), 1000);
  return (await refusal(() => clientFor(where).run(EDIT, { input: where.input, abortSignal: leave.signal }))).name;
}

export async function refusals({ image: png, ...where }) {
  const fal = clientFor(where);
  const image_url = `data:image/png;base64,${png}`;
  const invalid = await refusal(() => fal.run(EDIT, { input: { image_url, num_images: 99 } }));
  const image_urls = ["data:image/png;base64,AAAA"];
  const broken = await refusal(() => fal.subscribe(TWO, { input: { prompt: "p", image_urls } }));
  const unknown = await refusal(() => fal.run("fal-ai/no-such-model", { input: { prompt: "p" } }));
  const streaming = await fal.stream(EDIT, { input: { image_url } });
  const inStream = await refusal(() => streaming.done());
  const ofNoJob = await refusal(() => fal.queue.status(EDIT, { requestId: "none" }));
  return {
    invalid: shown(invalid),
    fields: ["prompt", "num_images", "seed"].map((field) => invalid.getFieldErrors(field).map((error) => error.type)),
    broken: shown(broken),
    unknown: shown(unknown),
    inStream: shown(inStream),
    ofNoJob: shown(ofNoJob),
  };
}

export async function wrongKeys({ other, ...where }) {
  const [stranger, sent] = countingClientFor({ ...where, key: "rt_wrong" });
  const error = await refusal(() => stranger.run(EDIT, { input: where.input }));
  const owner = clientFor(where);
  const { request_id: requestId } = await owner.queue.submit(EDIT, { input: where.input });
  const unseen = await refusal(() => clientFor({ ...where, key: other }).queue.status(EDIT, { requestId }));
  await owner.queue.cancel(EDIT, { requestId });
  return { error: shown(error), sent: sent.length, unseen: shown(unseen) };
}

export async function lifecycle({ image: png, ...where }) {
  const fal = clientFor(where);
  const lifecycle = { expiresIn: "1h", initialAcl: { default: "forbid" } };
  const url = await fal.storage.upload(blob(png), { lifecycle });
  const result = await fal.run(EDIT, { input: { prompt: "p", image_url: url }, storageSettings: { expiresIn: "1d" } });
  const ages = [];
  for (const link of [url, result.data.images[0].url])
    ages.push(Number(/max-age=(\d+)/.exec((await fetch(link)).headers.get("cache-control"))[1]));
  return ages;
}

export async function largeUpload(where) {
  const bytes = Buffer.alloc(91 * 1024 * 1024);
  for (let at = 0; at < bytes.length; at += 4096) bytes.writeUInt32LE(at, at);
  const url = await clientFor(where).storage.upload(new Blob([bytes], { type: "image/png" }));
  return { same: (await bytesAt(url)).equals(bytes), url };
}

const tokenProviderFor = ({ server, key }) => async (app) => {
  const headers = { authorization: `Key ${key ?? "any"}`, "content-type": "application/json" };
  const body = JSON.stringify({ allowed_apps: [app.split("/")[1]], token_expiration: 60 });
  return (await fetch(`${server}/fal/rest/tokens/`, { method: "POST", headers, body })).json();
};

export async function clientModeStream({ image: png, ...where }) {
  const fal = clientFor({ ...where, recipe: "fetch" });
  const input = { prompt: "p", image_url: `data:image/png;base64,${png}`, seed: 3 };
  const tokenProvider = tokenProviderFor(where);
  const own = await (await fal.stream(EDIT, { input, connectionMode: "client", tokenProvider })).done();
  const theirs = await (await fal.stream(EDIT, { input, connectionMode: "client" })).done();
  const forged = await fal.stream(EDIT, { input, connectionMode: "client", tokenProvider: async () => "forged" });
  return { seeds: [own.seed, theirs.seed], forged: shown(await refusal(() => forged.done())) };
}

// A browser's socket, whose host a page can change only by its constructor.
const socketTo = (server) =>
  class extends WebSocket {
    constructor(url, protocols) {
      super(url.replace("wss://fal.run/", `${server.replace("http", "ws")}/fal/run/`), protocols);
      this.binaryType = "arraybuffer";
    }
  };

export async function realtime({ image: png, ...where }) {
  globalThis.WebSocket = socketTo(where.server);
  const said = { results: [], errors: [] };
  const image_url = `data:image/png;base64,${png}`;
  const good = { prompt: "p", image_url, seed: 4, sync_mode: true };
  const inputs = [good, { prompt: "p" }, { ...good, seed: 5 }];
  await new Promise((resolve) => {
    const next = (list, item) => {
      list.push(item);
      if (inputs.length) connection.send(inputs.shift());
      else resolve();
    };
    const connection = clientFor(where).realtime.connect(EDIT, {
      throttleInterval: 0,
      tokenProvider: tokenProviderFor(where),
      onResult: (result) => next(said.results, { seed: result.seed, url: result.images[0].url.slice(0, 30) }),
      onError: (error) => next(said.errors, shown(error)),
    });
    connection.send(inputs.shift());
  });
  return said;
}

// Enough of an Express application for the vendor's adapter.
const behindTheirProxy = (key) => {
  process.env.FAL_KEY = key;
  const handle = createHandler({ allowUnauthorizedRequests: true, resolveFalAuth: async () => `Key ${key}` });
  return createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    request.body = parts.length ? JSON.parse(Buffer.concat(parts)) : undefined;
    response.status = (code) => ((response.statusCode = code), response);
    response.json = (body) => response.setHeader("content-type", "application/json").end(JSON.stringify(body));
    response.send = (body) => response.end(body);
    await handle(request, response, () => {});
  });
};

export async function theirProxy({ image: png, server, key }) {
  const plain = globalThis.fetch;
  const proxy = behindTheirProxy(key ?? "any");
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  globalThis.fetch = (address, options) => plain(redirected(server)(String(address)), options);
  const url = `http://127.0.0.1:${proxy.address().port}/api/fal/proxy`;
  const fal = createFalClient({ proxyUrl: { url, when: "always" } });
  const input = { prompt: "p", image_url: blob(png), seed: 5 };
  const run = await fal.run(EDIT, { input });
  const subscribed = await fal.subscribe(EDIT, { input, pollInterval: 50 });
  const streamed = await (await fal.stream(EDIT, { input })).done();
  return [run.data.seed, subscribed.data.seed, streamed.seed];
}
