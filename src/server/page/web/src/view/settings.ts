// The settings: of the conversation that is shown, of the access to the server, and of the page.

import { isKey } from "../api";
import type { App } from "../app";
import { byId, h, icon } from "../dom";
import { label, t, type Text } from "../i18n";
import { applyTheme, type Prefs } from "../prefs";
import { FIELDS, readField, type Field } from "../sampling";
import { download, importFile, toJson } from "../transfer";
import { ask, toast } from "./dialog";

export class SettingsView {
  readonly #app: App;
  readonly #dialog = byId("settings", HTMLDialogElement);
  readonly #system = byId("system", HTMLTextAreaElement);
  readonly #fields = byId("fields", HTMLElement);
  readonly #key = byId("key", HTMLInputElement);
  readonly #keep = byId("keep-key", HTMLInputElement);
  readonly #keyStatus = byId("key-status", HTMLElement);
  readonly #language = byId("language", HTMLSelectElement);
  readonly #theme = byId("theme", HTMLSelectElement);
  readonly #onLanguage: () => void;

  constructor(app: App, onLanguage: () => void) {
    this.#app = app;
    this.#onLanguage = onLanguage;
    byId("open-settings", HTMLButtonElement).addEventListener("click", () => this.open());
    byId("close-settings", HTMLButtonElement).addEventListener("click", () => this.#dialog.close());
    // A click beside the drawer closes it.
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.#dialog.close();
    });
    this.#dialog.addEventListener("close", () => this.#app.changed(this.#app.current));
    this.#system.addEventListener("input", () => (this.#app.current.system = this.#system.value));
    byId("reset", HTMLButtonElement).addEventListener("click", () => this.#reset());
    byId("make-default", HTMLButtonElement).addEventListener("click", () => this.#makeDefault());
    this.#wireAccess();
    this.#wirePage();
  }

  open(): void {
    const app = this.#app;
    this.#system.value = app.current.system;
    this.#showFields();
    this.#key.value = app.savedKey.key ?? "";
    this.#keep.checked = app.savedKey.isKept;
    this.#showKeyHint();
    this.#language.value = app.prefs.language;
    this.#theme.value = app.prefs.theme;
    byId("not-lasting", HTMLElement).hidden = app.store.isLasting;
    byId("delete-all", HTMLButtonElement).disabled = byId("export-all", HTMLButtonElement).disabled = app.store.list().length === 0;
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  openAtKey(): void {
    this.open();
    this.#key.focus();
    this.#key.select();
    this.#key.scrollIntoView({ block: "center" });
  }

  /** The server has answered, or has not: what it says of the key. */
  connected(): void {
    const { connection, savedKey } = this.#app;
    let text: Text | null = null;
    let isBad = false;
    if (connection.kind === "failed") {
      isBad = true;
      if (connection.error.status === 401) text = savedKey.key === null ? "errorNoKeyTitle" : "keyWrong";
      else if (connection.error.status === 0) text = "keyUnknown";
      else text = "errorForbiddenTitle";
    } else if (connection.kind !== "connecting" && savedKey.key !== null) {
      text = "keyGood";
    }
    this.#keyStatus.textContent = text ? t(text) : "";
    this.#keyStatus.classList.toggle("bad", isBad);
    this.#key.setAttribute("aria-invalid", String(isBad && text !== "keyUnknown"));
    this.#showFields();
  }

  #showFields(): void {
    this.#fields.replaceChildren(...FIELDS.map((field) => this.#field(field)));
  }

  #field(field: Field): HTMLElement {
    const { current, recommended } = this.#app;
    const { name } = field;
    const input = h("input", { type: "text", inputmode: "decimal", id: `f-${name}`, autocomplete: "off", "aria-describedby": `h-${name}` });
    input.value = current.sampling[name]?.toString() ?? "";
    const instead = { max_tokens: t("noLimit"), seed: t("random") }[name as string] ?? t("modelsChoice");
    const known = recommended[name];
    input.placeholder = known === undefined ? instead : t("modelsValue", { n: String(known) });
    const hint = h("small", { id: `h-${name}` }, t(`${name}Hint`));
    input.addEventListener("input", () => {
      const value = readField(field, input.value);
      const isBad = value === null;
      input.setAttribute("aria-invalid", String(isBad));
      hint.classList.toggle("bad", isBad);
      const limits = { min: field.min, max: field.max };
      hint.textContent = isBad ? t(field.step < 1 ? "badValue" : "badWhole", limits) : t(`${name}Hint`);
      // A value that is not right changes nothing.
      if (value === undefined) delete current.sampling[name];
      else if (value !== null) current.sampling[name] = value;
    });
    return h("div", { class: "field" }, h("label", { for: input.id }, t(name)), input, hint);
  }

