// What people do with the page: ask, read, stop, come back, change their minds.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { answered, ask, importInto, launch, Server, visit } from "./browser.mjs";
import { conversation, exported, PLEASANT } from "./sample.mjs";

const QUESTION = "What is the sum of 35 and 93?";
const { DEMO, SLOW } = process.env;
let browser, demo, slow;

before(async () => {
  browser = await launch();
  demo = await Server.start(DEMO);
  slow = await Server.start(SLOW, "--chat-template", "chatml");
});

after(async () => {
  await browser?.close();
  await demo?.stop();
  await slow?.stop();
});

/** Ends a visit: nothing may have gone wrong on the page, and nothing been asked of another server. */
async function leave(page) {
  assert.deepEqual(page.problems, []);
  assert.deepEqual(page.elsewhere, []);
  await page.context().close();
}

const bubbles = (page) => page.locator(".bubble").allTextContents();

/** The next Tab goes to the first element of the page. */
const fromStart = (page) =>
  page.evaluate(() => {
    document.body.tabIndex = -1;
    document.body.focus();
    document.body.removeAttribute("tabindex");
  });

async function setField(page, name, value) {
  await page.locator("#open-settings").click();
  await page.locator(`#f-${name}`).fill(String(value));
  await page.locator("#close-settings").click();
}

