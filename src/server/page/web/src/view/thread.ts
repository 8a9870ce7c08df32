// The conversation that is shown, and what went wrong in it.

import type { Running } from "../answers";
import type { App } from "../app";
import { path } from "../conversation";
import { byId, h } from "../dom";
import { t } from "../i18n";
import type { Announcer } from "./announcer";
import { failureCard } from "./failure";
import { MessageView } from "./message";

/** So near to the end, in pixels, the view follows the answer. */
const NEAR_PX = 80;

export class ThreadView {
  readonly #app: App;
  readonly #announcer: Announcer;
  readonly #scroller = byId("scroller", HTMLElement);
  readonly #messages = byId("messages", HTMLElement);
  readonly #empty = byId("empty", HTMLElement);
  readonly #toEnd = byId("to-end", HTMLButtonElement);
  #views: MessageView[] = [];
  #follows = true;
  #frame = 0;

  constructor(app: App, announcer: Announcer) {
    this.#app = app;
    this.#announcer = announcer;
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#toEnd.addEventListener("click", () => this.#goToEnd());
    new ResizeObserver(() => {
      if (this.#follows) this.#goToEnd();
      else this.#scrolled();
    }).observe(this.#messages);
  }

  /** Shows the conversation from its start; a view whose message is still there stays as it is. */
  show(): void {
    const messages = path(this.#app.current);
    const old = new Map(this.#views.map((view) => [view.message, view]));
    this.#views = messages.map((message) => {
      const view = old.get(message);
      view?.update();
      return view ?? new MessageView(this.#app, message);
    });
    this.#messages.replaceChildren(...this.#views.map((view) => view.element));
    this.#empty.hidden = messages.length > 0;
    this.#showFailure();
    this.#follows = true;
    this.#goToEnd();
  }

  /** All views are made anew, in the language of now. */
  rebuild(): void {
    this.#views = [];
    this.show();
  }

  begun(running: Running): void {
    if (running.conversation !== this.#app.current) return;
    this.#announcer.say(t("answering"));
    this.show();
  }

  wrote(running: Running, text: string): void {
    if (running.conversation !== this.#app.current) return;
    this.#announcer.write(text);
    // As often as the screen shows it, however often it changes.
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#views.at(-1)?.update();
    });
  }

  ended(running: Running): void {
    if (running.conversation !== this.#app.current) return;
    const { ending } = running.message;
    this.#announcer.end(ending === "stopped" ? t("wasStopped") : ending === "error" ? "" : t("answered"));
    // The place that the user has scrolled to stays.
    const { scrollTop } = this.#scroller;
    const follows = this.#follows;
    this.show();
    if (!follows) this.#scroller.scrollTop = scrollTop;
  }

  #showFailure(): void {
    const { current, answers, running } = this.#app;
    const last = this.#views.at(-1)?.message;
    if (running || !last) return;
    const failure = answers.failure(current.id);
    const parent = last.role === "user" ? last.id : last.parent;
    const again = () => parent !== null && this.#app.regenerate(parent);
    if (failure?.at === last.id) {
      this.#messages.append(failureCard(failure.error, this.#app.savedKey.key !== null, again));
    } else if (last.role === "user") {
      // The page was closed before the answer began.
      const button = h("button", { type: "button", class: "plain answer" }, t("answer"));
      button.addEventListener("click", again);
      this.#messages.append(button);
    }
  }

  #goToEnd(): void {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#follows = true;
    this.#toEnd.hidden = true;
  }

  #scrolled(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    this.#toEnd.hidden = this.#follows;
  }
}
