// Builds the page into the Python package. The build records a hash of its sources (`sources.sha256`), which
// tests/playground compares with the sources, so that a forgotten build is noticed where Node is not installed.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig } from "vite";

const root = import.meta.dirname;
const outDir = join(root, "../src/retouch/server/playground");

function sourceHash() {
  const inside = readdirSync(join(root, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1));
  const hash = createHash("sha256");
  for (const name of [...inside, "index.html", "package-lock.json", "tsconfig.json", "vite.config.js"].sort()) {
    hash.update(`${name}\0`).update(readFileSync(join(root, name)));
  }
  return hash.digest("hex");
}

export default defineConfig({
  root,
  base: "/playground/",
  build: {
    outDir,
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    reportCompressedSize: true,
  },
  plugins: [
    { name: "source-hash", closeBundle: () => writeFileSync(join(outDir, "sources.sha256"), `${sourceHash()}\n`) },
  ],
});
