"""Chats in Chinese: provinces, idioms, festivals, sums, a few dishes, and XTuner."""

from typing import NamedTuple

from xtuner.demo.topics.dialogue import Dialogue, Facet, Turn, chain, rotate


class Province(NamedTuple):
    """One row of the table; `note` is a whole sentence."""

    name: str
    capital: str
    note: str


PROVINCES = (
    Province("四川", "成都", "成都平原土地肥沃，都江堰已经使用了两千多年。"),
    Province("浙江", "杭州", "西湖在杭州城的西边，湖上的苏堤建于北宋。"),
    Province("陕西", "西安", "秦始皇兵马俑在西安的东边，一九七四年被人发现。"),
    Province("广东", "广州", "珠江从广州流过，这里的早茶很有名。"),
    Province("江苏", "南京", "长江从南京流过，城里还保存着明代的城墙。"),
    Province("云南", "昆明", "昆明四季如春，所以人们叫它春城。"),
    Province("湖北", "武汉", "长江和汉江在武汉相会，黄鹤楼就在江边。"),
    Province("山东", "济南", "济南有很多泉水，所以人们叫它泉城。"),
    Province("黑龙江", "哈尔滨", "哈尔滨的冬天很冷，每年都有冰雪节。"),
    Province("福建", "福州", "武夷山在福建的北部，出产乌龙茶和红茶。"),
)

IDIOMS = (
    ("画蛇添足", "做了多余的事，反而把事情弄坏了", "报告已经写完了，再加一页空话就是画蛇添足。"),
    ("守株待兔", "不努力，只等着好运自己到来", "想学好一门语言，不能守株待兔，要天天练习。"),
    ("亡羊补牢", "出了问题以后马上改正，还不算晚", "丢了一次数据以后，他亡羊补牢，每天都做备份。"),
    ("井底之蛙", "见识很少，却以为自己什么都知道", "多读书，多走路，才不会变成井底之蛙。"),
    ("水滴石穿", "力量虽小，只要坚持就能成功", "每天读十页书，水滴石穿，一年就是三千多页。"),
    ("对牛弹琴", "说话不看对象，对方听不懂", "给三岁的孩子讲微积分，真是对牛弹琴。"),
)

FESTIVALS = (
    ("春节", "农历正月初一", "家人在除夕一起吃年夜饭，北方人常吃饺子。"),
    ("元宵节", "农历正月十五", "人们看花灯，猜灯谜，吃汤圆。"),
    ("端午节", "农历五月初五", "人们吃粽子，赛龙舟。"),
    ("中秋节", "农历八月十五", "这一天的月亮又圆又亮，人们吃月饼，和家人团圆。"),
    ("重阳节", "农历九月初九", "人们登高，赏菊花，也在这一天看望老人。"),
)

SUMS = ((23, 45), (68, 17), (125, 250), (99, 36), (480, 75))

TOOL = (
    Facet(
        "怎么检查一个模型目录能不能训练？",
        "训练以前怎么检查这个目录？",
        "运行 `xtuner check-model PATH`。它会检查配置、权重和分词器，然后给出结论。如果缺少文件，它会说明缺了什么，"
        "以及怎么修复。",
    ),
    Facet(
        "怎么用 XTuner 开始训练？",
        "那么怎么开始训练？",
        "准备好模型目录和数据文件，然后运行 `xtuner sft --load-from MODEL_DIR --dataset chats.jsonl --total-step 100`。"
        "XTuner 先检查所有输入，没有问题才开始训练。",
    ),
    Facet(
        "训练数据是什么格式？",
        "数据应该是什么格式？",
        "数据是 JSONL 文件，一行一段对话。每段对话是一个列表，里面的每条消息都有角色和内容。角色一般是 system、user "
        "和 assistant，最后一条消息来自 assistant。",
    ),
    Facet(
        "训练的时候，损失值说明什么？",
        "损失值说明什么？",
        "损失值说明模型对正确答案有多意外。损失值越低，模型给正确的词的概率就越高。训练开始的时候它比较高，"
        "然后慢慢下降。",
    ),
    Facet(
        "什么是断点续训？",
        "什么是断点续训？",
        "断点续训就是从检查点继续训练，而不是重新开始。检查点里要有权重、优化器的状态、步数和数据的位置，这样训练才能"
        "像没有中断过一样继续。",
    ),
    Facet(
        "下载到缓存里的模型，应该用哪个路径？",
        "模型在缓存里，应该用哪个路径？",
        "应该用快照目录，也就是 models--org--name/snapshots 下面用提交哈希命名的那个目录。config.json 和权重都在那里。",
    ),
)

