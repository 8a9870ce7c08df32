// Tells screen readers what happens. A region that changes with every token would be read from its start again and
// again; so whole sentences go into a region of their own, each once.

import { byId } from "../dom";

export class Announcer {
  readonly #element = byId("announcer", HTMLElement);
  #rest = "";

  /** Something short, at once. */
  say(text: string): void {
    this.#add(text);
  }

  /** A piece of an answer: read when its sentence is complete. */
  write(piece: string): void {
    this.#rest += piece;
    const end = Math.max(...["\n", ". ", "! ", "? ", "。", "！", "？"].map((mark) => this.#rest.lastIndexOf(mark)));
    if (end < 0) return;
    this.#add(this.#rest.slice(0, end + 1));
    this.#rest = this.#rest.slice(end + 1);
  }

  /** The answer has ended: its last words, then `text`. */
  end(text: string): void {
    this.#add(this.#rest);
    this.#rest = "";
    this.#add(text);
  }

  #add(text: string): void {
    if (text.trim() === "") return;
    const line = document.createElement("p");
    line.textContent = text;
    this.#element.append(line);
    // What has been read is not needed any more.
    while (this.#element.childElementCount > 20) this.#element.firstElementChild?.remove();
  }
}
