// The request in the form as a program: curl, Python and JavaScript for each protocol of this server. Each runs as
// printed; keys come from the environment.

import { NAMED_SIZES, type Endpoint } from "./schema";

export type Protocol = "fal" | "OpenAI" | "RunPod";
export type CodeLanguage = "curl" | "Python" | "JavaScript";

export const PROTOCOLS: Protocol[] = ["fal", "OpenAI", "RunPod"];
export const LANGUAGES: CodeLanguage[] = ["curl", "Python", "JavaScript"];

interface Request {
  server: string;
  endpoint: Endpoint;
  body: Record<string, unknown>;
  links: string[];
  /** The answer's size where this endpoint has one by default that the other protocols do not; else null. */
  size: string | null;
  /** Where the mask can be read; only the OpenAI protocol takes one. */
  mask: string | null;
}

/** A body in Python's words: JSON but for three literals. Strings are left alone. */
const python = (value: unknown, indent = ""): string => {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map((entry) => python(entry, indent)).join(", ")}]`;
  if (typeof value === "object") {
    const inner = `${indent}    `;
    const lines = Object.entries(value).map(([name, entry]) => `${inner}${JSON.stringify(name)}: ${python(entry, inner)},`);
    return lines.length ? `{\n${lines.join("\n")}\n${indent}}` : "{}";
  }
  return JSON.stringify(value);
};

const shell = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
const pretty = (value: unknown): string => JSON.stringify(value, null, 2);

const keyLine = (comment: string, name: string): string =>
  `${comment} export ${name}=…   a key of this server; while it has none, any word will do\n`;

/** fal's parameters as the OpenAI protocol of this server takes them. */
function openai({ body, endpoint, size }: Request): Record<string, string | number | boolean> {
  const out: Record<string, string | number | boolean> = size && body["image_size"] === undefined ? { size } : {};
  for (const [name, value] of Object.entries(body)) {
    if (name === "prompt" || name === endpoint.imageField || value === undefined || value === null) continue;
    if (name === "num_images") out["n"] = value as number;
    else if (name === "enable_prompt_expansion") continue;
    else if (name === "image_size") {
      const wanted = value as string | { width: number; height: number };
      out["size"] = typeof wanted === "string" ? wanted : `${wanted.width}x${wanted.height}`;
    } else out[name] = value as string | number | boolean;
  }
  return out;
}

/** The model that the OpenAI protocol lists for an endpoint of fal's. */
const openaiModel = (endpoint: Endpoint): string =>
  endpoint.id.replace(/^fal-ai\//, "").replace(/\/edit$/, "");

/** What RunPod's qwen-image-edit takes; all other parameters have no name there. */
function runpod({ body, links, size }: Request): Record<string, unknown> {
  const input: Record<string, unknown> = { prompt: body["prompt"] };
  if (links.length === 1) input["image"] = links[0];
  else input["images"] = links;
  for (const name of ["negative_prompt", "seed", "output_format", "enable_safety_checker"]) {
    if (body[name] !== undefined) input[name] = body[name];
  }
  const imageSize = body["image_size"] as string | { width: number; height: number } | undefined;
  if (typeof imageSize === "object") input["size"] = `${imageSize.width}*${imageSize.height}`;
  else {
    const wanted = imageSize ?? size;
    if (wanted) input["size"] = (NAMED_SIZES[wanted] ?? wanted.split("x")).join("*");
  }
  return input;
}

const WRITERS: Record<Protocol, Record<CodeLanguage, (request: Request) => string>> = {
  fal: {
    curl: ({ server, endpoint, body }) =>
      `${keyLine("#", "FAL_KEY")}curl -s ${shell(`${server}/fal/run/${endpoint.id}`)} \\
  -H "Authorization: Key $FAL_KEY" \\
  -H "Content-Type: application/json" \\
  -d ${shell(pretty(body))}
`,
    Python: ({ server, endpoint, body }) =>
      `# pip install fal-client
${keyLine("#", "FAL_KEY")}from fal_client import client

client.RUN_URL_FORMAT, client.QUEUE_URL_FORMAT = "${server}/fal/run/", "${server}/fal/queue/"
client.REST_URL, client.CDN_URL = "${server}/fal/rest", "${server}/fal/cdn"

import fal_client

result = fal_client.subscribe(
    "${endpoint.id}",
    arguments=${python(body, "    ")},
)
for image in result["images"]:
    print(image["url"])
`,
    JavaScript: ({ server, endpoint, body }) =>
      `// npm install @fal-ai/client
${keyLine("//", "FAL_KEY")}import { createFalClient } from "@fal-ai/client";

