// What the user has chosen for the page itself, and the API key. The key lasts as long as the tab, unless the user
// asks for more.

import { isRecord } from "./conversation";
import { browserLanguage, type Language } from "./i18n";
import { readSampling, type Sampling } from "./sampling";

export type Theme = "auto" | "light" | "dark";

export interface Prefs {
  language: Language | "auto";
  theme: Theme;
  /** Of several models. */
  model: string | null;
  /** What new conversations begin with. */
  system: string;
  sampling: Sampling;
}

const PREFS = "yi.prefs";
const KEY = "yi.key";

export function loadPrefs(): Prefs {
  let value: unknown;
  try {
    value = JSON.parse(localStorage.getItem(PREFS) ?? "null");
  } catch {
    value = null;
  }
  const { language, theme, model, system, sampling } = isRecord(value) ? value : {};
  return {
    language: language === "en" || language === "zh" ? language : "auto",
    theme: theme === "light" || theme === "dark" ? theme : "auto",
    model: typeof model === "string" ? model : null,
    system: typeof system === "string" ? system : "",
    sampling: readSampling(sampling),
  };
}

export function savePrefs(prefs: Prefs): void {
  try {
    localStorage.setItem(PREFS, JSON.stringify(prefs));
  } catch {
    // A window that stores nothing has its settings until it is closed.
  }
}

export function languageOf(prefs: Prefs): Language {
  return prefs.language === "auto" ? browserLanguage() : prefs.language;
}

export function applyTheme(theme: Theme): void {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export interface SavedKey {
  key: string | null;
  isKept: boolean;
}

export function loadKey(): SavedKey {
  try {
    const kept = localStorage.getItem(KEY);
    return { key: kept ?? sessionStorage.getItem(KEY), isKept: kept !== null };
  } catch {
    return { key: null, isKept: false };
  }
}

export function saveKey({ key, isKept }: SavedKey): void {
  try {
    localStorage.removeItem(KEY);
    sessionStorage.removeItem(KEY);
    if (key !== null) (isKept ? localStorage : sessionStorage).setItem(KEY, key);
  } catch {
    // It is in memory until the window is closed.
  }
}
