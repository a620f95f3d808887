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

const bytesOf = (picture) => Buffer.from(picture, "base64");

const fileOf = (picture, name = "a.png") => new File([bytesOf(picture)], name, { type: "image/png" });

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

export async function everyWayToPassAFile({ picture, folder, ...where }) {
  const client = clientFor(where);
  const path = join(folder, "a.png");
  writeFileSync(path, bytesOf(picture));
  const ways = [
    createReadStream(path),
    fileOf(picture),
    await toFile(bytesOf(picture), "a.png"),
    await toFile(createReadStream(path), "a.png"),
    new Response(bytesOf(picture), { headers: { "content-type": "image/png" } }),
    new File([bytesOf(picture)], "no-extension"),
    `data:image/png;base64,${picture}`,
  ];
  const answers = [];
  for (const image of ways) answers.push(await client.images.edit({ ...EDIT, image, response_format: "b64_json" }));
  return answers.map((answer) => answer.data.map((item) => item.b64_json));
}

export async function listsOfPictures({ pictures, folder, ...where }) {
  const client = clientFor(where);
  const paths = pictures.map((picture, index) => {
    const path = join(folder, `${index}.png`);
    writeFileSync(path, bytesOf(picture));
    return path;
  });
  const lists = [
    [fileOf(pictures[0])],
    pictures.map((picture) => fileOf(picture)),
    [...pictures].reverse().map((picture) => fileOf(picture)),
    paths.map((path) => createReadStream(path)),
  ];
  const answers = [];
  for (const image of lists) answers.push(await client.images.edit({ ...EDIT, image, response_format: "b64_json" }));
  return answers.map((answer) => answer.data[0].b64_json);
}

export async function rawBuffer({ picture, ...where }) {
  return refusal(() => clientFor(where).images.edit({ ...EDIT, image: bytesOf(picture) }));
}

export async function refusals({ picture, ...where }) {
  const client = clientFor(where);
  const image = fileOf(picture);
  const edit = (parameters) => refusal(() => client.images.edit({ ...EDIT, image, ...parameters }));
  return {
    noPrompt: await edit({ prompt: "" }),
    noPicture: await edit({ image: new File(["just text"], "a.png", { type: "image/png" }) }),
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

export async function tooLarge({ picture, ...where }) {
  const padded = new File([bytesOf(picture), Buffer.alloc(70 * 1024 * 1024)], "a.png", { type: "image/png" });
  return refusal(() => clientFor(where).images.edit({ ...EDIT, image: padded }));
}

export async function extensions({ picture, ...where }) {
  const client = clientFor(where);
  const image = fileOf(picture);
  const more = { seed: 42, true_cfg_scale: 4, num_inference_steps: 3, nested: { a: { b: 1 } }, tags: ["a"] };
  const answer = await client.images.edit({ ...EDIT, image, ...more, response_format: "b64_json" });
  const { data: three } = await client.images.edit({ ...EDIT, image, n: 3, seed: 7 });
  const dry = await client.images.edit({ ...EDIT, image, prompt: "one\ntwo" }, { query: { dryRun: "true" } });
  return { answer, seeds: three.map((item) => item.seed), dry, requestId: answer._request_id };
}

export async function links({ picture, ...where }) {
  const { data } = await clientFor(where).images.edit({ ...EDIT, image: fileOf(picture), response_format: "url" });
  const answer = await fetch(data[0].url);
  const begin = Buffer.from(await answer.arrayBuffer()).subarray(1, 4);
  return { url: data[0].url, type: answer.headers.get("content-type"), begin: begin.toString() };
}

export async function streams({ picture, ...where }) {
  const client = clientFor(where);
  const image = fileOf(picture);
  const events = [];
  const collect = async (parameters) => {
    for await (const event of await client.images.edit({ ...EDIT, ...parameters, stream: true })) events.push(event);
  };
  await collect({ image, n: 2, seed: 5 });
  const cut = new File([bytesOf(picture).subarray(0, 100)], "b.png", { type: "image/png" });
  const failure = await refusal(() => collect({ image: [image, cut] }));
  return { events, failure };
}

export async function leavesAfterTheFirstPartial({ picture, ...where }) {
  const parameters = { ...EDIT, image: fileOf(picture), stream: true, partial_images: 1, steps: 20 };
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

export async function wrongKey({ picture, ...where }) {
  return refusal(() => clientFor({ ...where, key: "rt_wrong" }).images.edit({ ...EDIT, image: fileOf(picture) }));
}

// Calls again while the queue is full: a file can be sent again, a stream that was read cannot.
export async function fullQueue({ picture, folder, ...where }) {
  const path = join(folder, "a.png");
  writeFileSync(path, bytesOf(picture));
  const [hasty, once] = countingClientFor(where, 2);
  const error = await refusal(() => hasty.images.edit({ ...EDIT, image: createReadStream(path) }));
  process.stdout.write("full\n");
  const [patient, counts] = countingClientFor(where, 5);
  const { data } = await patient.images.edit({ ...EDIT, image: fileOf(picture), seed: 9 });
  return { error, once, counts, seed: data[0].seed };
}

export async function sentOnce({ picture, ...where }) {
  const [client, counts] = countingClientFor(where, 3);
  const broken = new File([bytesOf(picture).subarray(0, 100)], "a.png", { type: "image/png" });
  const error = await refusal(() => client.images.edit({ ...EDIT, image: broken }));
  return { error, counts };
}

export async function sameKeyTwice({ picture, ...where }) {
  const client = clientFor(where);
  const headers = { "Idempotency-Key": "abc" };
  const same = { ...EDIT, image: fileOf(picture), response_format: "b64_json" };
  const edit = (more = {}) => client.images.edit({ ...same, ...more }, { headers }).withResponse();
  const first = await edit();
  const second = await edit();
  return {
    same: first.data.data[0].b64_json === second.data.data[0].b64_json,
    replayed: second.response.headers.get("idempotent-replayed"),
    other: await refusal(() => edit({ prompt: "another" })),
  };
}
