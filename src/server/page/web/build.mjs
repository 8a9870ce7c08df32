// Builds the page: one HTML file with its style, its script and the licences of what is in it; and beside it the
// SHA-256 of everything that it was made of, for the test that the two belong together.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build, transform } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
process.chdir(here);

async function bundle(entry) {
  const { outputFiles, metafile } = await build({
    entryPoints: [entry],
    bundle: true,
    minify: true,
    write: false,
    metafile: true,
    format: "esm",
    target: ["chrome123", "firefox125", "safari17.5"],
    charset: "utf8",
    legalComments: "none",
    logLevel: "warning",
  });
  const packages = Object.keys(metafile.inputs).map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]);
  return { text: outputFiles[0].text.trim(), packages: packages.filter(Boolean) };
}

function licence(name) {
  const folder = join("node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((entry) => /^(licen[cs]e|copying)/i.test(entry));
  if (!file) throw new Error(`${name} has no licence`);
  return `${name} ${version} (${license})\n\n${readFileSync(join(folder, file), "utf8").trim()}`;
}

const script = await bundle("src/main.ts");
const style = await bundle("style.css");
// "<!--" in a string would let a later "<script" hide the element's end.
script.text = script.text.replaceAll("<!--", "\\x3C!--");
await transform(script.text);
for (const [end, { text }] of [["</script", script], ["<!--", script], ["</style", style]])
  if (text.toLowerCase().includes(end)) throw new Error(`${end} would end the element`);

const licences = [...new Set(script.packages)].sort().map(licence).join("\n\n----\n\n");
// Two hyphens may not be in a comment.
const notice = `This page contains:\n\n${licences}`.replaceAll("\r", "").replaceAll(/-(?=-)/g, "- ").replaceAll(">", "&gt;");
const html = readFileSync("index.html", "utf8")
  .replace("/*STYLE*/", () => style.text)
  .replace("/*SCRIPT*/", () => script.text)
  .concat(`<!--\n${notice}\n-->\n`);
const dist = process.env.PAGE_DIST ?? "../dist";
mkdirSync(dist, { recursive: true });
writeFileSync(join(dist, "index.html"), html);

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const walk = (path) => readdirSync(path, { withFileTypes: true }).flatMap((entry) =>
  entry.isDirectory() ? walk(join(path, entry.name)) : [join(path, entry.name)]);
const sources = ["build.mjs", "index.html", "package-lock.json", "package.json", "style.css", "tsconfig.json", ...walk("src")].sort();
const hashes = { "dist/index.html": sha256(html) };
for (const path of sources) hashes[`web/${path.replaceAll("\\", "/")}`] = sha256(readFileSync(path));
writeFileSync(join(dist, "made-of.json"), `${JSON.stringify(hashes, null, 2)}\n`);
console.log(`dist/index.html: ${Buffer.byteLength(html)} bytes, of which script ${Buffer.byteLength(script.text)}, style ${Buffer.byteLength(style.text)}`);
