// Edits a photo with Vercel's `ai` and RunPod's provider for it.
//
//     npm install ai @runpod/ai-sdk-provider
//     RUNPOD_API_KEY=any node vercel.mjs photo.jpg edited.png
//
// `baseURL` stands for the whole address of a model, so it ends in the endpoint's id.
import { readFileSync, writeFileSync } from "node:fs";
import { createRunpod } from "@runpod/ai-sdk-provider";
import { generateImage } from "ai";

const base = process.env.RUNPOD_ENDPOINT_BASE_URL ?? "http://127.0.0.1:8000/v2";
const runpod = createRunpod({ apiKey: process.env.RUNPOD_API_KEY, baseURL: `${base}/qwen-image-edit` });

const { image } = await generateImage({
  model: runpod.image("qwen/qwen-image-edit"),
  prompt: { text: "make it grayscale", images: [readFileSync(process.argv[2])] },
  providerOptions: { runpod: { output_format: "png" } },
});
writeFileSync(process.argv[3], image.uint8Array);
console.log(process.argv[3], image.mediaType);