describe("a conversation", () => {
  test("a question is answered, with its speed, and is there after a reload", async () => {
    const page = await visit(demo.url);
    await setField(page, "temperature", 0);
    await ask(page, QUESTION);
    const answer = await answered(page);
    assert.match(await answer.locator(".markdown").textContent(), /\b128\b/);
    assert.match(await answer.locator(".stats").textContent(), /tokens\/s · \d+ tokens/);
    assert.equal(await page.title(), `${QUESTION} – Yi`);
    await page.reload();
    assert.match(await (await answered(page)).locator(".markdown").textContent(), /\b128\b/);
    assert.deepEqual(await bubbles(page), [QUESTION]);
    assert.equal(await page.locator("#list li").count(), 1);
    // The settings are the conversation's own.
    await page.locator("#open-settings").click();
    assert.equal(await page.locator("#f-temperature").inputValue(), "0");
    await leave(page);
  });

  test("the request has what was set, and nothing that was not", async () => {
    const page = await visit(demo.url);
    await page.locator("#open-settings").click();
    await page.locator("#system").fill("Be brief.");
    const values = { temperature: "0.5", top_p: "0.9", top_k: "20", min_p: "0.1", max_tokens: "5", seed: "7" };
    for (const [name, value] of Object.entries(values)) await page.locator(`#f-${name}`).fill(value);
    await page.locator("#f-top_k").fill("-3");
    assert.equal(await page.locator("#f-top_k").getAttribute("aria-invalid"), "true");
    await page.locator("#f-min_p").fill("");
    await page.locator("#make-default").click();
    await page.locator("#close-settings").click();
    const sent = page.waitForRequest("**/v1/chat/completions");
    await ask(page, QUESTION);
    const body = (await sent).postDataJSON();
    const messages = [{ role: "system", content: "Be brief." }, { role: "user", content: QUESTION }];
    const { model, ...rest } = body;
    assert.equal(model, "yi-demo");
    assert.deepEqual(rest, {
      temperature: 0.5, top_p: 0.9, top_k: 20, max_tokens: 5, seed: 7, messages, stream: true, stream_options: { include_usage: true },
    });
    assert.match(await (await answered(page)).locator(".note").textContent(), /limit/);
    // New conversations begin with the same.
    await page.locator("#new").click();
    const again = page.waitForRequest("**/v1/chat/completions");
    await ask(page, "Hello");
    assert.equal((await again).postDataJSON().messages[0].content, "Be brief.");
    await leave(page);
  });

  test("an answer appears while it is written, and Esc stops it", async () => {
    const page = await visit(slow.url);
    await ask(page, "Hello");
    const answer = page.locator(".message.assistant .markdown");
    await page.waitForFunction(() => document.querySelector(".message.assistant .markdown")?.textContent.length > 20);
    const early = await answer.textContent();
    await page.waitForFunction((n) => document.querySelector(".message.assistant .markdown").textContent.length > n + 20, early.length);
    assert.match(await page.locator(".message.assistant .stats").textContent(), /tokens\/s/);
    assert.equal(await page.locator("#stop").isVisible(), true);
    assert.equal(await page.locator("#list .title").textContent(), "Hello");
    await page.keyboard.press("Escape");
    assert.match(await (await answered(page)).locator(".note").textContent(), /Stopped/);
    const text = await answer.textContent();
    // The server notices, and the slot is free.
    await page.waitForFunction(async () => /^yi_requests_running\{.*\} 0$/m.test(await (await fetch("metrics")).text()));
    assert.equal(await answer.textContent(), text);
    await page.reload();
    assert.equal(await (await answered(page)).locator(".markdown").textContent(), text);
    await leave(page);
  });

  test("an answer that a reload cuts off is kept, and can be asked for again", async () => {
    const page = await visit(slow.url);
    await ask(page, "Hello");
    await page.waitForFunction(() => document.querySelector(".message.assistant .markdown")?.textContent.length > 400);
    // An answer under way is stored once a second.
    await page.waitForTimeout(1500);
    await page.reload();
    const answer = await answered(page);
    assert.match(await answer.locator(".note").textContent(), /Interrupted/);
    assert.ok((await answer.locator(".markdown").textContent()).length > 100);
    await answer.getByRole("button", { name: "Answer again" }).click();
    await page.locator("#stop").waitFor();
    await page.locator("#stop").click();
    assert.equal(await (await answered(page)).locator(".versions span").textContent(), "2/2");
    await leave(page);
  });

  test("an answer goes on while another conversation is read", async () => {
    const page = await visit(slow.url);
    await setField(page, "max_tokens", 150);
    await ask(page, "First");
    await page.locator("#stop").waitFor();
    await page.locator("#new").click();
    assert.equal(await page.locator(".message").count(), 0);
    assert.equal(await page.locator("#send").isVisible(), true);
    await page.locator("#list .pulse").waitFor();
    await page.locator("#list .pulse").waitFor({ state: "detached" });
    await page.locator("#list .open").first().click();
    assert.match(await (await answered(page)).locator(".stats").textContent(), /150 tokens/);
    await leave(page);
  });

  test("an edited question and a new answer are versions beside the old ones", async () => {
    const page = await visit(demo.url);
    await setField(page, "temperature", 0);
    await ask(page, QUESTION);
    const first = await (await answered(page)).locator(".markdown").textContent();
    await page.getByRole("button", { name: "Answer again" }).click();
    assert.equal(await (await answered(page)).locator(".versions span").textContent(), "2/2");
    await page.locator(".message.user").hover();
    await page.getByRole("button", { name: "Edit", exact: true }).click();
    const editor = page.getByRole("textbox", { name: "Edit your message" });
    await editor.fill("What is the sum of 20 and 30?");
    await editor.press("Enter");
    assert.match(await (await answered(page)).locator(".markdown").textContent(), /\b50\b/);
    assert.deepEqual(await bubbles(page), ["What is the sum of 20 and 30?"]);
    await page.locator(".user").getByRole("button", { name: "Previous version" }).click();
    assert.deepEqual(await bubbles(page), [QUESTION]);
    assert.equal(await (await answered(page)).locator(".markdown").textContent(), first);
    await page.reload();
    assert.deepEqual(await bubbles(page), [QUESTION]);
    // Esc leaves the question as it is.
    await page.locator(".message.user").hover();
    await page.getByRole("button", { name: "Edit", exact: true }).click();
    await editor.fill("nothing");
    await editor.press("Escape");
    assert.deepEqual(await bubbles(page), [QUESTION]);
    await leave(page);
  });
});

