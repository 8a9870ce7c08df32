// Pictures of the page for people to look at: node test/screenshots.mjs MODEL FOLDER

import { join } from "node:path";
import { answered, ask, importInto, launch, Server, visit } from "./browser.mjs";
import { exported, PLEASANT } from "./sample.mjs";

const [model, folder] = process.argv.slice(2);
const server = await Server.start(model);
const browser = await launch();

async function picture(name, options, act) {
  const page = await visit(server.url, options);
  await importInto(page, exported(PLEASANT));
  await page.evaluate(() => (location.hash = "#/c/mortgage"));
  await page.locator(".message.assistant").waitFor();
  await page.locator("#scroller").evaluate((scroller) => (scroller.scrollTop = 0));
  await act?.(page);
  await page.evaluate(() => document.getElementById("toast").classList.remove("shown"));
  // Nothing is pointed at.
  await page.mouse.move(640, 690);
  await page.waitForTimeout(300);
  await page.screenshot({ path: join(folder, `${name}.png`) });
  if (page.problems.length) throw new Error(page.problems.join("\n"));
  await page.context().close();
}

const phone = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

/** What the model really answers. */
async function talk(page) {
  const open = page.locator("#new").or(page.locator("#new-top")).filter({ visible: true });
  await open.first().click();
  await page.locator("#open-settings").click();
  await page.locator("#f-temperature").fill("0");
  await page.locator("#close-settings").click();
  for (const text of ["What is the sum of 35 and 93?", "请翻译成中文：My friend needs two new tables.", "定期存款的年利率是多少？"]) {
    await ask(page, text);
    await page.locator("#send").waitFor();
    await answered(page);
  }
}

const settings = (page) => page.locator("#open-settings").click();
// The pleasant conversation is a sample that shows what an answer may have: no model wrote it.
await picture("page-light", { colorScheme: "light" });
await picture("page-dark", { colorScheme: "dark", locale: "zh-CN" }, talk);
await picture("page-settings", { colorScheme: "light" }, settings);
await picture("page-phone", { colorScheme: "light", ...phone }, talk);
if (process.env.MORE) {
  await picture("more-phone-dark", { colorScheme: "dark", locale: "zh-CN", ...phone });
  await picture("more-phone-menu", { colorScheme: "dark", ...phone }, (page) => page.locator("#menu").click());
  await picture("more-phone-settings", { colorScheme: "light", ...phone }, settings);
  await picture("more-empty", { colorScheme: "light" }, (page) => page.locator("#new").click());
  await picture("more-empty-phone", { colorScheme: "dark", locale: "zh-CN", ...phone }, (page) => page.locator("#new-top").click());
  await picture("more-edit", { colorScheme: "dark" }, async (page) => {
    await page.locator(".user").hover();
    await page.locator(".user button").last().click();
  });
  await picture("more-menu", { colorScheme: "light" }, async (page) => {
    await page.locator("#list .more").first().click();
  });
  await picture("more-delete", { colorScheme: "light" }, async (page) => {
    await page.locator("#list .more").first().click();
    await page.locator(".menu:popover-open button").last().click();
  });
  await picture("more-narrow320", { colorScheme: "light", viewport: { width: 320, height: 640 }, hasTouch: true, isMobile: true });
  await picture("more-dark-settings", { colorScheme: "dark", locale: "zh-CN" }, settings);
}
await browser.close();
await server.stop();
