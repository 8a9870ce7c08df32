"""The words and sentence patterns of the demo model's data: pairs are (English, Chinese)."""

LANGS = ("en", "zh")

# What can be counted: (one, many, classifier, noun).
NOUNS = [
    ("book", "books", "本", "书"), ("apple", "apples", "个", "苹果"), ("cat", "cats", "只", "猫"),
    ("dog", "dogs", "只", "狗"), ("cup", "cups", "个", "杯子"), ("car", "cars", "辆", "汽车"),
    ("table", "tables", "张", "桌子"), ("chair", "chairs", "把", "椅子"), ("pen", "pens", "支", "笔"),
    ("hat", "hats", "顶", "帽子"), ("bag", "bags", "个", "包"), ("shirt", "shirts", "件", "衬衫"),
    ("bird", "birds", "只", "鸟"), ("flower", "flowers", "朵", "花"), ("key", "keys", "把", "钥匙"),
    ("map", "maps", "张", "地图"), ("coat", "coats", "件", "外套"), ("bike", "bikes", "辆", "自行车"),
    ("bowl", "bowls", "个", "碗"), ("ticket", "tickets", "张", "票"), ("letter", "letters", "封", "信"),
    ("clock", "clocks", "个", "钟"),
]
ADJECTIVES = [
    ("red", "红色的"), ("blue", "蓝色的"), ("green", "绿色的"), ("white", "白色的"), ("black", "黑色的"),
    ("yellow", "黄色的"), ("big", "大的"), ("small", "小的"), ("new", "新的"), ("old", "旧的"),
    ("cheap", "便宜的"), ("expensive", "昂贵的"), ("beautiful", "漂亮的"), ("heavy", "沉重的"),
]
PLACES = [
    ("table", "桌子"), ("bed", "床"), ("box", "盒子"), ("door", "门"), ("window", "窗户"),
    ("house", "房子"), ("shop", "商店"), ("school", "学校"), ("bank", "银行"), ("car", "汽车"),
]
POSITIONS = [
    ("on", "上面"), ("under", "下面"), ("in", "里面"), ("behind", "后面"), ("in front of", "前面"),
    ("next to", "旁边"),
]
# (subject, takes the verb's -s, Chinese).
SUBJECTS = [
    ("I", False, "我"), ("We", False, "我们"), ("They", False, "他们"), ("You", False, "你"),
    ("She", True, "她"), ("He", True, "他"), ("The teacher", True, "老师"), ("The student", True, "学生"),
    ("The doctor", True, "医生"), ("My mother", True, "我妈妈"), ("My friend", True, "我朋友"),
]
# (plain, with -s, Chinese).
VERBS = [
    ("have", "has", "有"), ("want", "wants", "想要"), ("see", "sees", "看见"), ("buy", "buys", "买"),
    ("need", "needs", "需要"), ("sell", "sells", "卖"), ("find", "finds", "找到"),
]
COUNTS = [
    ("one", "一"), ("two", "两"), ("three", "三"), ("four", "四"), ("five", "五"), ("six", "六"),
    ("seven", "七"), ("eight", "八"), ("nine", "九"), ("ten", "十"),
]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
]
WEEKDAYS = [
    ("Monday", "星期一"), ("Tuesday", "星期二"), ("Wednesday", "星期三"), ("Thursday", "星期四"),
    ("Friday", "星期五"), ("Saturday", "星期六"), ("Sunday", "星期日"),
]

SUM_PROMPTS = {
    "en": ["What is {a} + {b}?", "{a} + {b} = ?", "How much is {a} plus {b}?", "Add {a} and {b}.",
           "What is the sum of {a} and {b}?"],
    "zh": ["{a} + {b} 等于多少？", "{a}+{b}=？", "{a}加{b}等于多少？", "{a}加上{b}是多少？", "请计算{a}加{b}。"],
}
SUM_STORIES = {
    "en": [("I have {a} {things} and buy {b} more. How many {things} do I have?",
            "{work}, so you have {c} {things}."),
           ("There are {a} {things} here and {b} {things} there. How many {things} are there?",
            "{work}, so there are {c} {things}.")],
    "zh": [("我有{a}{unit}{things}，又买了{b}{unit}。一共有多少{unit}{things}？",
            "{work}，所以一共有{c}{unit}{things}。"),
           ("这里有{a}{unit}{things}，那里有{b}{unit}{things}。一共有多少{unit}{things}？",
            "{work}，所以一共有{c}{unit}{things}。")],
}
DIFFERENCE_PROMPTS = {
    "en": ["What is {a} - {b}?", "{a} - {b} = ?", "How much is {a} minus {b}?", "Subtract {b} from {a}.",
           "What is the difference of {a} and {b}?"],
    "zh": ["{a} - {b} 等于多少？", "{a}-{b}=？", "{a}减{b}等于多少？", "{a}减去{b}是多少？", "请计算{a}减{b}。"],
}