describe("the model", () => {
  const body = (names) => JSON.stringify({ object: "list", data: names.map((id) => ({ id, object: "model", meta: { n_ctx: 4096 } })) });

  test("of several models the chosen one is asked, and stays chosen", async () => {
    const page = await visit(demo.url);
    await page.route("**/v1/models", (route) => route.fulfill({ contentType: "application/json", body: body(["yi-demo", "other"]) }));
    await page.reload();
    await page.getByLabel("Model").selectOption("other");
    await page.reload();
    assert.equal(await page.getByLabel("Model").inputValue(), "other");
    await ask(page, QUESTION);
    // The server has no model of that name, and its answer is shown.
    assert.match(await page.getByRole("alert").textContent(), /there is no model "other"/);
    await page.getByLabel("Model").selectOption("yi-demo");
    await page.getByRole("button", { name: "Try again" }).click();
    await answered(page);
    await leave(page);
  });

  test("a model that is not loaded is loaded when it is asked, and its own settings are shown", async () => {
    const server = await Server.start(DEMO, "-m", `other=${SLOW}`);
    const page = await visit(server.url);
    const status = () => page.evaluate(async () => (await (await fetch("v1/models")).json()).data.map((model) => model.status.value));
    assert.deepEqual(await status(), ["unloaded", "unloaded"]);
    const props = page.waitForRequest("**/props?model=other");
    await page.getByLabel("Model").selectOption("other");
    await props;
    await page.getByLabel("Model").selectOption("yi-demo");
    await ask(page, QUESTION);
    await answered(page);
    assert.deepEqual(await status(), ["loaded", "unloaded"]);
    await leave(page);
    await server.stop();
  });

  test("while the model is being loaded the page says so, and asks again", async () => {
    const page = await visit(demo.url);
    let isLoading = true;
    const models = { object: "list", data: [{ id: "yi-demo", object: "model", status: { value: "loading" } }] };
    await page.route("**/v1/models", (route) =>
      isLoading ? route.fulfill({ contentType: "application/json", body: JSON.stringify(models) }) : route.continue(),
    );
    await page.reload();
    await page.getByText("The model is being loaded…").waitFor();
    isLoading = false;
    await page.locator("#model").getByText("yi-demo").waitFor();
    await leave(page);
  });
});

describe("the keyboard", () => {
  test("Shift + Enter begins a line, Enter sends, but not within a composition", async () => {
    const page = await visit(demo.url);
    await page.locator("#field").focus();
    await page.keyboard.type("one");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("two");
    assert.equal(await page.locator("#field").inputValue(), "one\ntwo");
    // An input method that is composing takes the key for itself.
    const press = (more) =>
      page.locator("#field").evaluate((field, init) => field.dispatchEvent(new KeyboardEvent("keydown", init)), {
        key: "Enter", bubbles: true, cancelable: true, ...more,
      });
    assert.equal(await press({ isComposing: true }), true);
    assert.equal(await press({ keyCode: 229 }), true);
    assert.equal(await page.locator(".message").count(), 0);
    assert.equal(await press({}), false);
    await page.locator(".message.user").waitFor();
    assert.deepEqual(await bubbles(page), ["one\ntwo"]);
    await answered(page);
    await leave(page);
  });

  test("a real composition by the browser's input method does not send", async () => {
    const page = await visit(demo.url);
    await page.locator("#field").focus();
    const session = await page.context().newCDPSession(page);
    await session.send("Input.imeSetComposition", { text: "ni hao", selectionStart: 6, selectionEnd: 6 });
    await page.keyboard.press("Enter");
    assert.equal(await page.locator(".message").count(), 0);
    await session.send("Input.insertText", { text: "你好" });
    // The debugger’s key ends the composition; an input method would have kept it.
    assert.equal((await page.locator("#field").inputValue()).trim(), "你好");
    assert.equal(await page.locator(".message").count(), 0);
    await page.keyboard.press("Enter");
    await answered(page);
    assert.deepEqual(await bubbles(page), ["你好"]);
    await leave(page);
  });

  test("everything can be reached by Tab, in the order in which it is seen, and the focus is visible", async () => {
    const page = await visit(demo.url);
    await importInto(page, exported(PLEASANT));
    await page.locator("#list .open").first().click();
    await fromStart(page);
    const seen = [];
    for (let i = 0; i < 40; i++) {
      await page.keyboard.press("Tab");
      const at = await page.evaluate(() => {
        const { activeElement: a } = document;
        if (a === document.body) return null;
        const { outlineStyle, outlineWidth } = getComputedStyle(a);
        const form = a.closest("#composer");
        const ring = form ? getComputedStyle(form).boxShadow : outlineStyle === "none" ? "" : outlineWidth;
        return { name: a.id || a.className.split(" ").at(-1) || a.tagName, ring, label: a.getAttribute("aria-label") ?? a.textContent };
      });
      if (at === null || (at.name === "skip" && seen.length > 0)) break;
      assert.ok(at.ring, `${at.name} shows no focus`);
      seen.push(at.name);
    }
    const order = ["skip", "new", "open", "menu", "open-settings", "field"].map((name) => seen.indexOf(name));
    assert.ok(order.every((at, i) => at >= 0 && (i === 0 || at > order[i - 1])), seen.join(" "));
    await leave(page);
  });

  test("the link at the start leads to the message field", async () => {
    const page = await visit(demo.url);
    // Where the page puts the focus once it has read its conversations.
    await page.waitForFunction(() => document.activeElement.id === "field");
    await fromStart(page);
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement.id === "field");
    await leave(page);
  });

  test("screen readers are told the answer sentence by sentence, each once", async () => {
    const page = await visit(demo.url);
    await setField(page, "temperature", 0);
    await ask(page, QUESTION);
    const answer = await (await answered(page)).locator(".markdown").textContent();
    const said = await page.locator("#announcer p").allTextContents();
    assert.equal(said[0], "The answer begins");
    assert.equal(said.at(-1), "The answer is complete");
    assert.equal(said.slice(1, -1).join("").replaceAll(/\s/g, ""), answer.replaceAll(/\s/g, ""));
    assert.equal(await page.locator("#announcer").getAttribute("aria-live"), "polite");
    await leave(page);
  });
});

