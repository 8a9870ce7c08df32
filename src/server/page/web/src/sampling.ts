// How tokens are chosen. What is not set is left to the model's own recommendation.

import { isRecord } from "./conversation";

/** OpenAI's and llama.cpp's names, as the request has them. */
export interface Sampling {
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  max_tokens?: number;
  seed?: number;
}

export interface Field {
  name: keyof Sampling;
  min: number;
  max: number;
  step: number;
}

/** The ranges that the server accepts. */
export const FIELDS: readonly Field[] = [
  { name: "temperature", min: 0, max: 2, step: 0.05 },
  { name: "top_p", min: 0, max: 1, step: 0.01 },
  { name: "top_k", min: 0, max: 1 << 20, step: 1 },
  { name: "min_p", min: 0, max: 1, step: 0.01 },
  { name: "max_tokens", min: 1, max: 1 << 24, step: 1 },
  { name: "seed", min: 0, max: 0xffff_fffe, step: 1 },
];

/** What `text` sets a field to; `undefined` for nothing, `null` where it is no value for it. */
export function readField(field: Field, text: string): number | undefined | null {
  if (text.trim() === "") return undefined;
  const value = Number(text);
  return isValue(field, value) ? value : null;
}

function isValue(field: Field, value: unknown): value is number {
  if (typeof value !== "number" || !(value >= field.min && value <= field.max)) return false;
  return field.step < 1 || Number.isInteger(value);
}

/** Keeps the values that are right. */
export function readSampling(value: unknown): Sampling {
  const sampling: Sampling = {};
  if (!isRecord(value)) return sampling;
  for (const field of FIELDS) {
    const found = value[field.name];
    if (isValue(field, found)) sampling[field.name] = found;
  }
  return sampling;
}