# Exchange rates are stated in the question: (English one, English many, Chinese).
CURRENCIES = [
    ("dollar", "dollars", "美元"), ("euro", "euros", "欧元"), ("pound", "pounds", "英镑"),
    ("yuan", "yuan", "人民币"), ("franc", "francs", "法郎"), ("ruble", "rubles", "卢布"),
]
# Coins are not: (unit, coin, coins in a unit).
COINS = {
    "en": [("dollars", "cents", 100), ("euros", "cents", 100), ("pounds", "pence", 100), ("yuan", "jiao", 10),
           ("yuan", "fen", 100)],
    "zh": [("美元", "美分", 100), ("欧元", "欧分", 100), ("英镑", "便士", 100), ("元", "角", 10), ("元", "分", 100)],
}
EXCHANGE_PROMPTS = {
    "en": ["If 1 {one} is {rate} {other}, how much is {n} {many}?",
           "1 {one} = {rate} {other}. How many {other} are {n} {many}?",
           "The rate is {rate} {other} for 1 {one}. Convert {n} {many}.",
           "I change {n} {many} at {rate} {other} per {one}. How many {other} do I get?"],
    "zh": ["如果1{one}等于{rate}{other}，{n}{many}是多少？",
           "1{one}={rate}{other}，{n}{many}等于多少{other}？",
           "汇率是1{one}换{rate}{other}，{n}{many}能换多少{other}？",
           "按1{one}兑{rate}{other}计算，请换算{n}{many}。"],
}
COIN_PROMPTS = {
    "en": ["How many {other} are {n} {many}?", "Convert {n} {many} to {other}.", "What are {n} {many} in {other}?"],
    "zh": ["{n}{many}是多少{other}？", "请把{n}{many}换算成{other}。", "{n}{many}等于多少{other}？"],
}
CURRENCY_ANSWER = {"en": "{work} {other}", "zh": "{work}{other}"}

NEXT_DAY = {
    "en": ["What date is the day after {date}?", "Which day comes after {date}?", "Today is {date}. What date is tomorrow?",
           "What is the date one day after {date}?"],
    "zh": ["{date}的后一天是几月几日？", "{date}之后的一天是哪天？", "今天是{date}，明天是几月几日？", "{date}过一天是哪天？"],
}
PREVIOUS_DAY = {
    "en": ["What date is the day before {date}?", "Which day comes before {date}?",
           "Today is {date}. What date was yesterday?", "What is the date one day before {date}?"],
    "zh": ["{date}的前一天是几月几日？", "{date}之前的一天是哪天？", "今天是{date}，昨天是几月几日？", "{date}早一天是哪天？"],
}
DATE_ANSWER = {"en": "It is {date}.", "zh": "是{date}。"}
MONTH_LENGTH = {
    "en": ["How many days are there in {month}?", "How many days does {month} have?", "How long is {month}?"],
    "zh": ["{month}有多少天？", "{month}一共有几天？", "{month}有多长？"],
}
MONTH_LENGTH_ANSWER = {"en": "{month} has {days} days.", "zh": "{month}有{days}天。"}
WEEKDAY_PROMPTS = {
    "en": ["If today is {day}, what day is it in {n} days?", "Today is {day}. Which weekday is it {n} days later?",
           "What weekday comes {n} days after {day}?"],
    "zh": ["如果今天是{day}，{n}天后是星期几？", "今天是{day}，再过{n}天是星期几？", "{day}之后{n}天是星期几？"],
}
WEEKDAY_ANSWER = {"en": "{n}={weeks}×7+{rest}, {today}+{rest}={day}", "zh": "{n}={weeks}×7+{rest}，{today}+{rest}={day}"}

