// What the page can do, apart from how it looks: which conversation is shown, and what happens to it.

import { Answers, type Running } from "./answers";
import { Api, ApiError, type Model } from "./api";
import { append, newConversation, show, type Conversation, type Message } from "./conversation";
import { loadKey, loadPrefs, saveKey, savePrefs, type Prefs, type SavedKey } from "./prefs";
import type { Sampling } from "./sampling";
import { Store } from "./store";

/** Whether the server can be asked. */
export type Connection =
  | { kind: "connecting" }
  | { kind: "loading" }
  | { kind: "ready"; models: Model[] }
  | { kind: "failed"; error: ApiError };

/** What the views are told. */
export interface View {
  /** Another conversation is shown, or the one that is shown has another branch. */
  shown(): void;
  /** Titles, order or number of conversations have changed. */
  listed(): void;
  connected(): void;
  begun(running: Running): void;
  wrote(running: Running, text: string): void;
  ended(running: Running): void;
}

const LOADING_POLL_MS = 1000;

export class App {
  readonly api = new Api();
  readonly store = new Store();
  readonly answers: Answers;
  readonly prefs: Prefs = loadPrefs();
  savedKey: SavedKey = loadKey();
  connection: Connection = { kind: "connecting" };
  /** What the model's file recommends, where the server tells. */
  recommended: Sampling = {};
  /** The conversation that is shown. It is stored once it has a message. */
  current: Conversation;
  #view: View;
  #attempt = 0;

  constructor(view: View) {
    this.#view = view;
    this.api.key = this.savedKey.key;
    this.current = this.#fresh();
    this.answers = new Answers(this.api, this.store, {
      begun: (running) => {
        this.#view.listed();
        this.#view.begun(running);
      },
      wrote: (running, text) => this.#view.wrote(running, text),
      ended: (running) => {
        this.#view.ended(running);
        this.#view.listed();
      },
    });
    this.store.keeps = (id) => this.answers.running(id) !== undefined;
    this.store.onOtherWindow = (id) => {
      this.#view.listed();
      if (id !== this.current.id) return;
      this.current = this.store.get(id) ?? this.#fresh();
      this.#view.shown();
    };
  }

  async start(): Promise<void> {
    await this.store.open();
    this.openFromAddress();
    this.#view.listed();
    await this.connect();
  }

  #fresh(): Conversation {
    return newConversation(this.prefs.system, this.prefs.sampling);
  }

  /** The model that answers: the one chosen, if the server has it. */
  get model(): Model | null {
    return this.connection.kind === "ready" ? this.#chosen(this.connection.models) : null;
  }

  #chosen(models: Model[]): Model | null {
    return models.find((model) => model.id === this.prefs.model) ?? models[0] ?? null;
  }

  async #recommendedOf(model: Model | null): Promise<Sampling> {
    return model === null ? {} : this.api.recommended(model.id).catch(() => ({}));
  }

  /** From now on this model is asked. */
  async choose(id: string): Promise<void> {
    this.prefs.model = id;
    this.savePrefs();
    this.#view.connected();
    const recommended = await this.#recommendedOf(this.model);
    if (this.prefs.model !== id) return;
    this.recommended = recommended;
    this.#view.connected();
  }

  get running(): Running | undefined {
    return this.answers.running(this.current.id);
  }

  /** Asks the server for its models; while it loads one, again and again. */
  async connect(): Promise<void> {
    const attempt = ++this.#attempt;
    for (;;) {
      let connection: Connection;
      try {
        const models = await this.api.models();
        // With several there is one to ask while another is being loaded, and the server has requests wait.
        const isLoading = models.length === 1 && models[0]?.isLoading === true;
        connection = isLoading ? { kind: "loading" } : { kind: "ready", models };
        this.recommended = await this.#recommendedOf(this.#chosen(models));
      } catch (error) {
        const known = error instanceof ApiError ? error : new ApiError(0, "internal", String(error));
        connection = known.code === "model_loading" ? { kind: "loading" } : { kind: "failed", error: known };
      }
      if (attempt !== this.#attempt) return;
      this.connection = connection;
      this.#view.connected();
      if (connection.kind !== "loading") return;
      await new Promise((resolve) => setTimeout(resolve, LOADING_POLL_MS));
    }
  }

  async setKey(saved: SavedKey): Promise<void> {
    this.savedKey = saved;
    this.api.key = saved.key;
    saveKey(saved);
    await this.connect();
  }

  savePrefs(): void {
    savePrefs(this.prefs);
  }

  /** Stores the conversation, if there is something in it. */
  changed(conversation: Conversation): void {
    if (conversation.messages.length > 0) this.answers.save(conversation);
    this.#view.listed();
  }

  /** The conversation that the address names, or a new one. */
  openFromAddress(): void {
    const id = /^#\/c\/([\w-]+)$/.exec(location.hash)?.[1];
    if (id === undefined && this.current.messages.length === 0) return;
    const found = id === undefined ? undefined : this.store.get(id);
    if (found === this.current) return;
    this.current = found ?? this.#fresh();
    this.#view.shown();
  }

  open(conversation: Conversation): void {
    this.current = conversation;
    location.hash = `#/c/${conversation.id}`;
    this.#view.shown();
  }

  openNew(): void {
    this.current = this.#fresh();
    history.pushState(null, "", location.pathname + location.search);
    this.#view.shown();
  }

  /** A file has brought conversations. */
  imported(): void {
    this.current = this.store.get(this.current.id) ?? this.current;
    this.#view.shown();
  }

  async remove(conversation: Conversation): Promise<void> {
    this.answers.stop(conversation.id);
    await this.store.delete(conversation.id);
    if (conversation.id === this.current.id) this.openNew();
    this.#view.listed();
  }

  async removeAll(): Promise<void> {
    for (const conversation of this.store.list()) this.answers.stop(conversation.id);
    await this.store.clear();
    this.openNew();
    this.#view.listed();
  }

  /** Sends a new message after what is shown. */
  send(text: string): void {
    const { current } = this;
    if (this.running) return;
    const isNew = current.messages.length === 0;
    const message = append(current, current.head, "user", text);
    if (isNew) history.replaceState(null, "", `#/c/${current.id}`);
    this.#answer(message.id);
  }

  /** Sends a changed message beside the one it was. */
  edit(message: Message, text: string): void {
    if (this.running) return;
    this.#answer(append(this.current, message.parent, "user", text).id);
  }

  /** Answers a message of the user's, again if it was answered before. */
  regenerate(parent: string): void {
    if (!this.running) this.#answer(parent);
  }

  #answer(parent: string): void {
    this.current.head = parent;
    // The view shows the question before the answer begins.
    this.#view.shown();
    void this.answers.answer(this.current, parent, this.model?.id);
  }

  showVersion(id: string): void {
    show(this.current, id);
    this.answers.forgetFailure(this.current.id);
    this.answers.save(this.current);
    this.#view.shown();
  }

  stop(): void {
    this.answers.stop(this.current.id);
  }
}
