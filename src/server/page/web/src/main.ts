// Puts the page together.

import type { Running } from "./answers";
import { App } from "./app";
import { byId, h } from "./dom";
import { setLanguage, t } from "./i18n";
import { applyTheme, languageOf } from "./prefs";
import { Announcer } from "./view/announcer";
import { Composer } from "./view/composer";
import { toast } from "./view/dialog";
import { ASK_KEY, explain } from "./view/failure";
import { SettingsView } from "./view/settings";
import { Sidebar } from "./view/sidebar";
import { ThreadView } from "./view/thread";

const app = new App({
  shown: () => {
    thread.show();
    composer.show();
    sidebar.show();
    showTitle();
  },
  listed: () => {
    sidebar.show();
    showTitle();
  },
  connected: () => {
    showConnection();
    settings.connected();
  },
  begun: (running) => {
    thread.begun(running);
    composer.update();
    keepFocus();
  },
  wrote: (running, text) => thread.wrote(running, text),
  ended: (running: Running) => {
    thread.ended(running);
    composer.update();
    const { status } = app.answers.failure(running.conversation.id)?.error ?? {};
    // The header says the same as the message.
    if (status === 401 || status === 0) void app.connect();
  },
});

applyTheme(app.prefs.theme);
setLanguage(languageOf(app.prefs));

const announcer = new Announcer();
const thread = new ThreadView(app, announcer);
const composer = new Composer(app);
const sidebar = new Sidebar(app);
const settings = new SettingsView(app, showLanguage);
app.answers.onSaveFailed = () => toast(t("saveFailed"));

document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  composer.focus();
});
document.addEventListener(ASK_KEY, () => settings.openAtKey());
window.addEventListener("hashchange", () => app.openFromAddress());
window.addEventListener("popstate", () => app.openFromAddress());
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") app.answers.saveAll();
});

composer.show();
document.body.classList.add("ready");
void app.start().then(keepFocus);

/** What the user was at may be gone; then the message field is next. A finger would only raise its keyboard. */
function keepFocus(): void {
  const isLost = document.activeElement === document.body || document.activeElement === null;
  if (isLost && matchMedia("(pointer: fine)").matches) composer.focus();
}

function showLanguage(): void {
  setLanguage(languageOf(app.prefs));
  thread.rebuild();
  sidebar.show();
  showConnection();
  showTitle();
}

function showTitle(): void {
  const { title } = app.current;
  byId("title", HTMLElement).textContent = title || t("untitled");
  document.title = title ? `${title} – ${t("title")}` : t("title");
}

function showConnection(): void {
  const { connection, model } = app;
  const place = byId("model", HTMLElement);
  place.className = connection.kind;
  byId("context", HTMLElement).textContent = model?.nCtx ? t("context", { n: model.nCtx }) : "";
  if (connection.kind === "ready" && connection.models.length > 1) {
    const choice = h("select", { "aria-label": t("model") }, ...connection.models.map(({ id }) => h("option", { value: id }, id)));
    choice.value = model?.id ?? "";
    choice.addEventListener("change", () => void app.choose(choice.value));
    place.replaceChildren(choice);
    return;
  }
  if (connection.kind === "failed") {
    const { title, asksKey } = explain(connection.error, app.savedKey.key !== null);
    const button = h("button", { type: "button", class: "link" }, t(title));
    button.addEventListener("click", () => (asksKey ? settings.openAtKey() : void app.connect()));
    place.replaceChildren(button);
    return;
  }
  place.textContent = connection.kind === "ready" ? (model?.id ?? t("noModel")) : connection.kind === "loading" ? t("modelLoading") : "";
}
