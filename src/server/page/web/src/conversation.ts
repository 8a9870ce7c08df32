// A conversation is a tree: an edited question and a regenerated answer are new branches beside the old ones, so
// nothing that was said is lost. What is shown is the path from the root to `head`.

import { readSampling, type Sampling } from "./sampling";

export type Role = "user" | "assistant";

/** How an answer came to be. */
export interface Stats {
  /** Tokens of the prompt and of the answer. */
  nPrompt: number;
  nGenerated: number;
  /** Tokens a second while the answer was written. */
  tokensPerS: number;
  /** Seconds from the request to the first text. */
  firstTextS: number;
}

/** Why an answer ended; "running" is left behind by a page that was closed. */
export type Ending = "stop" | "length" | "stopped" | "error" | "running";

export interface Message {
  id: string;
  /** The message before this one; none for the first. */
  parent: string | null;
  role: Role;
  content: string;
  created: number;
  ending?: Ending;
  stats?: Stats;
}

export interface Conversation {
  id: string;
  title: string;
  /** Milliseconds since 1970. */
  created: number;
  updated: number;
  system: string;
  sampling: Sampling;
  /** All messages of all branches, older ones first. */
  messages: Message[];
  /** The last message of the branch that is shown. */
  head: string | null;
}

const TITLE_LENGTH = 60;

export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation(system: string, sampling: Sampling): Conversation {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, system, sampling: { ...sampling }, messages: [], head: null };
}

export function find(conversation: Conversation, id: string | null): Message | undefined {
  return conversation.messages.find((message) => message.id === id);
}

/** The branch that is shown, from its first message to its last. */
export function path(conversation: Conversation, from: string | null = conversation.head): Message[] {
  const known = new Map(conversation.messages.map((message) => [message.id, message]));
  const found: Message[] = [];
  let message = from === null ? undefined : known.get(from);
  while (message) {
    found.push(message);
    message = message.parent === null ? undefined : known.get(message.parent);
  }
  return found.reverse();
}

/** The other versions of a message, itself among them. */
export function versions(conversation: Conversation, message: Message): Message[] {
  return conversation.messages.filter((other) => other.parent === message.parent && other.role === message.role);
}

/** Adds a message after `parent` and shows its branch. */
export function append(conversation: Conversation, parent: string | null, role: Role, content: string): Message {
  const now = Date.now();
  const message: Message = { id: newId(), parent, role, content, created: now };
  conversation.messages.push(message);
  conversation.head = message.id;
  conversation.updated = now;
  if (conversation.title === "" && role === "user") conversation.title = titleOf(content);
  return message;
}

/** Shows another version: from it to the newest message that follows. */
export function show(conversation: Conversation, id: string): void {
  let head = id;
  for (;;) {
    const next = conversation.messages.findLast((message) => message.parent === head);
    if (!next) break;
    head = next.id;
  }
  conversation.head = head;
}

export function titleOf(text: string): string {
  const line = text.trim().split("\n", 1)[0]!.replaceAll(/\s+/g, " ");
  const characters = Array.from(line);
  return characters.length > TITLE_LENGTH ? `${characters.slice(0, TITLE_LENGTH - 1).join("")}…` : line;
}

/** Reads a conversation from a file that somebody chose; nothing in it is trusted. */
export function readConversation(value: unknown): Conversation | null {
  if (!isRecord(value) || !Array.isArray(value.messages)) return null;
  const { id, title, created, updated, system, head } = value;
  if (!isId(id) || typeof title !== "string" || typeof system !== "string") return null;
  if (!isTime(created) || !isTime(updated)) return null;
  const messages: Message[] = [];
  const known = new Set<string>();
  for (const item of value.messages) {
    const message = readMessage(item);
    // A parent comes before its children, so there are no loops.
    if (!message || known.has(message.id) || (message.parent !== null && !known.has(message.parent))) return null;
    known.add(message.id);
    messages.push(message);
  }
  const isHead = isId(head) && known.has(head);
  return {
    id,
    title: title.slice(0, 200),
    created,
    updated,
    system,
    sampling: readSampling(value.sampling),
    messages,
    head: isHead ? head : (messages.at(-1)?.id ?? null),
  };
}

const ENDINGS: readonly unknown[] = ["stop", "length", "stopped", "error", "running"];

function readMessage(value: unknown): Message | null {
  if (!isRecord(value)) return null;
  const { id, parent, role, content, created, ending } = value;
  if (!isId(id) || !(parent === null || isId(parent)) || typeof content !== "string" || !isTime(created)) return null;
  if (role !== "user" && role !== "assistant") return null;
  const message: Message = { id, parent, role, content, created };
  if (ENDINGS.includes(ending)) message.ending = ending as Ending;
  const stats = readStats(value.stats);
  if (stats) message.stats = stats;
  return message;
}

function readStats(value: unknown): Stats | null {
  if (!isRecord(value)) return null;
  const { nPrompt, nGenerated, tokensPerS, firstTextS } = value;
  const numbers = [nPrompt, nGenerated, tokensPerS, firstTextS];
  if (!numbers.every((number) => typeof number === "number" && Number.isFinite(number) && number >= 0)) return null;
  return { nPrompt, nGenerated, tokensPerS, firstTextS } as Stats;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isId(value: unknown): value is string {
  return typeof value === "string" && /^[\w-]{1,64}$/.test(value);
}

function isTime(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value) && value >= 0 && value <= 8.64e15;
}
