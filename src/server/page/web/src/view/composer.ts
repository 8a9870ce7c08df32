// Where a message is written. Enter sends it, but not while an input method turns keys into Chinese characters.

import type { App } from "../app";
import { byId } from "../dom";

export function isSendKey(event: KeyboardEvent): boolean {
  // Safari ends the composition before the key that ended it; 229 still tells.
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}

export class Composer {
  readonly #app: App;
  readonly #form = byId("composer", HTMLFormElement);
  readonly #field = byId("field", HTMLTextAreaElement);
  readonly #send = byId("send", HTMLButtonElement);
  readonly #stop = byId("stop", HTMLButtonElement);
  /** What is written in each conversation and not sent yet. */
  readonly #drafts = new Map<string, string>();
  #shown = "";

  constructor(app: App) {
    this.#app = app;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#field.addEventListener("keydown", (event) => {
      if (!isSendKey(event)) return;
      event.preventDefault();
      this.#submit();
    });
    this.#field.addEventListener("input", () => this.update());
    this.#stop.addEventListener("click", () => {
      app.stop();
      this.#field.focus();
    });
    document.addEventListener("keydown", (event) => {
      const isFree = !event.isComposing && !document.querySelector("dialog[open]");
      if (event.key === "Escape" && isFree && app.running) app.stop();
    });
  }

  /** The conversation that is shown has changed: so does the draft. */
  show(): void {
    const { id } = this.#app.current;
    if (id !== this.#shown) {
      this.#drafts.set(this.#shown, this.#field.value);
      this.#field.value = this.#drafts.get(id) ?? "";
      this.#shown = id;
    }
    this.update();
  }

  update(): void {
    const isRunning = this.#app.running !== undefined;
    const hadFocus = document.activeElement === (isRunning ? this.#send : this.#stop);
    this.#send.hidden = isRunning;
    this.#stop.hidden = !isRunning;
    this.#send.disabled = this.#field.value.trim() === "";
    if (hadFocus) this.#field.focus();
    // For browsers without `field-sizing`.
    if (!CSS.supports("field-sizing", "content")) {
      this.#field.style.height = "auto";
      this.#field.style.height = `${this.#field.scrollHeight}px`;
    }
  }

  focus(): void {
    this.#field.focus();
  }

  #submit(): void {
    const text = this.#field.value.trim();
    if (text === "" || this.#app.running) return;
    this.#field.value = "";
    this.#drafts.delete(this.#app.current.id);
    this.#app.send(text);
    this.update();
  }
}
