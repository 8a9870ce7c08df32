// Small questions, asked in the page's own dialog: it keeps the focus and Esc closes it.

import { byId, h } from "../dom";
import { t, type Text } from "../i18n";

interface Question {
  title: Text;
  text?: string;
  /** A line of text to change. */
  value?: string;
  action: Text;
  isDangerous?: boolean;
}

/** Asks; `null` when the user does not want to. Without a line to change the answer is "". */
export function ask({ title, text, value, action, isDangerous }: Question): Promise<string | null> {
  const dialog = byId("question", HTMLDialogElement);
  const heading = h("h2", { id: "question-title" }, t(title));
  const field = value === undefined ? null : h("input", { type: "text", "aria-label": t("name"), maxlength: "200" });
  if (field) field.value = value ?? "";
  const no = h("button", { type: "button", class: "plain" }, t("cancel"));
  const yes = h("button", { type: "submit", class: isDangerous ? "danger" : "primary" }, t(action));
  const form = h("form", { method: "dialog" }, heading, text ? h("p", {}, text) : null, field, h("div", { class: "buttons" }, no, yes));
  dialog.replaceChildren(form);
  dialog.returnValue = "";
  return new Promise((resolve) => {
    let answer: string | null = null;
    form.addEventListener("submit", () => (answer = field?.value.trim() ?? ""));
    no.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => resolve(answer), { once: true });
    dialog.showModal();
    if (field) field.select();
    else no.focus();
  });
}

/** A short message at the edge of the page. */
export function toast(text: string): void {
  const element = byId("toast", HTMLElement);
  // What lies outside an open dialog is neither seen nor heard.
  (document.querySelector("dialog[open]") ?? document.body).append(element);
  element.textContent = text;
  element.classList.add("shown");
  clearTimeout(timer);
  timer = setTimeout(() => element.classList.remove("shown"), 5000);
}

let timer: ReturnType<typeof setTimeout> | undefined;
