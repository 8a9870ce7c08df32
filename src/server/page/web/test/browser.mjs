// A real Chromium, a real server, and what the tests do with them again and again.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { chromium } from "playwright-core";

const { YI, CHROMIUM } = process.env;
if (!YI || !CHROMIUM) throw new Error("YI and CHROMIUM must say where the programs are: run scripts/test_page");

/** A `yi serve` process on a free port. */
export class Server {
  static async start(model, ...more) {
    const server = new Server();
    const args = ["serve", "-m", model, "--port", "0", "-t", "1", ...more];
    server.process = spawn(YI, args, { stdio: ["ignore", "ignore", "pipe"] });
    let text = "";
    await new Promise((resolve, reject) => {
      server.process.stderr.on("data", (data) => {
        text += data;
        if (text.includes("ready\n")) resolve();
      });
      server.process.on("exit", (code) => reject(new Error(`yi serve has ended with ${code}: ${text}`)));
    });
    server.url = /listening on (\S+)/.exec(text)[1];
    return server;
  }

  async stop() {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const ended = once(this.process, "exit");
    this.process.kill("SIGKILL");
    await ended;
  }
}

let browser = null;

export async function launch() {
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
  return browser;
}

/** A page in a fresh profile, which notes all that goes wrong in it. */
export async function visit(url, options = {}) {
  const context = await browser.newContext({ locale: "en-GB", viewport: { width: 1180, height: 800 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.problems = [];
  page.elsewhere = [];
  page.on("console", (message) => {
    // A refused request is the server's answer, and part of some tests.
    const isStatus = /^Failed to load resource: the server responded with a status/.test(message.text());
    if (["error", "warning"].includes(message.type()) && !isStatus) page.problems.push(message.text());
  });
  page.on("pageerror", (error) => page.problems.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !/^(data|blob):/.test(request.url())) page.elsewhere.push(request.url());
  });
  await page.goto(url);
  await page.locator("body.ready").waitFor();
  return page;
}

/** Reads a file of conversations into the page. */
export async function importInto(page, text) {
  await page.locator("#import-file").setInputFiles({ name: "c.json", mimeType: "application/json", buffer: Buffer.from(text) });
  await page.locator("#toast.shown").waitFor();
  await page.locator("#settings").evaluate((dialog) => dialog.close());
}

export async function ask(page, text) {
  await page.locator("#field").fill(text);
  await page.keyboard.press("Enter");
}

/** The last answer, when it is complete. */
export async function answered(page) {
  const last = page.locator(".message.assistant").last();
  await last.locator(".actions").waitFor();
  return last;
}
