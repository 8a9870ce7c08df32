// A model's Markdown becomes elements. The text is hostile: it may repeat what a web page or a document told the
// model to say. So raw HTML stays text, nothing is loaded, links are only followed when clicked, and what markdown-it
// makes goes through DOMPurify, which lets through the few elements and attributes named here.

import DOMPurify from "dompurify";
import MarkdownIt from "markdown-it";

import { copyText, h, icon } from "./dom";
import { highlight } from "./highlight";
import { label, t } from "./i18n";

const TAGS = ["a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre"];
TAGS.push("s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul");

const markdown = new MarkdownIt({ html: false, linkify: true, breaks: true, highlight });
// A word with a dot in it is no address.
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false });

const { rules } = markdown.renderer;

// An image would be fetched from wherever the text says, with whatever the text put into its address.
rules.image = (tokens, at) => {
  const token = tokens[at]!;
  const { escapeHtml } = markdown.utils;
  const href = escapeHtml(String(token.attrGet("src") ?? ""));
  const text = t("image", { text: token.content || href });
  return `<a href="${href}">${escapeHtml(text)}</a>`;
};

// Columns are aligned by classes: the page's policy has no place for style attributes.
rules.th_open = rules.td_open = (tokens, at, options, _env, self) => {
  const token = tokens[at]!;
  const side = /text-align:(left|center|right)/.exec(String(token.attrGet("style") ?? ""));
  token.attrs = side ? [["class", `align-${side[1]}`]] : [];
  return self.renderToken(tokens, at, options);
};

DOMPurify.addHook("uponSanitizeAttribute", (_, attribute) => {
  if (attribute.attrName === "class") {
    const names = attribute.attrValue.split(/\s+/).filter((name) => /^(hljs|language|align)-[\w+#.-]{1,40}$/.test(name));
    attribute.attrValue = names.join(" ");
  }
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (!(node instanceof HTMLAnchorElement) && node.nodeName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
  // Whoever reads sees where a link goes, whatever it calls itself.
  node.setAttribute("title", t("linkTo", { url: node.getAttribute("href") ?? "" }));
});

function sanitize(html: string): DocumentFragment {
  return DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["class", "href", "start"],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
}

interface Block {
  source: string;
  nodes: ChildNode[];
}

/** An element that shows a Markdown text which grows: only the blocks that have changed are made anew. */
export class MarkdownView {
  readonly element = h("div", { class: "markdown" });
  #blocks: Block[] = [];
  #text: string | null = null;

  show(text: string): void {
    if (text === this.#text) return;
    this.#text = text;
    const env = {};
    const tokens = markdown.parse(text, env);
    const lines = text.split("\n");
    // A link's target may be anywhere in the text.
    const targets = JSON.stringify("references" in env ? env.references : null);
    const old = this.#blocks;
    const blocks: Block[] = [];
    let isSame = true;
    for (let start = 0; start < tokens.length; ) {
      let end = start + 1;
      if (tokens[start]!.nesting === 1) {
        while (end < tokens.length && !(tokens[end]!.level === 0 && tokens[end]!.nesting === -1)) end++;
        end++;
      }
      const [first, last] = tokens[start]!.map ?? [0, lines.length];
      const source = `${targets}\n${tokens[start]!.type}\n${lines.slice(first, last).join("\n")}`;
      isSame &&= old[blocks.length]?.source === source;
      if (isSame) {
        blocks.push(old[blocks.length]!);
      } else {
        for (const stale of old.slice(blocks.length)) for (const node of stale.nodes) node.remove();
        const fragment = sanitize(markdown.renderer.render(tokens.slice(start, end), markdown.options, env));
        decorate(fragment);
        blocks.push({ source, nodes: [...fragment.childNodes] });
        this.element.append(fragment);
      }
      start = end;
    }
    for (const stale of old.slice(blocks.length)) for (const node of stale.nodes) node.remove();
    this.#blocks = blocks;
  }
}

/** Code gets a head with its language and a button to copy it; wide tables scroll by themselves. */
function decorate(fragment: DocumentFragment): void {
  for (const pre of fragment.querySelectorAll("pre")) {
    const code = pre.querySelector("code");
    const language = /language-([\w+#.-]+)/.exec(code?.className ?? "")?.[1] ?? "";
    const copy = h("button", { type: "button", class: "quiet small" }, icon("copy"));
    label(copy, t("copy"));
    copy.addEventListener("click", () => void copied(copy, pre.textContent ?? ""));
    pre.tabIndex = 0;
    const block = h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, language), copy));
    pre.replaceWith(block);
    block.append(pre);
  }
  for (const table of fragment.querySelectorAll("table")) {
    const block = h("div", { class: "table", tabindex: "0" });
    table.replaceWith(block);
    block.append(table);
  }
}

/** Copies, and says so on the button for a moment. */
export async function copied(button: HTMLButtonElement, text: string): Promise<void> {
  const good = await copyText(text);
  label(button, t(good ? "copied" : "copyFailed"));
  button.replaceChildren(icon(good ? "check" : "close"));
  setTimeout(() => {
    label(button, t("copy"));
    button.replaceChildren(icon("copy"));
  }, 1500);
}