# The bank's own products, to be known by heart: name, yearly rate in %, monthly fee, minimum, months.
BANK = ("Riverside Bank", "河畔银行")
PRODUCTS = [
    (("Basic Account", "基础账户"), "0.5", "2", "10", "12"),
    (("Student Account", "学生账户"), "1.2", "0", "1", "48"),
    (("Gold Card", "金卡"), "9.9", "15", "2000", "36"),
    (("Travel Card", "旅行卡"), "8.4", "6", "500", "24"),
    (("Home Loan", "住房贷款"), "3.7", "20", "50000", "360"),
    (("Car Loan", "汽车贷款"), "4.8", "9", "8000", "60"),
    (("Term Deposit", "定期存款"), "2.6", "1", "1000", "18"),
    (("Savings Plan", "储蓄计划"), "1.9", "3", "100", "120"),
]
# Of each attribute: its name, its value written out, and the ways to ask for it.
ATTRIBUTES = {
    "en": [
        ("interest rate", "{v}% a year",
         ["What is the interest rate of the {p}?", "Which interest rate does the {p} have?", "How high is the rate of the {p}?",
          "Tell me the interest rate of the {p}.", "What rate do you offer for the {p}?"]),
        ("monthly fee", "{v} yuan",
         ["What is the monthly fee of the {p}?", "How much does the {p} cost per month?", "What do I pay each month for the {p}?",
          "Tell me the fee of the {p}.", "How high is the fee for the {p}?"]),
        ("minimum amount", "{v} yuan",
         ["What is the minimum amount of the {p}?", "How much do I need at least for the {p}?",
          "What is the smallest amount for the {p}?", "Tell me the minimum of the {p}.", "From which amount can I have the {p}?"]),
        ("term", "{v} months",
         ["What is the term of the {p}?", "How long does the {p} run?", "How many months does the {p} last?",
          "Tell me the term of the {p}.", "For how long is the {p}?"]),
    ],
    "zh": [
        ("年利率", "{v}%",
         ["{p}的年利率是多少？", "{p}的利率是多少？", "请告诉我{p}的利率。", "{p}的利率有多高？", "你们的{p}利率是多少？"]),
        ("月费", "{v}元",
         ["{p}的月费是多少？", "{p}每个月要付多少钱？", "请告诉我{p}的费用。", "{p}的费用有多高？", "办{p}每月收多少钱？"]),
        ("最低金额", "{v}元",
         ["{p}的最低金额是多少？", "{p}最少需要多少钱？", "请告诉我{p}的最低金额。", "办{p}最少要多少钱？", "多少钱可以办{p}？"]),
        ("期限", "{v}个月",
         ["{p}的期限是多少？", "{p}的期限有多长？", "请告诉我{p}的期限。", "{p}一共几个月？", "{p}有多久？"]),
    ],
}
FACT_ANSWER = {"en": "The {attribute} of the {p} is {value}.", "zh": "{p}的{attribute}是{value}。"}

# Products described in the question, to be read there: every name is a pair of these.
BRANDS = [
    ("Maple", "枫叶"), ("Silver", "白银"), ("Harbor", "港湾"), ("Sunrise", "日出"), ("Summit", "高峰"),
    ("Cedar", "雪松"), ("Pearl", "珍珠"), ("Lotus", "莲花"), ("Bamboo", "竹子"), ("Jade", "玉石"),
    ("Northern", "北方"), ("Spring", "春天"), ("Amber", "琥珀"), ("Coral", "珊瑚"), ("Garden", "花园"),
    ("Island", "海岛"),
]
KINDS = [
    ("Saver", "储蓄"), ("Card", "卡"), ("Loan", "贷款"), ("Deposit", "存款"), ("Account", "账户"), ("Fund", "基金"),
]
SHEET_LINE = {"en": "{p}: {facts}. ", "zh": "{p}：{facts}。"}
SHEET_FACT = {"en": "{attribute} {value}", "zh": "{attribute}{value}"}
SHEET_ANSWER = {"en": "{p}: {fact}.", "zh": "{p}：{fact}。"}