const services = { "fal.run": "/fal/run", "queue.fal.run": "/fal/queue", "rest.fal.ai": "/fal/rest" };
const fal = createFalClient({
  credentials: process.env.FAL_KEY,
  requestMiddleware: async (request) => {
    const { host, pathname, search } = new URL(request.url);
    const service = services[host];
    return service ? { ...request, url: "${server}" + service + pathname + search } : request;
  },
});

const { data } = await fal.subscribe("${endpoint.id}", { input: ${pretty(body)} });
for (const image of data.images) console.log(image.url);
`,
  },
  OpenAI: {
    curl: (request) => {
      const fetched = request.links.map((link, n) => `curl -s -o image-${n + 1} ${shell(link)}`).join("\n");
      const files = request.links.map((_, n) => `  -F "image[]=@image-${n + 1}"`);
      const images = [...files, ...(request.mask ? ['  -F "mask=@mask.png"'] : [])].join(" \\\n");
      const mask = request.mask ? `\ncurl -s -o mask.png ${shell(request.mask)}` : "";
      const rest = Object.entries({ model: openaiModel(request.endpoint), prompt: request.body["prompt"], ...openai(request) });
      const fields = rest.map(([name, value]) => `  --form-string ${shell(`${name}=${String(value)}`)}`).join(" \\\n");
      return `${keyLine("#", "OPENAI_API_KEY")}${fetched}${mask}
curl -s ${shell(`${request.server}/v1/images/edits`)} \\
  -H "Authorization: Bearer $OPENAI_API_KEY" \\
${images} \\
${fields} \\
  -F response_format=url
`;
    },
    Python: (request) => {
      const { n, size, output_format, ...extra } = openai(request);
      const own = Object.entries({ n, size, output_format }).filter(([, value]) => value !== undefined);
      const lines = own.map(([name, value]) => `    ${name}=${python(value)},\n`).join("");
      const mask = request.mask ? `    mask=urllib.request.urlopen(${python(request.mask)}).read(),\n` : "";
      const more = Object.keys(extra).length ? `    extra_body=${python(extra, "    ")},\n` : "";
      return `# pip install openai
${keyLine("#", "OPENAI_API_KEY")}import os
import urllib.request

from openai import OpenAI

client = OpenAI(base_url="${request.server}/v1", api_key=os.environ["OPENAI_API_KEY"])
links = ${python(request.links)}
answer = client.images.edit(
    model="${openaiModel(request.endpoint)}",
    image=[(f"image-{n}", urllib.request.urlopen(link).read()) for n, link in enumerate(links, 1)],
    prompt=${python(request.body["prompt"])},
    response_format="url",
${mask}${lines}${more})
for image in answer.data:
    print(image.url)
`;
    },
    JavaScript: (request) => {
      const fields = { model: openaiModel(request.endpoint), prompt: request.body["prompt"], response_format: "url", ...openai(request) };
      const mask = request.mask ? `const mask = await toFile(await fetch(${JSON.stringify(request.mask)}), "mask.png");\n` : "";
      return `// npm install openai
${keyLine("//", "OPENAI_API_KEY")}import OpenAI, { toFile } from "openai";

const client = new OpenAI({ baseURL: "${request.server}/v1", apiKey: process.env.OPENAI_API_KEY });
const links = ${pretty(request.links)};
const image = await Promise.all(links.map(async (link, n) => toFile(await fetch(link), \`image-\${n + 1}\`)));
${mask}const answer = await client.images.edit({ image${mask && ", mask"}, ...${pretty(fields)} });
for (const { url } of answer.data) console.log(url);
`;
    },
  },
  RunPod: {
    curl: (request) =>
      `${keyLine("#", "RUNPOD_API_KEY")}curl -s ${shell(`${request.server}/v2/qwen-image-edit/runsync?wait=120000`)} \\
  -H "Authorization: Bearer $RUNPOD_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d ${shell(pretty({ input: runpod(request) }))}
`,
    Python: (request) =>
      `# pip install runpod
${keyLine("#", "RUNPOD_API_KEY")}import os

import runpod

runpod.endpoint_url_base = "${request.server}/v2"
endpoint = runpod.Endpoint("qwen-image-edit", api_key=os.environ["RUNPOD_API_KEY"])
output = endpoint.run_sync(${python(runpod(request))}, timeout=300)
print(output["image_url"])
`,
    JavaScript: (request) =>
      `// npm install runpod-sdk
${keyLine("//", "RUNPOD_API_KEY")}import runpodSdk from "runpod-sdk";

const runpod = runpodSdk(process.env.RUNPOD_API_KEY, { baseUrl: "${request.server}/v2" });
const job = await runpod.endpoint("qwen-image-edit").runSync({ input: ${pretty(runpod(request))} }, 300000);
console.log(job.output.image_url);
`,
  },
};

export function snippet(protocol: Protocol, language: CodeLanguage, request: Request): string {
  return WRITERS[protocol][language](request);
}
