// What the page says when the server refuses, cannot be reached, or is not ready.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { answered, ask, launch, Server, visit } from "./browser.mjs";

const { YI, DEMO, SLOW } = process.env;
let browser, folder;

before(async () => {
  browser = await launch();
  folder = mkdtempSync(join(tmpdir(), "yi-page-"));
});

after(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true, force: true });
});

describe("a server with keys", () => {
  let server, key;

  before(async () => {
    const keys = join(folder, "keys.toml");
    key = execFileSync(YI, ["keys", "add", "--keys", keys, "someone"], { encoding: "utf8" }).trim().split(/\s+/).find((word) => word.startsWith("yi"));
    server = await Server.start(DEMO, "--keys", keys);
  });
  after(() => server?.stop());

  const store = (page, name) => page.evaluate((n) => window[n].getItem("yi.key"), name);

  async function enter(page, text) {
    await page.locator("#key").fill(text);
    await page.keyboard.press("Enter");
  }

  test("a missing key and a wrong one are told apart, and the right one works at once", async () => {
    const page = await visit(server.url);
    await page.getByRole("button", { name: "The server asks for an API key" }).waitFor();
    await ask(page, "What is the sum of 35 and 93?");
    const failure = page.getByRole("alert");
    assert.match(await failure.textContent(), /The server asks for an API key/);
    await failure.getByRole("button", { name: "Enter the key" }).click();
    assert.equal(await page.evaluate(() => document.activeElement.id), "key");

    await enter(page, `${key.slice(0, -4)}AAAA`);
    await page.locator("#key-status.bad").waitFor();
    assert.equal(await page.locator("#key-status").textContent(), "The server does not accept this key.");
    assert.equal(await page.locator("#key").getAttribute("aria-invalid"), "true");
    await page.locator("#close-settings").click();
    await page.locator(".failure").getByRole("button", { name: "Try again" }).click();
    await page.getByText("The server does not accept the API key").last().waitFor();

    await page.locator(".failure").getByRole("button", { name: "Enter the key" }).click();
    await enter(page, "密钥");
    assert.match(await page.locator("#key-status").textContent(), /only ASCII/);
    await enter(page, key);
    await page.getByText("The server accepts the key.").waitFor();
    await page.locator("#close-settings").click();
    await page.locator(".failure").getByRole("button", { name: "Try again" }).click();
    assert.match(await (await answered(page)).locator(".markdown").textContent(), /\d/);
    // The tries that failed have left nothing behind.
    assert.equal(await page.locator(".message").count(), 2);
    assert.equal(await page.locator(".versions").count(), 0);
    assert.deepEqual(page.problems, []);
    await page.context().close();
  });

  test("the key is forgotten with the tab, unless the browser is to remember it", async () => {
    const page = await visit(server.url);
    await page.locator("#open-settings").click();
    assert.equal(await page.locator("#key").getAttribute("type"), "password");
    await enter(page, key);
    await page.getByText("The server accepts the key.").waitFor();
    assert.equal(await store(page, "localStorage"), null);
    assert.equal(await store(page, "sessionStorage"), key);
    await page.locator("#keep-key").check();
    await page.waitForFunction(() => localStorage.getItem("yi.key") !== null);
    assert.equal(await store(page, "sessionStorage"), null);
    const other = await page.context().newPage();
    await other.goto(server.url);
    await other.getByText("yi-demo").waitFor();
    await other.locator("#open-settings").click();
    await other.locator("#keep-key").uncheck();
    await other.waitForFunction(() => localStorage.getItem("yi.key") === null);
    assert.ok(!(await other.content()).includes(key));
    assert.deepEqual(page.problems, []);
    await page.context().close();
  });
});

test("a conversation that is too long for the model is told so", async () => {
  const server = await Server.start(DEMO);
  const page = await visit(server.url);
  await ask(page, "word ".repeat(3000));
  await page.getByText("The conversation is too long for the model").waitFor();
  assert.deepEqual(page.problems, []);
  await page.context().close();
  await server.stop();
});

test("a full queue is told with the time to wait", async () => {
  const server = await Server.start(SLOW, "--chat-template", "chatml", "--parallel", "1", "--queue", "0");
  const page = await visit(server.url);
  await ask(page, "First");
  await page.locator("#stop").waitFor();
  await page.waitForFunction(() => document.querySelector(".message.assistant .markdown")?.textContent.length > 5);
  await page.locator("#new").click();
  await ask(page, "Second");
  await page.getByText("The server is busy").waitFor();
  assert.match(await page.locator(".failure button").first().textContent(), /Try again/);
  assert.deepEqual(page.problems, []);
  await page.context().close();
  await server.stop();
});

test("a server that goes away in the middle leaves what was written, and the page says so", async () => {
  const server = await Server.start(SLOW, "--chat-template", "chatml");
  const page = await visit(server.url);
  await ask(page, "Hello");
  await page.waitForFunction(() => document.querySelector(".message.assistant .markdown")?.textContent.length > 30);
  await server.stop();
  await page.getByText("The connection broke").waitFor();
  assert.ok((await page.locator(".message.assistant .markdown").textContent()).length > 30);
  await ask(page, "Again");
  await page.locator(".failure").getByText("The server cannot be reached").waitFor();
  await page.context().close();
});
