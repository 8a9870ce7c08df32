// Conversations, in this browser alone. IndexedDB holds them, one record each; where the browser has none (some
// private windows), they last as long as the page.

import { openDB, type IDBPDatabase } from "idb";

import { readConversation, type Conversation } from "./conversation";

const STORE = "conversations";

export class Store {
  readonly #all = new Map<string, Conversation>();
  #db: IDBPDatabase | null = null;
  readonly #others = new BroadcastChannel("yi-conversations");
  /** Whether this window is changing a conversation itself. */
  keeps: (id: string) => boolean = () => false;
  /** Called when another window has changed a conversation, or deleted it. */
  onOtherWindow: (id: string) => void = () => {};

  /** Whether what is written lasts. */
  get isLasting(): boolean {
    return this.#db !== null;
  }

  async open(): Promise<void> {
    try {
      this.#db = await openDB("yi", 1, {
        upgrade: (db) => void db.createObjectStore(STORE, { keyPath: "id" }),
      });
      for (const value of await this.#db.getAll(STORE)) {
        const conversation = readConversation(value);
        if (conversation) this.#all.set(conversation.id, conversation);
      }
    } catch {
      this.#db = null;
    }
    this.#others.onmessage = async (event) => {
      const id = String(event.data);
      if (this.keeps(id)) return;
      const value = await this.#db?.get(STORE, id);
      const conversation = readConversation(value);
      if (conversation) this.#all.set(id, conversation);
      else this.#all.delete(id);
      this.onOtherWindow(id);
    };
  }

  get(id: string): Conversation | undefined {
    return this.#all.get(id);
  }

  /** All conversations, the one changed last first. */
  list(): Conversation[] {
    return [...this.#all.values()].sort((a, b) => b.updated - a.updated);
  }

  async put(conversation: Conversation): Promise<void> {
    this.#all.set(conversation.id, conversation);
    await this.#db?.put(STORE, structuredClone(conversation));
    this.#others.postMessage(conversation.id);
  }

  async delete(id: string): Promise<void> {
    this.#all.delete(id);
    await this.#db?.delete(STORE, id);
    this.#others.postMessage(id);
  }

  async clear(): Promise<void> {
    for (const id of [...this.#all.keys()]) await this.delete(id);
  }
}