describe("languages and colours", () => {
  test("the page speaks the browser's language, and another when told to", async () => {
    const page = await visit(demo.url, { locale: "zh-CN" });
    assert.equal(await page.getAttribute("html", "lang"), "zh-Hans");
    assert.equal(await page.locator("#field").getAttribute("placeholder"), "输入消息");
    await setField(page, "temperature", 0);
    await ask(page, "35加93等于多少？");
    assert.match(await (await answered(page)).locator(".stats").textContent(), /词元\/秒/);
    await page.locator("#open-settings").click();
    await page.locator("#language").selectOption("en");
    assert.equal(await page.locator("#settings-title").textContent(), "Settings");
    await page.reload();
    assert.equal(await page.getAttribute("html", "lang"), "en");
    assert.match(await (await answered(page)).locator(".stats").textContent(), /tokens\/s/);
    await leave(page);
  });

  test("no text is missing in either language", async () => {
    for (const locale of ["en-GB", "zh-CN"]) {
      const page = await visit(demo.url, { locale });
      const empty = await page.evaluate(() => {
        const named = [...document.querySelectorAll("[data-t], [data-t-label]")];
        return named.filter((e) => !(e.dataset.t ? e.textContent : e.getAttribute("aria-label"))).map((e) => e.outerHTML);
      });
      assert.deepEqual(empty, []);
      await leave(page);
    }
  });

  test("light and dark follow the system, or the user", async () => {
    const background = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const page = await visit(demo.url, { colorScheme: "dark" });
    const dark = await background(page);
    await page.emulateMedia({ colorScheme: "light" });
    const light = await background(page);
    assert.notEqual(light, dark);
    await page.locator("#open-settings").click();
    await page.locator("#theme").selectOption("dark");
    assert.equal(await background(page), dark);
    await page.reload();
    await page.locator("body.ready").waitFor();
    assert.equal(await background(page), dark);
    await leave(page);
  });
});