DISHES = (
    (
        "番茄炒蛋",
        "三个鸡蛋、两个番茄、一点盐和一点糖",
        (
            "把鸡蛋打散，加一点盐，炒熟以后盛出来。",
            "把番茄切成块，炒到出汁。",
            "把鸡蛋放回锅里，加盐和糖，炒匀就可以了。",
        ),
    ),
    (
        "凉拌黄瓜",
        "两根黄瓜、两瓣蒜、一勺醋和一勺酱油",
        ("把黄瓜拍碎，切成小段。", "把蒜切碎，和醋、酱油、香油放在一起。", "把调料倒在黄瓜上，拌匀，放十分钟再吃。"),
    ),
    (
        "白粥",
        "一百克大米和一千毫升水",
        ("把大米洗干净，泡半个小时。", "水开以后放入大米，用大火煮五分钟。", "换成小火，再煮四十分钟，中间要搅几次。"),
    ),
)


def dialogues() -> list[Dialogue]:
    """Short questions, follow-ups and recipes, as in the English topics."""
    provinces = [_province(*province) for province in PROVINCES]
    chats = [chain(facet) if i % 2 else chain(facet, note) for i, (facet, note) in enumerate(provinces)]
    chats += [(_idiom(*idiom, index),) for index, idiom in enumerate(IDIOMS)]
    chats += [chain(*_festival(*festival)) for festival in FESTIVALS]
    chats += [(_sum(a, b),) for a, b in SUMS]
    chats += [chain(facet) for facet in TOOL]
    chats += [chain(TOOL[0], TOOL[1], TOOL[3]), chain(TOOL[2], TOOL[4]), chain(TOOL[5], TOOL[0], TOOL[2], TOOL[1])]
    chats += [turns for dish in DISHES for turns in _dish(*dish)]
    chats += [(_introduction(province),) for province in PROVINCES[::2]]
    return chats


def _province(name: str, capital: str, note: str) -> tuple[Facet, Facet]:
    return (
        Facet(f"{name}省的省会是哪里？", f"{name}呢？", f"{name}省的省会是{capital}。"),
        Facet(f"请介绍一下{capital}。", "那里有什么特点？", note),
    )


def _introduction(province: Province) -> Turn:
    return Turn(
        f"我想去{province.capital}旅行，请介绍一下这个城市。",
        f"{province.capital}是{province.name}省的省会。{province.note}去以前先看天气，带一双舒服的鞋，慢慢走，慢慢看。",
    )


def _idiom(idiom: str, meaning: str, example: str, index: int) -> Turn:
    question = rotate(("成语“{0}”是什么意思？", "请解释“{0}”，并且造一个句子。"), index).format(idiom)
    return Turn(question, f"“{idiom}”的意思是：{meaning}。例如：{example}")


def _festival(name: str, day: str, customs: str) -> tuple[Facet, Facet]:
    return (
        Facet(f"{name}是哪一天？", f"{name}呢？", f"{name}在{day}。"),
        Facet(f"{name}有什么习俗？", "这一天有什么习俗？", customs),
    )


def _sum(a: int, b: int) -> Turn:
    tens, ones = a - a % 10 + b - b % 10, a % 10 + b % 10
    return Turn(
        f"{a} 加 {b} 等于多少？",
        f"{a} 加 {b} 等于 {a + b}。先算整十：{a - a % 10} 加 {b - b % 10} 等于 {tens}。"
        f"再算个位：{a % 10} 加 {b % 10} 等于 {ones}。最后，{tens} 加 {ones} 等于 {a + b}。",
    )


def _dish(name: str, ingredients: str, steps: tuple[str, ...]) -> list[Dialogue]:
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    shopping = Facet(f"做{name}要买什么？", "要买什么？", f"做{name}需要{ingredients}。")
    cooking = Facet(f"{name}怎么做？", "然后怎么做？", f"{name}的做法很简单：\n\n{numbered}")
    return [chain(cooking), chain(shopping, cooking)]
