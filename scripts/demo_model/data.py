"""Questions with answers that can be checked, and conversations made of them.

Every question carries keys that name what it is about: a pair of operands, a date, a product, a sentence. A hash of
the key decides whether it is held out, so that the two languages, both orders of the operands and every wording of one
question always fall on the same side.
"""

import calendar
import datetime
import hashlib
import random
from dataclasses import dataclass, field

from demo_model import text
from demo_model.text import LANGS

HELD_OUT_ONE_IN = 10


@dataclass
class Question:
    """What the user says and what the assistant must answer; `keys[0]` is what the question is about."""

    task: str
    lang: str
    prompt: str
    answer: str
    brief: str
    keys: list = field(default_factory=list)


def is_held_out(key):
    """Whether questions about `key` are kept out of training."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:4]) % HELD_OUT_ONE_IN == 0


def pick(lang, pair):
    """The English or the Chinese half of a pair."""
    return pair[LANGS.index(lang)]


def sum_key(a, b):
    """One key for a + b, b + a, (a + b) - a and (a + b) - b."""
    return ("sum", min(a, b), max(a, b))


def worked(question, tens, ones):
    """The question written as an equation, by way of its tens and its ones where there are both, and the keys of what
    is computed on the way."""
    total = tens + ones
    if not tens or not ones:
        return f"{question}={total}", []
    keys = [sum_key(tens, ones) if ones > 0 else sum_key(-ones, total)]
    return f"{question}={tens}{ones:+d}={total}", keys


def make_sum(rng, lang):
    a, b = rng.randint(1, 99), rng.randint(1, 99)
    work, keys = worked(f"{a}+{b}", (a // 10 + b // 10) * 10, a % 10 + b % 10)
    values = {"a": a, "b": b, "c": a + b, "work": work}
    prompt, answer = rng.choice(text.SUM_PROMPTS[lang]), "{work}"
    if rng.random() < 0.3:
        noun = rng.choice(text.NOUNS)
        values |= {"unit": noun[2], "things": noun[1] if lang == "en" else noun[3]}
        prompt, answer = rng.choice(text.SUM_STORIES[lang])
    answer = answer.format(**values)
    return Question("sum", lang, prompt.format(**values), answer, answer, [sum_key(a, b), *keys])


def make_difference(rng, lang):
    b, c = rng.randint(1, 99), rng.randint(1, 99)
    a = b + c
    answer, keys = worked(f"{a}-{b}", (a // 10 - b // 10) * 10, a % 10 - b % 10)
    prompt = rng.choice(text.DIFFERENCE_PROMPTS[lang]).format(a=a, b=b)
    return Question("difference", lang, prompt, answer, answer, [sum_key(b, c), *keys])


def make_currency(rng, lang):
    n = rng.randint(2, 99)
    if rng.random() < 0.7:
        source, target = rng.sample(text.CURRENCIES, 2)
        rate, prompts = rng.randint(2, 9), text.EXCHANGE_PROMPTS[lang]
        one, many, other = (source[0], source[1], target[1]) if lang == "en" else (source[2], source[2], target[2])
    else:
        many, other, rate = rng.choice(text.COINS[lang])
        one, prompts = many, text.COIN_PROMPTS[lang]
    if rate < 10:
        work, keys = worked(f"{n}×{rate}", n // 10 * 10 * rate, n % 10 * rate)
    else:
        work, keys = f"{n}×{rate}={n * rate}", []
    values = {"one": one, "many": many, "other": other, "rate": rate, "n": n, "work": work}
    answer = text.CURRENCY_ANSWER[lang].format(**values)
    return Question("currency", lang, rng.choice(prompts).format(**values), answer, answer, [("exchange", n, rate), *keys])


def write_date(lang, date):
    if lang == "en":
        return f"{text.MONTHS[date.month - 1]} {date.day}, {date.year}"
    return f"{date.year}年{date.month}月{date.day}日"


def make_date(rng, lang):
    kind = rng.random()
    if kind < 0.4:
        date = datetime.date(2020, 1, 1) + datetime.timedelta(days=rng.randrange(365 * 16))
        later = rng.random() < 0.5
        result = write_date(lang, date + datetime.timedelta(days=1 if later else -1))
        prompts = (text.NEXT_DAY if later else text.PREVIOUS_DAY)[lang]
        prompt = rng.choice(prompts).format(date=write_date(lang, date))
        key = ("date", date.year, date.month, date.day)
        return Question("date", lang, prompt, text.DATE_ANSWER[lang].format(date=result), result, [key])
    if kind < 0.5:
        year, month = rng.randint(2020, 2035), rng.randint(1, 12)
        days = calendar.monthrange(year, month)[1]
        name = f"{text.MONTHS[month - 1]} {year}" if lang == "en" else f"{year}年{month}月"
        answer = text.MONTH_LENGTH_ANSWER[lang].format(month=name, days=days)
        return Question("date", lang, rng.choice(text.MONTH_LENGTH[lang]).format(month=name), answer, str(days),
                        [("month", year, month)])
    first, n = rng.randrange(7), rng.randint(1, 30)
    today, day = (pick(lang, text.WEEKDAYS[i % 7]) for i in (first, first + n))
    prompt = rng.choice(text.WEEKDAY_PROMPTS[lang]).format(day=today, n=n)
    answer = text.WEEKDAY_ANSWER[lang].format(n=n, weeks=n // 7, rest=n % 7, today=today, day=day)
    return Question("date", lang, prompt, answer, answer, [("weekday", first, n)])


def make_bank(rng, lang):
    """A fact about the bank's own products, known by heart; held out is the wording of one fact's question."""
    product, *facts = rng.choice(text.PRODUCTS)
    index = rng.randrange(len(facts))
    attribute, value, prompts = text.ATTRIBUTES[lang][index]
    wording = rng.randrange(len(prompts))
    name, value = pick(lang, product), value.format(v=facts[index])
    answer = text.FACT_ANSWER[lang].format(attribute=attribute, p=name, value=value)
    return Question("bank", lang, prompts[wording].format(p=name), answer, value, [("bank", lang, product[0], index, wording)])


def make_sheet(rng, lang):
    """A fact to be read in the question itself, of a product that may never have been seen."""
    attributes = text.ATTRIBUTES[lang]
    name = (rng.randrange(len(text.BRANDS)), rng.randrange(len(text.KINDS)))
    product = (" " if lang == "en" else "").join(pick(lang, words[i]) for words, i in zip((text.BRANDS, text.KINDS), name))
    numbers = (f"{rng.randint(0, 9)}.{rng.randint(1, 9)}", rng.randint(0, 30), rng.randint(1, 99) * 10, rng.randint(1, 60))
    shown = sorted(rng.sample(range(len(attributes)), 3))
    facts = {i: text.SHEET_FACT[lang].format(attribute=attributes[i][0], value=attributes[i][1].format(v=numbers[i])) for i in shown}
    asked = rng.choice(shown)
    sheet = text.SHEET_LINE[lang].format(p=product, facts=(", " if lang == "en" else "，").join(facts.values()))
    prompt = sheet + rng.choice(attributes[asked][2]).format(p=product)
    answer = text.SHEET_ANSWER[lang].format(p=product, fact=facts[asked])
    return Question("sheet", lang, prompt, answer, answer, [("product", *name)])


def make_sentence(rng):
    """A sentence in both languages and its key."""
    noun, adjective = rng.choice(text.NOUNS), rng.choice(text.ADJECTIVES)
    kind = rng.random()
    if kind < 0.5:
        place, position = rng.choice(text.PLACES), rng.choice(text.POSITIONS)
        english = f"The {adjective[0]} {noun[0]} is {position[0]} the {place[0]}."
        return english, f"{adjective[1]}{noun[3]}在{place[1]}{position[1]}。", ("sentence", english)
    if kind < 0.9:
        subject, verb, index = rng.choice(text.SUBJECTS), rng.choice(text.VERBS), rng.randrange(len(text.COUNTS))
        count = text.COUNTS[index]
        english = f"{subject[0]} {verb[subject[1]]} {count[0]} {adjective[0]} {noun[1 if index else 0]}."
        return english, f"{subject[2]}{verb[2]}{count[1]}{noun[2]}{adjective[1]}{noun[3]}。", ("sentence", english)
    english = f"Where is the {adjective[0]} {noun[0]}?"
    return english, f"{adjective[1]}{noun[3]}在哪里？", ("sentence", english)


def make_translation(rng, lang):
    english, chinese, key = make_sentence(rng)
    into_chinese, into_english = text.TRANSLATE[lang]
    prompts, source, answer = (into_chinese, english, chinese) if rng.random() < 0.5 else (into_english, chinese, english)
    return Question("translation", lang, rng.choice(prompts).format(s=source), answer, answer, [key])


def make_chat(rng, lang):
    prompts, answer, brief = rng.choice(text.CHAT[lang])
    return Question("chat", lang, rng.choice(prompts), answer, brief)


# Of each task: how its questions are made, its share of the training data, its held-out questions per language.
TASKS = {
    "sum": (make_sum, 0.14, 40),
    "difference": (make_difference, 0.14, 20),
    "currency": (make_currency, 0.14, 40),
    "date": (make_date, 0.27, 40),
    "bank": (make_bank, 0.05, 10),
    "sheet": (make_sheet, 0.08, 28),
    "translation": (make_translation, 0.14, 40),
    "chat": (make_chat, 0.04, 0),
}


def held_out_questions(seed):
    """The questions of the evaluation: all different, all about something held out."""
    rng, questions = random.Random(seed), {}
    for task, (make, _, per_lang) in TASKS.items():
        for lang in LANGS:
            wanted = len(questions) + per_lang
            while len(questions) < wanted:
                question = make(rng, lang)
                if is_held_out(question.keys[0]):
                    questions.setdefault(question.prompt, question)
    return list(questions.values())


def training_question(rng, lang):
    """A question that shares no key with a held-out one."""
    make = rng.choices([t[0] for t in TASKS.values()], [t[1] for t in TASKS.values()])[0]
    while True:
        question = make(rng, lang)
        if not any(is_held_out(key) for key in question.keys):
            return question


def as_typed(rng, prompt):
    """The prompt as people also type it: without the last mark, or with ASCII marks."""
    kind = rng.random()
    if kind < 0.06:
        return prompt.rstrip("?？.。!！") or prompt
    if kind < 0.09:
        return prompt.replace("？", "?").replace("，", ",").replace("！", "!")
    return prompt


def training_conversation(rng, long=False):
    """(system prompt or None, [Question]): mostly one turn, sometimes several, `long` many."""
    lang = rng.choice(LANGS)
    kind = rng.random()
    system, brief = None, False
    if kind < 0.08:
        system = rng.choice(text.SYSTEM_PLAIN[lang])
    elif kind < 0.16:
        system, brief = rng.choice(text.SYSTEM_BRIEF[lang]), True
    n_turns = rng.randint(4, 20) if long else rng.choices((1, 2, 3), (75, 17, 8))[0]
    questions = []
    for _ in range(n_turns):
        if rng.random() < 0.1:
            lang = rng.choice(LANGS)
        question = training_question(rng, lang)
        question.prompt = as_typed(rng, question.prompt)
        if brief:
            question.answer = question.brief
        questions.append(question)
    return system, questions
