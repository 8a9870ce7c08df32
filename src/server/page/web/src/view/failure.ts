// What went wrong, in the user's words, and what to do about it.

import type { ApiError } from "../api";
import { h, icon } from "../dom";
import { t, type Text } from "../i18n";

interface Explained {
  title: Text;
  /** In place of what the server says. */
  text?: Text;
  asksKey?: boolean;
}

export function explain(error: ApiError, hasKey: boolean): Explained {
  if (error.status === 401) {
    return hasKey
      ? { title: "errorKeyTitle", text: "errorKeyText", asksKey: true }
      : { title: "errorNoKeyTitle", text: "errorNoKeyText", asksKey: true };
  }
  switch (error.code) {
    case "context_length_exceeded":
      return { title: "errorContextTitle", text: "errorContextText" };
    case "model_loading":
      return { title: "errorLoadingTitle" };
    case "shutting_down":
      return { title: "errorDownTitle" };
    case "queue_full":
    case "queue_timeout":
      return { title: "errorBusyTitle", text: "errorBusyText" };
    case "unreachable":
      return { title: "errorUnreachableTitle", text: "errorUnreachableText" };
    case "connection_lost":
      return { title: "errorLostTitle", text: "errorUnreachableText" };
    default:
      if (error.status === 403) return { title: "errorForbiddenTitle", asksKey: true };
      return { title: error.status === 429 ? "errorRateTitle" : "errorTitle" };
  }
}

/** An event: the user wants to enter a key. */
export const ASK_KEY = "ask-key";

export function failureCard(error: ApiError, hasKey: boolean, again: () => void): HTMLElement {
  const { title, text, asksKey } = explain(error, hasKey);
  const retry = h("button", { type: "button", class: "plain" }, t("retry"));
  retry.addEventListener("click", again);
  const buttons = h("div", { class: "buttons" }, retry);
  if (asksKey) {
    const key = h("button", { type: "button", class: "primary" }, t("enterKey"));
    key.addEventListener("click", () => key.dispatchEvent(new Event(ASK_KEY, { bubbles: true })));
    buttons.append(key);
  }
  const said = text ? t(text) : error.message;
  const card = h("div", { class: "failure", role: "alert" }, icon("alert"), h("div", {}, h("strong", {}, t(title)), h("p", {}, said), buttons));
  if (error.retryAfterS !== null) waitFor(retry, error.retryAfterS);
  return card;
}

/** The server has said when it may be possible. */
function waitFor(button: HTMLButtonElement, seconds: number): void {
  const until = performance.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? t("retryIn", { n: left }) : t("retry");
    if (left > 0) setTimeout(tick, 250);
  };
  tick();
}
