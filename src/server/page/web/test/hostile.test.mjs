// What a model writes may be an attack on whoever reads it.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { importInto, launch, Server, visit } from "./browser.mjs";
import { ATTACK, conversation, exported, PLEASANT } from "./sample.mjs";

const { DEMO } = process.env;
let browser, server;

before(async () => {
  browser = await launch();
  server = await Server.start(DEMO);
});

after(async () => {
  await browser?.close();
  await server?.stop();
});

async function show(conversation, options) {
  const page = await visit(server.url, options);
  await importInto(page, exported([conversation]));
  await page.locator("#list .open").first().click();
  await page.locator(".message").last().waitFor();
  return page;
}

test("a hostile answer runs nothing, fetches nothing and changes nothing around it", async () => {
  const page = await show(ATTACK);
  const answer = page.locator(".message.assistant .markdown");
  assert.ok((await answer.textContent()).includes("<img src=x onerror="), "raw HTML is text");
  // All that could be clicked is clicked; links open nothing but what they show.
  const links = await answer.locator("a").evaluateAll((all) => all.map((a) => [a.href, a.rel, a.target, a.title]));
  assert.ok(links.length >= 3);
  for (const [href, rel, target, title] of links) {
    assert.match(href, /^(https?|mailto):/);
    assert.equal(rel, "noopener noreferrer nofollow");
    assert.equal(target, "_blank");
    assert.ok(title.includes(new URL(href).host));
  }
  const allowed = /^(A|BLOCKQUOTE|BR|BUTTON|CODE|DEL|DIV|EM|H[1-6]|HR|LI|OL|P|PRE|S|SPAN|STRONG|SVG|TABLE|TBODY|TD|TH|THEAD|TR|UL|USE)$/i;
  const elements = await answer.locator("*").evaluateAll((all) => all.map((e) => [e.tagName, [...e.attributes].map((a) => a.name)]));
  for (const [tag, attributes] of elements) {
    assert.match(tag, allowed);
    assert.ok(!attributes.some((name) => name.startsWith("on") || ["style", "src", "id", "name", "srcdoc"].includes(name)), `${tag} ${attributes}`);
  }
  await page.waitForTimeout(300);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.deepEqual(page.problems, []);
  assert.deepEqual(page.elsewhere, []);
  assert.equal(await page.title(), `${ATTACK.title} – Yi`);
  await page.context().close();
});

test("what the sanitiser would let through, the policy still stops", async () => {
  const page = await visit(server.url);
  const policy = await page.evaluate(async () => {
    const violations = [];
    document.addEventListener("securitypolicyviolation", (event) => violations.push(event.effectiveDirective));
    const attempts = {
      html: () => (document.body.innerHTML += "<b>x</b>"),
      eval: () => (0, eval)("window.hacked = 1"),
      function: () => new Function("window.hacked = 1")(),
    };
    // Where a debugger evaluates, eval is allowed; later it is not.
    await new Promise((resolve) => setTimeout(resolve));
    const stopped = Object.entries(attempts).filter(([, attempt]) => {
      try {
        attempt();
        return false;
      } catch {
        return true;
      }
    });
    const image = document.createElement("img");
    image.src = "http://attacker.invalid/pixel";
    const frame = document.createElement("iframe");
    frame.src = "http://attacker.invalid/frame";
    document.body.append(image, frame);
    await fetch("http://attacker.invalid/fetch").catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 300));
    return { stopped: stopped.map(([name]) => name), violations: [...new Set(violations)] };
  });
  assert.deepEqual(policy.stopped, ["html", "eval", "function"]);
  for (const directive of ["img-src", "frame-src", "connect-src", "require-trusted-types-for"])
    assert.ok(policy.violations.includes(directive), `${directive}: ${policy.violations}`);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  await page.context().close();
});

test("a text that grows looks in the end as if it had come at once", async () => {
  const text = PLEASANT[0].messages[1].content + "\n\n[later]: https://example.org/later\n\nSee [this][later].\n\n1. a\n\n   - b\n\n2. c";
  const whole = await show(conversation("whole", "Whole", [["user", "x"], ["assistant", text, { ending: "stop" }]]));
  const expected = await whole.locator(".message.assistant .markdown").innerHTML();
  await whole.context().close();

  const page = await visit(server.url);
  // The same text, some characters at a time, as a server would send it.
  await page.route("**/v1/chat/completions", (route) => {
    const pieces = text.match(/[^]{1,3}/g).map((content) => ({ choices: [{ index: 0, delta: { content }, finish_reason: null }] }));
    pieces.push({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
    const body = pieces.map((piece) => `data: ${JSON.stringify(piece)}\n\n`).join("") + "data: [DONE]\n\n";
    return route.fulfill({ contentType: "text/event-stream", body });
  });
  await page.locator("#field").fill("x");
  await page.keyboard.press("Enter");
  await page.locator(".message.assistant .actions").waitFor();
  assert.equal(await page.locator(".message.assistant .markdown").innerHTML(), expected);
  await page.context().close();
});

test("axe finds no fault, in both themes, with everything open", async () => {
  const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  for (const colorScheme of ["light", "dark"]) {
    // Axe itself needs what the policy forbids.
    const page = await show(PLEASANT[0], { colorScheme, bypassCSP: true });
    await page.evaluate(axe);
    const check = async (what) => {
      await page.waitForTimeout(200);
      const { violations } = await page.evaluate(() => window.axe.run());
      const found = violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).join(" ")}`);
      assert.deepEqual(found, [], `${colorScheme}, ${what}`);
    };
    await check("a conversation");
    await page.locator("#list .more").first().click();
    await check("the menu");
    await page.locator(".menu:popover-open").getByText("Delete").click();
    await check("the question");
    await page.keyboard.press("Escape");
    await page.locator("#open-settings").click();
    await check("the settings");
    await page.context().close();
  }
});
