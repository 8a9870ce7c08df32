// The list of conversations. On a narrow screen it slides over the page.

import type { App } from "../app";
import type { Conversation } from "../conversation";
import { byId, h, icon } from "../dom";
import { label, t } from "../i18n";
import { download, toMarkdown } from "../transfer";
import { ask } from "./dialog";

export class Sidebar {
  readonly #app: App;
  readonly #list = byId("list", HTMLUListElement);
  readonly #menu = byId("menu", HTMLButtonElement);
  readonly #main = byId("main", HTMLElement);
  readonly #shade = byId("shade", HTMLElement);
  readonly #narrow = matchMedia("(max-width: 48rem)");

  constructor(app: App) {
    this.#app = app;
    byId("new", HTMLButtonElement).addEventListener("click", () => this.#openNew());
    byId("new-top", HTMLButtonElement).addEventListener("click", () => this.#openNew());
    this.#menu.addEventListener("click", () => this.toggle(!this.isOpen));
    byId("close-menu", HTMLButtonElement).addEventListener("click", () => this.toggle(false));
    this.#shade.addEventListener("click", () => this.toggle(false));
    this.#narrow.addEventListener("change", () => this.toggle(!this.#narrow.matches));
    document.addEventListener("keydown", (event) => {
      const isFree = !event.isComposing && !document.querySelector("dialog[open]");
      if (event.key === "Escape" && isFree && this.#narrow.matches && this.isOpen) this.toggle(false);
    });
    this.toggle(!this.#narrow.matches);
  }

  get isOpen(): boolean {
    return document.body.classList.contains("with-sidebar");
  }

  /** Shows or hides the list. What it lies over cannot be reached meanwhile. */
  toggle(isOpen: boolean): void {
    const wasOpen = this.isOpen;
    document.body.classList.toggle("with-sidebar", isOpen);
    byId("sidebar", HTMLElement).inert = !isOpen;
    this.#main.inert = isOpen && this.#narrow.matches;
    this.#menu.setAttribute("aria-expanded", String(isOpen));
    label(this.#menu, t(isOpen ? "closeMenu" : "menu"));
    if (!this.#narrow.matches || wasOpen === isOpen) return;
    if (isOpen) byId("close-menu", HTMLButtonElement).focus();
    else this.#menu.focus();
  }

  /** After something was chosen, a narrow screen shows it. */
  leave(): void {
    if (this.#narrow.matches) this.toggle(false);
  }

  show(): void {
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.key : undefined;
    this.#list.replaceChildren(...this.#app.store.list().map((conversation) => this.#item(conversation)));
    label(this.#menu, t(this.isOpen ? "closeMenu" : "menu"));
    if (focused) this.#list.querySelector<HTMLElement>(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  #openNew(): void {
    this.#app.openNew();
    this.leave();
    byId("field", HTMLTextAreaElement).focus();
  }

  #item(conversation: Conversation): HTMLElement {
    const title = conversation.title || t("untitled");
    const isCurrent = conversation.id === this.#app.current.id;
    const isRunning = this.#app.answers.running(conversation.id) !== undefined;
    const open = h(
      "button",
      { type: "button", class: "open", title, "data-key": `open-${conversation.id}`, "aria-current": isCurrent ? "page" : null },
      isRunning ? h("span", { class: "pulse", "aria-hidden": "true" }) : null,
      h("span", { class: "title", dir: "auto" }, title),
    );
    open.addEventListener("click", () => {
      this.#app.open(conversation);
      this.leave();
    });
    const rename = entry("edit", t("rename"), () => void this.#rename(conversation));
    const save = entry("download", t("exportMarkdown"), () => this.#export(conversation));
    const remove = entry("delete", t("delete"), () => void this.#remove(conversation));
    const id = `options-${conversation.id}`;
    const menu = h("div", { class: "menu", popover: "auto", id, role: "group", "aria-label": t("options", { title }) }, rename, save, remove);
    const more = h("button", { type: "button", class: "quiet small more", popovertarget: id, "data-key": `more-${conversation.id}` }, icon("more"));
    label(more, t("options", { title }));
    menu.addEventListener("toggle", () => place(menu, more));
    menu.addEventListener("click", () => menu.hidePopover());
    return h("li", { class: isCurrent ? "current" : null }, open, more, menu);
  }

  async #rename(conversation: Conversation): Promise<void> {
    const title = await ask({ title: "renameTitle", value: conversation.title, action: "save" });
    if (!title) return;
    conversation.title = title;
    this.#app.changed(conversation);
  }

  #export(conversation: Conversation): void {
    const names = { user: t("you"), assistant: t("assistant"), system: t("system") };
    const name = conversation.title.replaceAll(/[^\p{L}\p{N}]+/gu, "-").replaceAll(/^-|-$/g, "") || "conversation";
    download(`${name}.md`, "text/markdown", toMarkdown(conversation, names));
  }

  async #remove(conversation: Conversation): Promise<void> {
    const text = t("deleteText", { title: conversation.title || t("untitled") });
    const answer = await ask({ title: "deleteTitle", text, action: "delete", isDangerous: true });
    if (answer !== null) await this.#app.remove(conversation);
  }
}

function entry(name: string, text: string, act: () => void): HTMLButtonElement {
  const button = h("button", { type: "button" }, icon(name), text);
  button.addEventListener("click", act);
  return button;
}

/** Below its button, or above it where there is no room. */
function place(menu: HTMLElement, button: HTMLElement): void {
  const at = button.getBoundingClientRect();
  const isBelow = at.bottom + menu.offsetHeight + 8 < innerHeight;
  menu.style.left = `${Math.min(at.left, innerWidth - menu.offsetWidth - 8)}px`;
  menu.style.top = `${isBelow ? at.bottom + 4 : at.top - menu.offsetHeight - 4}px`;
}
