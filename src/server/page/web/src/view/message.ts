// One message: what it says, what can be done with it, how it came to be.

import type { App } from "../app";
import { tokensPerS } from "../answers";
import { versions, type Message } from "../conversation";
import { h, icon } from "../dom";
import { label, t, type Text } from "../i18n";
import { copied, MarkdownView } from "../markdown";
import { isSendKey } from "./composer";

export class MessageView {
  readonly element: HTMLElement;
  readonly message: Message;
  readonly #app: App;
  readonly #body: HTMLElement;
  readonly #foot = h("div", { class: "foot" });
  readonly #markdown: MarkdownView | null;

  constructor(app: App, message: Message) {
    this.#app = app;
    this.message = message;
    this.#markdown = message.role === "assistant" ? new MarkdownView() : null;
    this.#body = this.#markdown?.element ?? h("div", { class: "bubble" });
    const name = h("h2", { class: "visually-hidden" }, t(message.role === "user" ? "you" : "assistant"));
    this.element = h("article", { class: `message ${message.role}` }, name, this.#body, this.#foot);
    this.update();
  }

  get #isRunning(): boolean {
    return this.#app.running?.message === this.message;
  }

  /** Shows what the message says now. */
  update(): void {
    const { message } = this;
    if (this.#markdown) {
      this.#markdown.show(message.content);
      const isWaiting = this.#isRunning && message.content === "";
      this.element.classList.toggle("waiting", isWaiting);
      this.element.setAttribute("aria-busy", String(this.#isRunning));
    } else {
      this.#body.textContent = message.content;
    }
    this.updateFoot();
  }

  updateFoot(): void {
    // While an answer is written only the numbers change: buttons come when it is complete.
    if (this.#isRunning) {
      const speed = this.#app.running ? tokensPerS(this.#app.running) : null;
      const text = this.message.content === "" ? t("waiting") : speed === null ? "" : t("speed", { speed: rounded(speed) });
      this.#foot.replaceChildren(h("span", { class: "stats" }, text));
      return;
    }
    const { message } = this;
    const others = versions(this.#app.current, message);
    const isBusy = this.#app.running !== undefined;
    const buttons: HTMLElement[] = [];
    if (others.length > 1) buttons.push(this.#versions(others));
    const copy = button("copy", "copy");
    copy.addEventListener("click", () => void copied(copy, message.content));
    buttons.push(copy);
    if (message.role === "user") {
      const edit = button("edit", "edit");
      edit.addEventListener("click", () => this.#edit());
      edit.disabled = isBusy;
      buttons.push(edit);
    } else if (message.parent !== null) {
      const { parent } = message;
      const again = button("again", "regenerate");
      again.addEventListener("click", () => this.#app.regenerate(parent));
      again.disabled = isBusy;
      buttons.push(again);
    }
    this.#foot.replaceChildren(h("div", { class: "actions" }, ...buttons), ...this.#stats());
  }

  #versions(others: Message[]): HTMLElement {
    const at = others.indexOf(this.message);
    const step = (to: number, name: string, text: Text) => {
      const element = button(name, text);
      element.disabled = to < 0 || to >= others.length || this.#app.running !== undefined;
      element.addEventListener("click", () => this.#app.showVersion(others[to]!.id));
      return element;
    };
    const count = h("span", { "aria-label": t("version", { i: at + 1, n: others.length }), role: "img" }, `${at + 1}/${others.length}`);
    return h("span", { class: "versions" }, step(at - 1, "left", "previousVersion"), count, step(at + 1, "right", "nextVersion"));
  }

  #stats(): HTMLElement[] {
    const { ending, stats } = this.message;
    const parts: HTMLElement[] = [];
    if (stats && stats.nGenerated > 0) {
      const texts = [t("nTokens", { n: stats.nGenerated })];
      if (stats.tokensPerS > 0) texts.unshift(t("speed", { speed: rounded(stats.tokensPerS) }));
      const span = h("span", { class: "stats" }, texts.join(" · "));
      span.title = t("details", { prompt: stats.nPrompt, first: rounded(stats.firstTextS) });
      parts.push(span);
    }
    const notes: Partial<Record<string, Text>> = { length: "tooLong", stopped: "wasStopped", running: "wasInterrupted", error: "wasInterrupted" };
    const note = notes[ending ?? ""];
    if (note) parts.push(h("span", { class: "note" }, t(note)));
    return parts;
  }

  #edit(): void {
    if (this.#app.running) return;
    const field = h("textarea", { "aria-label": t("editLabel"), rows: "1" });
    field.value = this.message.content;
    const no = h("button", { type: "button", class: "plain" }, t("cancel"));
    const yes = h("button", { type: "submit", class: "primary" }, t("sendEdited"));
    const form = h("form", { class: "editor" }, field, h("div", { class: "buttons" }, no, yes));
    const close = () => {
      form.replaceWith(this.#body);
      this.#foot.hidden = false;
      this.#foot.querySelector<HTMLElement>("button:last-child")?.focus();
    };
    const send = () => {
      if (field.value.trim() !== "") this.#app.edit(this.message, field.value.trim());
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send();
    });
    no.addEventListener("click", close);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.isComposing) {
        event.preventDefault();
        event.stopPropagation();
        close();
      } else if (isSendKey(event)) {
        event.preventDefault();
        send();
      }
    });
    this.#foot.hidden = true;
    this.#body.replaceWith(form);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}

function button(name: string, text: Text): HTMLButtonElement {
  const element = h("button", { type: "button", class: "quiet small" }, icon(name));
  label(element, t(text));
  return element;
}

function rounded(number: number): string {
  const digits = number < 10 ? 1 : 0;
  return number.toLocaleString(document.documentElement.lang, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