describe("conversations in the browser", () => {
  test("they are listed, renamed, exported and deleted, and come back from the file", async () => {
    const page = await visit(demo.url);
    await importInto(page, exported(PLEASANT));
    assert.equal(await page.locator("#list li").count(), PLEASANT.length);
    await page.locator("#list .more").first().click();
    await page.locator(".menu:popover-open").getByText("Rename").click();
    await page.locator("#question input").fill("House");
    await page.keyboard.press("Enter");
    // The list changes once the browser has stored the name.
    await page.locator("#list li").first().getByText("House", { exact: true }).waitFor();
    assert.equal(await page.locator("#list .title").first().textContent(), "House");

    await page.locator("#open-settings").click();
    const [file] = await Promise.all([page.waitForEvent("download"), page.locator("#export-all").click()]);
    assert.match(file.suggestedFilename(), /^yi-conversations-\d{4}-\d\d-\d\d\.json$/);
    const saved = await (await import("node:fs/promises")).readFile(await file.path(), "utf8");
    await page.locator("#delete-all").click();
    await page.locator("#question button.danger").click();
    await page.waitForFunction(() => document.querySelectorAll("#list li").length === 0);
    await page.reload();
    assert.equal(await page.locator("#list li").count(), 0);
    await importInto(page, saved);
    assert.equal(await page.locator("#list .title").first().textContent(), "House");
    assert.deepEqual(JSON.parse(saved).conversations.find((c) => c.id === "mortgage").messages, PLEASANT[0].messages);

    await page.locator("#list .more").first().click();
    await page.locator(".menu:popover-open").getByText("Delete").click();
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("#list li").count(), PLEASANT.length);
    await leave(page);
  });

  test("a file that is not the page's own changes nothing", async () => {
    const page = await visit(demo.url);
    const good = conversation("good", "Good", [["user", "x"]]);
    const looped = { ...good, id: "loop", messages: [{ ...good.messages[0], parent: good.messages[0].id }] };
    const wrong = ["", "[]", "{}", "null", exported([null]), exported([good, looped]), exported([{ ...good, id: "a b" }])];
    wrong.push(exported([{ ...good, messages: [{ ...good.messages[0], role: "system" }] }]));
    wrong.push('{"format":"yi-conversations","conversations":[{"__proto__":{"id":"p"}}]}');
    for (const text of wrong) {
      await importInto(page, text);
      assert.match(await page.locator("#toast").textContent(), /no conversations/);
      assert.equal(await page.locator("#list li").count(), 0, text);
    }
    await leave(page);
  });

  test("two windows see each other's conversations", async () => {
    const page = await visit(demo.url);
    const other = await page.context().newPage();
    await other.goto(demo.url);
    await setField(page, "temperature", 0);
    await ask(page, QUESTION);
    await answered(page);
    await other.locator("#list .open").click();
    assert.match(await (await answered(other)).locator(".markdown").textContent(), /\b128\b/);
    await leave(page);
  });

  test("the address names the conversation, and the browser's Back leads to the one before", async () => {
    const page = await visit(demo.url);
    await importInto(page, exported(PLEASANT));
    await page.locator("#list .open").nth(0).click();
    await page.locator("#list .open").nth(1).click();
    assert.equal(await page.locator("#title").textContent(), PLEASANT[1].title);
    await page.goBack();
    await page.waitForFunction((title) => document.getElementById("title").textContent === title, PLEASANT[0].title);
    await leave(page);
  });
});

test("nothing is wider than a narrow screen, and the list of conversations lies over it", async () => {
  for (const width of [320, 390]) {
    const page = await visit(demo.url, { viewport: { width, height: 700 }, hasTouch: true, isMobile: true });
    await importInto(page, exported(PLEASANT));
    await page.locator("#menu").click();
    assert.equal(await page.locator("#main").evaluate((main) => main.inert), true);
    await page.locator("#list .open").first().click();
    assert.equal(await page.locator("#sidebar").isVisible(), false);
    await page.locator(".message.assistant").waitFor();
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width);
    const wide = await page.locator("#scroller").evaluate((s) => s.scrollWidth - s.clientWidth);
    assert.equal(wide, 0);
    await leave(page);
  }
});
