// Edits a photo with RunPod's JavaScript client.
//
//     npm install runpod-sdk
//     RUNPOD_API_KEY=any node edit.mjs photo.jpg
//
// The client reads no variable but what the program hands it, so the address is its second argument.
import { readFileSync } from "node:fs";
import runpodSdk from "runpod-sdk";

const baseUrl = process.env.RUNPOD_ENDPOINT_BASE_URL ?? "http://127.0.0.1:8000/v2";
const endpoint = runpodSdk(process.env.RUNPOD_API_KEY, { baseUrl }).endpoint("qwen-image-edit");
const image = readFileSync(process.argv[2]).toString("base64");

const done = await endpoint.runSync({ input: { prompt: "make it grayscale", image } }, 600000);
if (!done.succeeded) throw new Error(done.error);
console.log(done.output.image_url, done.output.cost);

const { id } = await endpoint.run({ input: { prompt: "make it brighter", image, seed: 7 } });
for await (const chunk of endpoint.stream(id)) console.log(chunk.output.progress ?? "done");
console.log((await endpoint.status(id)).output.image_url);
