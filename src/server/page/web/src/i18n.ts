// The interface's language. Elements of the page name their texts: data-t for the content, data-t-label for a button
// without visible text, data-t-placeholder for a field.

import { en, type Text } from "./lang/en";
import { zh } from "./lang/zh";

export type { Text };
export type Language = "en" | "zh";

const TEXTS: Record<Language, Record<Text, string>> = { en, zh };
let current: Language = "en";

/** The first language of the browser that the page has. */
export function browserLanguage(): Language {
  const found = navigator.languages.map((tag) => tag.toLowerCase().split("-")[0]).find((tag) => tag === "en" || tag === "zh");
  return found === "zh" ? "zh" : "en";
}

export function setLanguage(language: Language): void {
  current = language;
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  translate(document);
}

/** A text in the current language; `{name}` stands for `values.name`. */
export function t(text: Text, values: Record<string, string | number> = {}): string {
  return TEXTS[current][text].replaceAll(/\{(\w+)\}/g, (_, name: string) => {
    const value = values[name];
    return typeof value === "number" ? value.toLocaleString(document.documentElement.lang) : (value ?? "");
  });
}

/** Fills in the texts that the elements below `root` name. */
export function translate(root: ParentNode): void {
  for (const element of root.querySelectorAll<HTMLElement>("[data-t]")) element.textContent = t(element.dataset.t as Text);
  for (const element of root.querySelectorAll<HTMLElement>("[data-t-label]")) label(element, t(element.dataset.tLabel as Text));
  for (const element of root.querySelectorAll<HTMLTextAreaElement>("[data-t-placeholder]"))
    element.placeholder = t(element.dataset.tPlaceholder as Text);
}

/** Names an element for screen readers, and for who points at it. */
export function label(element: HTMLElement, text: string): void {
  element.setAttribute("aria-label", text);
  element.title = text;
}
