// Runs one function of fal.mjs or openai.mjs and prints what it returns as JSON on the last line.
import { File } from "node:buffer";

globalThis.File ??= File; // Node 18 has it, though not by this name

const [module, name, given] = process.argv.slice(2);
const behaviours = await import(`./${module}.mjs`);
const said = await behaviours[name](JSON.parse(given));
process.stdout.write(`\n${JSON.stringify(said ?? null)}\n`);
process.exit(0); // without waiting for connections that are kept alive
