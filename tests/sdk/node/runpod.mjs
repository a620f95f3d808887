// What RunPod's JavaScript clients do, one behaviour a function. Each is given {base, key, …} and returns what a person
// who uses the client would see.
import { createRunpod } from "@runpod/ai-sdk-provider";
import { generateImage } from "ai";
import runpodSdk from "runpod-sdk";

const EDIT = "qwen-image-edit";

const endpointOf = ({ base, key }, id = EDIT) => runpodSdk(key ?? "any", { baseUrl: base }).endpoint(id);

const shown = ({ name, message, response }) => ({ name, message, status: response?.status });

const refusal = async (call) => {
  try {
    await call();
  } catch (error) {
    return shown(error);
  }
  throw new Error("it was not refused");
};

const chunksOf = async (endpoint, id) => {
  const chunks = [];
  for await (const chunk of endpoint.stream(id)) chunks.push(chunk);
  return chunks;
};

export async function everything({ input, ...where }) {
  const endpoint = endpointOf(where);
  const sync = await endpoint.runSync({ input, policy: { executionTimeout: 60000 } }, 60000);
  const failed = await endpoint.runSync({ input: { prompt: "no image" } });
  const submitted = await endpoint.run({ input });
  const ended = await endpoint.statusSync(submitted.id, 30000);
  return {
    sync,
    failed,
    submitted,
    ended,
    status: await endpoint.status(submitted.id),
    chunks: await chunksOf(endpoint, submitted.id),
    again: await chunksOf(endpoint, submitted.id),
    cancelled: await endpoint.cancel(submitted.id),
    health: await endpoint.health(),
    purged: await endpoint.purgeQueue(),
    unknown: await refusal(() => endpoint.status("nothing")),
    unauthorized: await refusal(() => endpointOf({ ...where, key: "wrong" }).run({ input })),
  };
}

export async function slowRunSync({ input, ...where }) {
  const began = Date.now();
  const job = await endpointOf(where).runSync({ input }, 60000);
  return { job, took_ms: Date.now() - began };
}

export async function followed({ input, ...where }) {
  const endpoint = endpointOf(where);
  const { id } = await endpoint.run({ input });
  return { chunks: await chunksOf(endpoint, id), status: await endpoint.status(id) };
}

export async function vercel({ images, model = `qwen/${EDIT}`, endpoint = EDIT, more, size, base, key }) {
  const asked = [];
  const counting = (address, init) => (asked.push([String(address), init?.headers?.Authorization]), fetch(address, init));
  const provider = createRunpod({ apiKey: key ?? "any", baseURL: `${base}/${endpoint}`, fetch: counting });
  const bytes = images.map((image) => (image.startsWith("http") ? image : Buffer.from(image, "base64")));
  const { image } = await generateImage({
    model: provider.image(model),
    prompt: { text: "make it snow", images: bytes },
    providerOptions: { runpod: more ?? {} },
    ...(size ? { size } : {}),
  });
  return { mediaType: image.mediaType, bytes: Buffer.from(image.uint8Array).toString("base64"), asked };
}

export async function vercelRefused({ base, key }) {
  const provider = createRunpod({ apiKey: key ?? "any", baseURL: `${base}/${EDIT}` });
  const prompt = { text: "make it snow", images: ["http://127.0.0.1:9/nothing.png"] };
  return refusal(() => generateImage({ model: provider.image(`qwen/${EDIT}`), prompt, maxRetries: 0 }));
}