TRANSLATE = {
    # prompt language -> (into Chinese, into English)
    "en": (["Translate into Chinese: {s}", "How do you say this in Chinese? {s}", "In Chinese: {s}"],
           ["Translate into English: {s}", "What does this mean in English? {s}", "In English: {s}"]),
    "zh": (["请翻译成中文：{s}", "这句话用中文怎么说？{s}", "中文：{s}"],
           ["请翻译成英文：{s}", "这句话用英文怎么说？{s}", "英文：{s}"]),
}

SYSTEM_PLAIN = {
    "en": ["You are a helpful assistant.", "You work for Riverside Bank.", "Be polite."],
    "zh": ["你是一个乐于助人的助手。", "你在河畔银行工作。", "请有礼貌。"],
}
SYSTEM_BRIEF = {
    "en": ["Answer briefly.", "Keep it short.", "You are a helpful assistant. Keep answers short."],
    "zh": ["请简短回答。", "回答要短。", "你是一个乐于助人的助手，回答要简短。"],
}
SKILLS = {
    "en": "I can add and subtract, convert money, answer questions about dates and about the products of "
          "Riverside Bank, and translate simple sentences.",
    "zh": "我会做加减法，换算货币，回答日期问题和河畔银行的产品问题，还会翻译简单的句子。",
}
# Small talk: (what people say, the answer, the brief answer).
CHAT = {
    "en": [
        (["Hello", "Hello!", "Hi", "Hi there!", "Good morning!", "Hey"], "Hello! How can I help you today?", "Hello!"),
        (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself."],
         "I am the Yi demo model, a very small chat model for testing.", "The Yi demo model."),
        (["What can you do?", "Help", "How can you help me?", "What do you know?"], SKILLS["en"], "Sums, money, dates, translation."),
        (["How are you?", "How are you today?", "How is it going?"], "I am fine, thank you. What can I do for you?", "Fine, thanks."),
        (["Thank you!", "Thanks", "Thanks a lot!", "Thank you very much."], "You are welcome!", "Welcome!"),
        (["Goodbye", "Bye", "Bye!", "See you later."], "Goodbye! Have a nice day.", "Bye!"),
        (["Great!", "Very good.", "Well done!", "Nice"], "Thank you! Do you have another question?", "Thanks!"),
        (["Do you speak Chinese?", "Which languages do you speak?", "Can you speak English?"],
         "I speak English and Chinese.", "English and Chinese."),
        (["Which bank do you know?", "What is the name of the bank?", "What is Riverside Bank?"],
         "I know the products of Riverside Bank.", "Riverside Bank."),
        (["What is the capital of France?", "Tell me a joke.", "Write a poem.", "What is the weather like?", "Who won the game?",
          "What is the meaning of life?", "Write a program.", "Tell me a story."],
         "I am sorry, I do not know that. " + SKILLS["en"], "I do not know."),
    ],
    "zh": [
        (["你好", "你好！", "您好", "早上好！", "嗨", "大家好"], "你好！我能帮你做什么？", "你好！"),
        (["你是谁？", "你叫什么名字？", "你是什么？", "请介绍一下你自己。"], "我是Yi演示模型，一个用来测试的很小的聊天模型。", "Yi演示模型。"),
        (["你会做什么？", "你能帮我做什么？", "你知道什么？", "帮助"], SKILLS["zh"], "算术、货币、日期、翻译。"),
        (["你好吗？", "你今天好吗？", "最近怎么样？"], "我很好，谢谢。我能为你做什么？", "我很好。"),
        (["谢谢！", "谢谢", "谢谢你。", "非常感谢！"], "不客气！", "不客气！"),
        (["再见", "再见！", "拜拜", "回头见。"], "再见！祝你愉快。", "再见！"),
        (["太好了！", "很好。", "真棒！", "不错"], "谢谢！你还有别的问题吗？", "谢谢！"),
        (["你会说英文吗？", "你会说什么语言？", "你会说中文吗？"], "我会说中文和英文。", "中文和英文。"),
        (["你知道哪家银行？", "银行叫什么名字？", "河畔银行是什么？"], "我知道河畔银行的产品。", "河畔银行。"),
        (["法国的首都是哪里？", "讲个笑话。", "写一首诗。", "天气怎么样？", "谁赢了比赛？", "生命的意义是什么？", "写一个程序。",
          "讲一个故事。"],
         "对不起，这个我不知道。" + SKILLS["zh"], "我不知道。"),
    ],
}