  #reset(): void {
    this.#app.current.system = this.#app.prefs.system;
    this.#app.current.sampling = { ...this.#app.prefs.sampling };
    this.open();
  }

  #makeDefault(): void {
    const { current, prefs } = this.#app;
    prefs.system = current.system;
    prefs.sampling = { ...current.sampling };
    this.#app.savePrefs();
    toast(t("madeDefault"));
  }

  #wireAccess(): void {
    const set = () => {
      const key = this.#key.value.trim();
      if (key !== "" && !isKey(key)) {
        this.#keyStatus.textContent = t("keyMalformed");
        this.#keyStatus.classList.add("bad");
        this.#key.setAttribute("aria-invalid", "true");
        return;
      }
      void this.#app.setKey({ key: key === "" ? null : key, isKept: this.#keep.checked });
    };
    byId("access", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      set();
    });
    this.#key.addEventListener("change", set);
    this.#keep.addEventListener("change", () => {
      this.#showKeyHint();
      set();
    });
    const show = byId("show-key", HTMLButtonElement);
    show.addEventListener("click", () => {
      const isShown = this.#key.type === "password";
      this.#key.type = isShown ? "text" : "password";
      show.replaceChildren(icon(isShown ? "hidden" : "shown"));
      label(show, t(isShown ? "hideKey" : "showKey"));
    });
  }

  #showKeyHint(): void {
    byId("key-hint", HTMLElement).textContent = t(this.#keep.checked ? "keyHintKept" : "keyHint");
  }

  #wirePage(): void {
    const { prefs, store } = this.#app;
    this.#language.addEventListener("change", () => {
      prefs.language = this.#language.value as Prefs["language"];
      this.#app.savePrefs();
      this.#onLanguage();
      this.open();
      this.connected();
    });
    this.#theme.addEventListener("change", () => {
      prefs.theme = this.#theme.value as Prefs["theme"];
      this.#app.savePrefs();
      applyTheme(prefs.theme);
    });
    byId("export-all", HTMLButtonElement).addEventListener("click", () => {
      const day = new Date().toISOString().slice(0, 10);
      download(`yi-conversations-${day}.json`, "application/json", toJson(store.list()));
    });
    const file = byId("import-file", HTMLInputElement);
    byId("import", HTMLButtonElement).addEventListener("click", () => file.click());
    file.addEventListener("change", () => void this.#import(file));
    byId("delete-all", HTMLButtonElement).addEventListener("click", () => void this.#deleteAll());
  }

  async #import(input: HTMLInputElement): Promise<void> {
    const file = input.files?.[0];
    input.value = "";
    if (!file) return;
    const n = await importFile(file, this.#app.store).catch(() => null);
    toast(n === null ? t("importFailed") : t("imported", { n }));
    this.#app.imported();
    this.open();
  }

  async #deleteAll(): Promise<void> {
    const text = t("deleteAllText", { n: this.#app.store.list().length });
    const answer = await ask({ title: "deleteAllTitle", text, action: "deleteAll", isDangerous: true });
    if (answer === null) return;
    await this.#app.removeAll();
    this.open();
  }
}
