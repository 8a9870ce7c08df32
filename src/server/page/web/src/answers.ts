// Answers while they are written. Each conversation may have one; it goes on while another conversation is shown.

import { ApiError, type Api, type ChatMessage } from "./api";
import { append, path, type Conversation, type Message, type Stats } from "./conversation";
import type { Store } from "./store";

/** What is written is stored this often, in milliseconds. */
const SAVE_EVERY_MS = 1000;

export interface Running {
  readonly conversation: Conversation;
  readonly message: Message;
  readonly abort: AbortController;
  /** When the request was sent and when the first text came, in milliseconds of `performance.now()`. */
  readonly begun: number;
  firstText: number | null;
  /** Pieces of text so far, about as many as tokens. */
  nPieces: number;
}

/** Something went wrong after this message. */
export interface Failure {
  at: string | null;
  error: ApiError;
}

/** What changes, for who shows it. */
export interface Watcher {
  begun(running: Running): void;
  wrote(running: Running, text: string): void;
  ended(running: Running): void;
}

export class Answers {
  readonly #api: Api;
  readonly #store: Store;
  readonly #watcher: Watcher;
  readonly #running = new Map<string, Running>();
  readonly #failures = new Map<string, Failure>();
  /** What storing failed with. */
  onSaveFailed: () => void = () => {};

  constructor(api: Api, store: Store, watcher: Watcher) {
    this.#api = api;
    this.#store = store;
    this.#watcher = watcher;
  }

  running(id: string): Running | undefined {
    return this.#running.get(id);
  }

  failure(id: string): Failure | undefined {
    return this.#failures.get(id);
  }

  forgetFailure(id: string): void {
    this.#failures.delete(id);
  }

  /** Stores what is being written, now. */
  saveAll(): void {
    for (const running of this.#running.values()) this.save(running.conversation);
  }

  save(conversation: Conversation): void {
    this.#store.put(conversation).catch(() => this.onSaveFailed());
  }

  stop(id: string): void {
    this.#running.get(id)?.abort.abort();
  }

  /** Answers the message `parent`, which is the user's. */
  async answer(conversation: Conversation, parent: string, model: string | undefined): Promise<void> {
    if (this.#running.has(conversation.id)) return;
    this.#failures.delete(conversation.id);
    const messages: ChatMessage[] = path(conversation, parent).map(({ role, content }) => ({ role, content }));
    if (conversation.system.trim() !== "") messages.unshift({ role: "system", content: conversation.system });
    const message = append(conversation, parent, "assistant", "");
    message.ending = "running";
    const abort = new AbortController();
    const running: Running = { conversation, message, abort, begun: performance.now(), firstText: null, nPieces: 0 };
    this.#running.set(conversation.id, running);
    this.save(conversation);
    this.#watcher.begun(running);
    let isBroken = false;
    try {
      await this.#read(running, { ...conversation.sampling, ...(model === undefined ? {} : { model }), messages });
      if (message.ending === "running") message.ending = "stop";
    } catch (error) {
      isBroken = true;
      message.ending = abort.signal.aborted ? "stopped" : "error";
      message.stats ??= measured(running, null);
      if (!abort.signal.aborted) this.#failures.set(conversation.id, { at: message.id, error: asApiError(error) });
    }
    this.#running.delete(conversation.id);
    if (message.content === "" && isBroken) this.#withdraw(running);
    conversation.updated = Date.now();
    this.save(conversation);
    this.#watcher.ended(running);
  }

  async #read(running: Running, request: Parameters<Api["chat"]>[0]): Promise<void> {
    const { message, conversation } = running;
    let saved = performance.now();
    for await (const event of this.#api.chat(request, running.abort.signal)) {
      if (event.kind === "text") {
        running.firstText ??= performance.now();
        running.nPieces += 1;
        message.content += event.text;
        this.#watcher.wrote(running, event.text);
        if (performance.now() - saved > SAVE_EVERY_MS) {
          saved = performance.now();
          this.save(conversation);
        }
      } else if (event.kind === "end") {
        message.ending = event.reason === "length" ? "length" : "stop";
        message.stats = measured(running, event.tokensPerS);
      } else if (message.stats) {
        message.stats.nPrompt = event.nPrompt;
        message.stats.nGenerated = event.nGenerated;
      }
    }
  }

  /** An answer that never began leaves no message behind. */
  #withdraw({ conversation, message }: Running): void {
    conversation.messages = conversation.messages.filter((other) => other !== message);
    if (conversation.head === message.id) conversation.head = message.parent;
    const failure = this.#failures.get(conversation.id);
    if (failure) failure.at = message.parent;
  }
}

/** The speed so far, as the page sees it; none before the second piece. */
export function tokensPerS({ firstText, nPieces }: Running): number | null {
  if (firstText === null || nPieces < 2) return null;
  const seconds = (performance.now() - firstText) / 1000;
  return seconds > 0 ? (nPieces - 1) / seconds : null;
}

/** What the page has seen itself; the server tells the rest at the end. */
function measured(running: Running, speed: number | null): Stats {
  return {
    nPrompt: 0,
    nGenerated: running.nPieces,
    tokensPerS: speed ?? tokensPerS(running) ?? 0,
    firstTextS: ((running.firstText ?? performance.now()) - running.begun) / 1000,
  };
}

function asApiError(error: unknown): ApiError {
  return error instanceof ApiError ? error : new ApiError(0, "internal", String(error));
}
