// What OpenAI's JavaScript client does, one behaviour a function. Each is given {base, …} and returns what a person
// who uses the client would see.
import { createReadStream, writeFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI, { toFile } from "openai";

const EDIT = { model: "qwen-image-edit", prompt: "paint it", size: "128x128" };

const clientFor = ({ base, key }, more = {}) =>
  new OpenAI({ baseURL: base, apiKey: key ?? "any", maxRetries: 0, ...more });

// A client, and which retry each of its requests was.
const countingClientFor = (where, maxRetries) => {
  const counts = [];
  const counting = (address, options) => {
    // the client first asks its fetch for a data URI, to see what kind of fetch it is
    if (!String(address).startsWith("data:")) counts.push(new Headers(options.headers).get("x-stainless-retry-count"));
    return fetch(address, options);
  };
  return [clientFor(where, { maxRetries, fetch: counting }), counts];
};

const bytesOf = (png) => Buffer.from(png, "base64");

const fileOf = (png, name = "a.png") => new File([bytesOf(png)], name, { type: "image/png" });

const shown = (error) => ({
  kind: error.constructor.name,
  status: error.status,
  code: error.code,
  param: error.param,
  type: error.type,
  message: error.message,
  requestId: error.requestID,
});

const refusal = async (call) => {
  try {
    await call();
  } catch (error) {
    return shown(error);
  }
  throw new Error("it was not refused");
};

export async function everyWayToPassAFile({ image: png, folder, ...where }) {
  const client = clientFor(where);
  const path = join(folder, "a.png");
  writeFileSync(path, bytesOf(png));
  const ways = [
    createReadStream(path),
    fileOf(png),
    await toFile(bytesOf(png), "a.png"),
    await toFile(createReadStream(path), "a.png"),
    new Response(bytesOf(png), { headers: { "content-type": "image/png" } }),
    new File([bytesOf(png)], "no-extension"),
    `data:image/png;base64,${png}`,
  ];
  const answers = [];
  for (const image of ways) answers.push(await client.images.edit({ ...EDIT, image, response_format: "b64_json" }));
  return answers.map((answer) => answer.data.map((item) => item.b64_json));
}

export async function listsOfImages({ images: pngs, folder, ...where }) {
  const client = clientFor(where);
  const paths = pngs.map((png, index) => {
    const path = join(folder, `${index}.png`);
    writeFileSync(path, bytesOf(png));
    return path;
  });
  const lists = [
    [fileOf(pngs[0])],
    pngs.map((png) => fileOf(png)),
    [...pngs].reverse().map((png) => fileOf(png)),
    paths.map((path) => createReadStream(path)),
  ];
  const answers = [];
  for (const image of lists) answers.push(await client.images.edit({ ...EDIT, image, response_format: "b64_json" }));
  return answers.map((answer) => answer.data[0].b64_json);
}

export async function rawBuffer({ image: png, ...where }) {
  return refusal(() => clientFor(where).images.edit({ ...EDIT, image: bytesOf(png) }));
}

export async function refusals({ image: png, ...where }) {
  const client = clientFor(where);
  const image = fileOf(png);
  const edit = (parameters) => refusal(() => client.images.edit({ ...EDIT, image, ...parameters }));
  return {
    noPrompt: await edit({ prompt: "" }),
    noImage: await edit({ image: new File(["just text"], "a.png", { type: "image/png" }) }),
    model: await edit({ model: "qwen-image-edti" }),
    number: await edit({ n: 11 }),
    size: await edit({ size: "1024x" }),
    stream: await edit({ stream: true, partial_images: 4 }),
    generate: await refusal(() => client.images.generate({ prompt: "a cat", model: EDIT.model })),
    route: await refusal(() => client.post("/images/nothing", { body: {} })),
    method: await refusal(() => client.get("/images/edits")),
    variation: await refusal(() => client.images.createVariation({ image })),
  };
}

export async function tooLarge({ image: png, ...where }) {
  const padded = new File([bytesOf(png), Buffer.alloc(70 * 1024 * 1024)], "a.png", { type: "image/png" });
  return refusal(() => clientFor(where).images.edit({ ...EDIT, image: padded }));
}

export async function extensions({ image: png, ...where }) {
  const client = clientFor(where);
  const image = fileOf(png);
  const more = { seed: 42, true_cfg_scale: 4, num_inference_steps: 3, nested: { a: { b: 1 } }, tags: ["a"] };
  const answer = await client.images.edit({ ...EDIT, image, ...more, response_format: "b64_json" });
  const { data: three } = await client.images.edit({ ...EDIT, image, n: 3, seed: 7 });
  const dry = await client.images.edit({ ...EDIT, image, prompt: "one\ntwo" }, { query: { dryRun: "true" } });
  return { answer, seeds: three.map((item) => item.seed), dry, requestId: answer._request_id };
}

export async function links({ image: png, ...where }) {
  const { data } = await clientFor(where).images.edit({ ...EDIT, image: fileOf(png), response_format: "url" });
  const answer = await fetch(data[0].url);
  const begin = Buffer.from(await answer.arrayBuffer()).subarray(1, 4);
  return { url: data[0].url, type: answer.headers.get("content-type"), begin: begin.toString() };
}

export async function streams({ image: png, ...where }) {
  const client = clientFor(where);
  const image = fileOf(png);
  const events = [];
  const collect = async (parameters) => {
    for await (const event of await client.images.edit({ ...EDIT, ...parameters, stream: true })) events.push(event);
  };
  await collect({ image, n: 2, seed: 5 });
  const cut = new File([bytesOf(png).subarray(0, 100)], "b.png", { type: "image/png" });
  const failure = await refusal(() => collect({ image: [image, cut] }));
  return { events, failure };
}

export async function leavesAfterTheFirstPartial({ image: png, ...where }) {
  const parameters = { ...EDIT, image: fileOf(png), stream: true, partial_images: 1, steps: 20 };
  for await (const event of await clientFor(where).images.edit(parameters)) return event.type;
}

export async function models(where) {
  const ids = [];
  for await (const model of clientFor(where).models.list()) ids.push(model.id);
  const one = await clientFor(where).models.retrieve("Qwen/Qwen-Image-Edit-2511");
  const slash = clientFor({ ...where, base: `${where.base}/` });
  const other = clientFor({ ...where, base: where.base.replace("/v1", "/openai/v1") });
  const pages = [await slash.models.list(), await other.models.list()];
  return { ids, one: one.id, counts: pages.map((page) => page.data.length) };
}

export async function wrongKey({ image: png, ...where }) {
  return refusal(() => clientFor({ ...where, key: "rt_wrong" }).images.edit({ ...EDIT, image: fileOf(png) }));
}

// Calls again while the queue is full: a file can be sent again, a stream that was read cannot.
export async function fullQueue({ image: png, folder, ...where }) {
  const path = join(folder, "a.png");
  writeFileSync(path, bytesOf(png));
  const [hasty, once] = countingClientFor(where, 2);
  const error = await refusal(() => hasty.images.edit({ ...EDIT, image: createReadStream(path) }));
  process.stdout.write("full\n");
  const [patient, counts] = countingClientFor(where, 5);
  const { data } = await patient.images.edit({ ...EDIT, image: fileOf(png), seed: 9 });
  return { error, once, counts, seed: data[0].seed };
}

export async function sentOnce({ image: png, ...where }) {
  const [client, counts] = countingClientFor(where, 3);
  const broken = new File([bytesOf(png).subarray(0, 100)], "a.png", { type: "image/png" });
  const error = await refusal(() => client.images.edit({ ...EDIT, image: broken }));
  return { error, counts };
}

export async function sameKeyTwice({ image: png, ...where }) {
  const client = clientFor(where);
  const headers = { "Idempotency-Key": "abc" };
  const same = { ...EDIT, image: fileOf(png), response_format: "b64_json" };
  const edit = (more = {}) => client.images.edit({ ...same, ...more }, { headers }).withResponse();
  const first = await edit();
  const second = await edit();
  return {
    same: first.data.data[0].b64_json === second.data.data[0].b64_json,
    replayed: second.response.headers.get("idempotent-replayed"),
    other: await refusal(() => edit({ prompt: "another" })),
  };
}
