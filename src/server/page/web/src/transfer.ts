// Conversations as files: all of them as JSON, which can be read back, or one as Markdown, for people.

import { isRecord, path, readConversation, type Conversation } from "./conversation";
import type { Store } from "./store";

const FORMAT = "yi-conversations";
const MAX_BYTES = 256 << 20;

export function toJson(conversations: Conversation[]): string {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

export function toMarkdown(conversation: Conversation, names: { user: string; assistant: string; system: string }): string {
  const parts = [`# ${conversation.title}`];
  if (conversation.system !== "") parts.push(`## ${names.system}\n\n${conversation.system}`);
  for (const message of path(conversation)) parts.push(`## ${names[message.role]}\n\n${message.content}`);
  return `${parts.join("\n\n")}\n`;
}

/** Reads a file that `toJson` made. Of a conversation that is here already, the version changed last stays. */
export async function importFile(file: File, store: Store): Promise<number | null> {
  if (file.size > MAX_BYTES) return null;
  let value: unknown;
  try {
    value = JSON.parse(await file.text());
  } catch {
    return null;
  }
  if (!isRecord(value) || value.format !== FORMAT || !Array.isArray(value.conversations)) return null;
  const read = value.conversations.map(readConversation);
  // A file with a part that cannot be read is refused as a whole: nothing is left out in silence.
  if (!read.every((conversation) => conversation !== null)) return null;
  const newer = read.filter((conversation) => conversation.updated > (store.get(conversation.id)?.updated ?? -1));
  for (const conversation of newer) await store.put(conversation);
  return newer.length;
}

/** Hands a text to the browser as a download. */
export function download(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
