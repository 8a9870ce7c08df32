// The server's API, as far as the page needs it. Addresses are relative, so the page works below any path.

import { createParser } from "eventsource-parser";

import { isRecord } from "./conversation";
import type { Sampling } from "./sampling";

/** A refusal, or no answer at all (status 0). */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;
  /** Seconds after which it may be possible. */
  readonly retryAfterS: number | null;

  constructor(status: number, code: string, message: string, retryAfterS: number | null = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

export interface Model {
  id: string;
  /** Tokens that a conversation may have, where the server tells. */
  nCtx: number | null;
  /** The server is loading it right now. */
  isLoading: boolean;
}

export interface ChatMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ChatRequest extends Sampling {
  /** The server's own choice where it is absent. */
  model?: string;
  messages: ChatMessage[];
}

/** What an answer sends as it is written. */
export type ChatEvent =
  | { kind: "text"; text: string }
  | { kind: "end"; reason: string; tokensPerS: number | null }
  | { kind: "usage"; nPrompt: number; nGenerated: number };

/** A key must fit into a header. */
export function isKey(key: string): boolean {
  return /^[\x21-\x7e]+$/.test(key);
}

export class Api {
  key: string | null = null;

  async models(): Promise<Model[]> {
    const body = await this.#json("v1/models");
    const data = isRecord(body) && Array.isArray(body.data) ? body.data : [];
    return data.filter(isRecord).flatMap((model) => {
      const nCtx = isRecord(model.meta) && typeof model.meta.n_ctx === "number" ? model.meta.n_ctx : null;
      const isLoading = isRecord(model.status) && model.status.value === "loading";
      return typeof model.id === "string" ? [{ id: model.id, nCtx, isLoading }] : [];
    });
  }

  /** How a model's file recommends to choose tokens. */
  async recommended(model: string): Promise<Sampling> {
    const body = await this.#json(`props?model=${encodeURIComponent(model)}`);
    const settings = isRecord(body) ? body.default_generation_settings : null;
    const params = isRecord(settings) && isRecord(settings.params) ? settings.params : {};
    const found: Sampling = {};
    for (const name of ["temperature", "top_p", "top_k", "min_p"] as const) {
      // The server computes with 32 bits.
      if (typeof params[name] === "number") found[name] = Number(params[name].toPrecision(6));
    }
    return found;
  }

  /** Asks for an answer, and yields it piece by piece. */
  async *chat(request: ChatRequest, signal: AbortSignal): AsyncGenerator<ChatEvent> {
    const body = { ...request, stream: true, stream_options: { include_usage: true } };
    const response = await this.#fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
    if (!response.body) throw new ApiError(0, "connection_lost", "");
    const data: string[] = [];
    const parser = createParser({ onEvent: (event) => void data.push(event.data) });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        throw signal.aborted ? error : new ApiError(0, "connection_lost", String(error));
      });
      if (done) break;
      parser.feed(value);
      for (const item of data.splice(0)) {
        if (item === "[DONE]") return;
        yield* events(item);
      }
    }
    throw new ApiError(0, "connection_lost", "");
  }

  async #json(address: string): Promise<unknown> {
    return (await this.#fetch(address, {})).json();
  }

  async #fetch(address: string, init: RequestInit): Promise<Response> {
    const headers = new Headers(init.headers);
    if (this.key !== null) headers.set("Authorization", `Bearer ${this.key}`);
    let response: Response;
    try {
      response = await fetch(address, { ...init, headers, cache: "no-store", credentials: "same-origin" });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw new ApiError(0, "unreachable", String(error));
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

async function refusal(response: Response): Promise<ApiError> {
  const body: unknown = await response.json().catch(() => null);
  const retryAfter = Number(response.headers.get("Retry-After") ?? NaN);
  const retryAfterS = Number.isFinite(retryAfter) ? retryAfter : null;
  return errorIn(body, response.status, retryAfterS) ?? new ApiError(response.status, "", response.statusText, retryAfterS);
}

function errorIn(body: unknown, status: number, retryAfterS: number | null): ApiError | null {
  const error = isRecord(body) ? body.error : null;
  if (!isRecord(error)) return null;
  return new ApiError(status, String(error.code ?? ""), String(error.message ?? ""), retryAfterS);
}

function* events(data: string): Generator<ChatEvent> {
  let chunk: unknown;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ApiError(0, "connection_lost", "");
  }
  const error = errorIn(chunk, 500, null);
  if (error) throw error;
  if (!isRecord(chunk)) return;
  const choice: unknown = Array.isArray(chunk.choices) ? chunk.choices[0] : null;
  if (isRecord(choice)) {
    const text = isRecord(choice.delta) ? choice.delta.content : null;
    if (typeof text === "string" && text !== "") yield { kind: "text", text };
    if (typeof choice.finish_reason === "string") {
      const speed = isRecord(chunk.timings) ? chunk.timings.predicted_per_second : null;
      yield { kind: "end", reason: choice.finish_reason, tokensPerS: typeof speed === "number" && speed > 0 ? speed : null };
    }
  }
  if (isRecord(chunk.usage)) {
    const { prompt_tokens, completion_tokens } = chunk.usage;
    if (typeof prompt_tokens === "number" && typeof completion_tokens === "number") {
      yield { kind: "usage", nPrompt: prompt_tokens, nGenerated: completion_tokens };
    }
  }
}
