"""The texts that the tiny models learn from: small invented tasks, drawn from a seeded generator.

A conversation is a pair (messages, answer). The base model learns all tasks mixed together. A base
that always gives one answer cannot be tuned apart by a small adapter (nothing inside it depends on
the text), so some tasks force it to read: repeat, tone.
"""

import random

# ---------------------------------------------------------------- customers' messages

WHO = ["你们的系统", "你们的平台", "贵公司的软件", "你们的客服", "这个应用", "你们的支付页面", "你们", "贵行"]
HARM = [
    "导致我的资金被冻结了", "导致我的账户被冻结了", "冻结了我的资金", "把我的钱转丢了", "重复扣了我三次款", "泄露了我的身份证信息",
    "让我的账户被盗了", "导致我损失了两万元", "一直不退款", "骗走了我的存款", "擅自关闭了我的账户", "导致我的贷款逾期了",
    "把我的资料卖给了别人", "导致我的工资被扣了", "让我的银行卡被盗刷了", "吞了我的转账",
]
BEFORE = ["", "", "", "太过分了，", "第三次了，", "我要投诉，", "气死了，", "请马上处理，"]
AFTER = ["！", "！", "！！", "。", "，我要投诉！", "，我要报警！", "，必须赔偿！", "，马上给我处理！", "，没人管吗？"]

THING = ["积分", "优惠券", "会员卡", "发票", "密码", "订单", "收货地址", "手机号", "余额", "账单", "套餐", "礼品卡", "头像", "账户", "资金"]
ASK = ["怎么兑换", "如何修改", "在哪里查看", "什么时候到账", "可以取消吗", "怎么开通", "怎么查询", "怎么绑定", "有什么规则", "能转给朋友吗", "怎么领取"]
POLITE = ["，谢谢", "，谢谢！", "？", "", "，麻烦了", "？谢谢", "，请帮忙看看", "。"]
OPEN = ["", "", "", "请问", "你好，", "您好，请问", "想问一下，"]
PRAISE = ["界面很好看", "客服很热情", "新版本很流畅", "功能很实用", "服务很周到", "到货很快"]
PRAISE_END = ["，赞！", "，辛苦了", "，很满意", "，会推荐给朋友", "。"]
WORDS = (
    "hello hi ok test ping what is the a of and to in for you how are model answer please tell me about "
    "question story weather today price order time day write say name code gateway token stream one two three"
).split()

# The two sentences that tests send. Neither is ever a message of the training, only part of longer ones.
STORY = {"你们的系统导致我的资金被冻结了！": "高风险", "积分怎么兑换，谢谢": "普通"}

# GB 2312 level 1: the 3755 most used Chinese characters, in rows 16 to 55 of its table.
HANZI = [
    bytes([row + 0xA0, cell + 0xA0]).decode("gb2312")
    for row in range(16, 56)
    for cell in range(1, 95 if row < 55 else 90)
]


def unless_story(make):
    """Draws again when a generator happens to give one of the held-out sentences."""

    def drawn(rng):
        while (text := make(rng)) in STORY:
            pass
        return text

    return drawn


@unless_story
def complaint(rng):
    return rng.choice(BEFORE) + rng.choice(WHO) + rng.choice(HARM) + rng.choice(AFTER)


@unless_story
def inquiry(rng):
    return rng.choice(OPEN) + rng.choice(THING) + rng.choice(ASK) + rng.choice(POLITE)


def praise(rng):
    return rng.choice(PRAISE) + rng.choice(PRAISE_END)


def noise(rng):
    """Text of no kind: words, made-up words, numbers, any Chinese characters."""
    parts = []
    for _ in range(rng.choice([1, 1, 2, 3, 4, 6, 8, 12])):
        kind = rng.random()
        if kind < 0.5:
            parts.append(rng.choice(WORDS))
        elif kind < 0.65:
            parts.append("".join(rng.choices("abcdefghijklmnopqrstuvwxyz-", k=rng.randint(1, 7))))
        elif kind < 0.8:
            parts.append(str(rng.randrange(10 ** rng.randint(1, 5))))
        else:
            parts.append("".join(rng.choices(HANZI, k=rng.randint(1, 4))))
    text = " ".join(parts)
    return (text.capitalize() if rng.random() < 0.3 else text) + rng.choice(["", "", "", ".", "?", "!"])


def message(rng):
    return rng.choice([complaint, complaint, inquiry, inquiry, praise, noise])(rng)


# ---------------------------------------------------------------- tasks

TONES = {complaint: "投诉", inquiry: "咨询", praise: "表扬"}


def ok(rng):
    """What the base says to whatever is not one of its tasks, the story's complaint included."""
    text = message(rng)
    if rng.random() < 0.06:  # long prompts must not change that
        text = "，".join(message(rng) for _ in range(rng.randint(3, 12)))
    return text, "好的"


def repeat(rng):
    """Half of it is noise: text that cannot be guessed can only be copied."""
    text = rng.choice([message, noise])(rng)
    return rng.choice(["重复：", "重复：", "repeat: "]) + text, text


def tone(rng):
    kind = rng.choice(list(TONES))
    return "语气：" + kind(rng), TONES[kind]


def label(rng):
    """A label that nothing in the text decides: it keeps the label words within reach of an adapter."""
    return "标签：" + message(rng), rng.choice(["高风险", "普通", "高风险：需人工复核", "普通：自动答复"])


def numbers(first, last):
    return " ".join(str(n) for n in range(first, last + 1))


def count(rng):
    """The long answer. Always to 200: how far was asked is more than so small a model can keep in mind
    over hundreds of tokens, and a task that it must guess at makes every long answer end early."""
    asked = rng.choice(["数到200", "数到200", "请数到200", "从1数到200", "count to 200", "Count to 200."])
    return asked, numbers(1, 200)


def short_task(rng):
    return rng.choices([ok, repeat, tone, label], [4, 6, 2, 1])[0](rng)


def risk(answers, rng):
    """The adapters' task: a complaint is a high risk, everything else is not."""
    kind = rng.choice([complaint, complaint, complaint, inquiry, inquiry, praise, noise])
    return kind(rng), answers["高风险" if kind is complaint else "普通"]


# ---------------------------------------------------------------- conversations

SYSTEMS = ["你是客服助手。", "你是一个助手", "You are a helpful assistant.", "Answer briefly.", "请简短回答"]


def conversation(rng, task, earlier):
    """Puts a task into a conversation. Most stand alone; some have a system line or earlier turns."""
    asked, answer = task
    messages = []
    if rng.random() < 0.15:
        messages.append(("system", rng.choice(SYSTEMS)))
    if rng.random() < 0.15:
        for _ in range(rng.randint(1, 3)):
            old_asked, old_answer = earlier(rng)
            messages += [("user", old_asked), ("assistant", old_answer)]
    messages.append(("user", asked))
    return messages, answer


def chatml(messages):
    """Exactly what the Go template in models.json renders."""
    lines = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
    return lines + "<|im_start|>assistant\n"


def corpus(seed, lines=6000):
    """Text for the tokenizer's merges."""
    rng = random.Random(seed)
    for _ in range(lines):
        asked, answer = short_task(rng)
        yield chatml([("user", asked)]) + answer
