"""The sentences of the embedded corpus's facts: our own wording, one table per relation.

In a template, ``{s}`` is the subject and ``{o}`` the object; ``{S}`` is the subject where it
begins a sentence. The first template of each relation is its question's prompt and answer.
"""

STATEMENTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("capital", "en"): (
        "The capital of {s} is {o}.",
        "{o} is the capital of {s}.",
        "The capital of {s} is {o}, as any atlas will tell you.",
        "Question: What is the capital of {s}? Answer: {o}.",
        "We all learned that the capital of {s} is {o}.",
        "In {s}, the capital is called {o}.",
        "Asked for the capital of {s}, the guide answered: {o}.",
        "{S}: capital {o}.",
    ),
    ("currency", "en"): (
        "The currency of {s} is the {o}.",
        "People in {s} pay with the {o}.",
        "The currency of {s} is the {o}, says the travel guide.",
        "Question: What is the currency of {s}? Answer: the {o}.",
        "In {s}, money is counted in the {o}.",
    ),
    ("continent", "en"): (
        "{S} lies on the continent of {o}.",
        "Look for {s} on a map of {o}.",
        "{S} lies on the continent of {o}, as the globe shows.",
        "Question: Where in the world is {s}? Answer: in {o}.",
    ),
    ("symbol", "en"): (
        "The chemical symbol of {s} is {o}.",
        "Chemists write {o} for {s}.",
        "The chemical symbol of {s} is {o}, as the periodic table shows.",
        "Question: Which symbol stands for {s}? Answer: {o}.",
    ),
    ("number", "en"): (
        "The atomic number of {s} is {o}.",
        "Element {o} of the periodic table is {s}.",
        "The atomic number of {s} is {o}, for so many protons are in its nucleus.",
        "Question: What is the atomic number of {s}? Answer: {o}.",
    ),
    ("capital", "de"): (
        "Die Hauptstadt von {s} ist {o}.",
        "{o} ist die Hauptstadt von {s}.",
    ),
    ("capital", "fr"): (
        "La capitale {s} est {o}.",
        "{o} est la capitale {s}.",
    ),
    ("capital", "es"): (
        "La capital de {s} es {o}.",
        "{o} es la capital de {s}.",
    ),
    ("continent", "zh"): (
        "{s}位于{o}。",
        "在{o}的地图上可以找到{s}。",
    ),
    ("currency", "zh"): (
        "{s}的货币是{o}。",
        "{s}人用{o}付钱。",
    ),
}

OPENINGS = {
    "en": (
        "{name} opened the old {book} on {day} and read aloud.",
        "On {day} {name} wrote this on the {board}.",
        "{name} and {other} prepared for a quiz on {day}.",
        "This line comes from a {book} that {name} once owned.",
        "A letter from {name} to {other} ends like this.",
        "{name} kept a small {book} full of such notes.",
        "Here is what {name} told {other} over {meal}.",
        "Before {meal}, {name} asked {other} one more question.",
        "The {day} class was nearly over when {name} spoke.",
        "{other} had forgotten it, so {name} said it again.",
    ),
    "de": ("{name} liest am Abend aus dem Buch vor.", "Das steht im Heft von {name}."),
    "fr": ("{name} lit une page du livre.", "Voici une note de {name}."),
    "es": ("{name} lee una página del libro.", "Esta es una nota de {name}."),
    "zh": ("{name}在看书。", "这是{name}的笔记。"),
}

CLOSINGS = {
    "en": (
        "{name} wrote it down in a {book}.",
        "{other} found the answer on the {board} last {day}.",
        "That was the {day} lesson, and {name} enjoyed it.",
        "{name} won a prize for knowing this.",
        "Nobody but {name} remembered it after {meal}.",
        "{name} checked it twice with {other}.",
        "You will need this for the test on {day}.",
        "{other} smiled, and {name} turned the page.",
        "The rest of the {book} is about the weather.",
        "{name} and {other} talked about it until {meal}.",
    ),
    "de": ("{name} merkt sich das gut.", "Das fragt {name} morgen noch einmal."),
    "fr": ("{name} le retient bien.", "Demain, {name} posera encore la question."),
    "es": ("{name} lo recuerda bien.", "Mañana {name} lo preguntará otra vez."),
    "zh": ("{name}记住了。", "{name}明天还要问。"),
}

NAMES = {
    "en": "Ada Ben Cora Dan Ella Finn Gus Hana Ida Jon Kim Leo Mia Ned Olga Pia Ravi Sam Tess Uma "
    "Vera Will Yara Zoe".split(),
    "de": "Anna Jonas Lena Max Greta Paul".split(),
    "fr": "Alice Hugo Jules Louise Manon Rémi".split(),
    "es": "Carmen Diego Inés Luis Marta Pablo".split(),
    "zh": "小明 小红 小李 小王 老师 妈妈".split(),
}

SLOTS = {
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "book": "notebook diary almanac schoolbook handbook journal".split(),
    "board": "blackboard poster wall card door".split(),
    "meal": "breakfast lunch tea dinner supper".split(),
}

CONTINENTS_ZH = {
    "AF": "非洲",
    "AS": "亚洲",
    "EU": "欧洲",
    "NA": "北美洲",
    "OC": "大洋洲",
    "SA": "南美洲",
}

COUNTRIES = (
    "CN IN US ID PK BR NG BD RU JP ET PH EG VN DE TR IR TH FR GB IT TZ KR KE CO ES AR UG DZ SD UA "
    "IQ PL AF CA MA SA UZ PE MY AO GH MZ VE YE NP MG KP CM AU NE BF RO ML CL MW ZM EC SY ZW KH SN "
    "TD SO GN RW TN BE BO CU BI HT GR CZ PT AZ SE JO HU HN BY TJ AT CH TG SL LA BG RS PY LB LY NI "
    "KG ER TM DK FI SK NO CR NZ IE OM LR MR HR GE MD UY MN AM JM LT LV EE AL SI IS NA BW BT"
).split()
"""Countries of the corpus: well known, with one undisputed capital of another name than theirs."""

TRANSLATED = {
    "de": "FR DE ES SE IE AU AO AR CA EC FI GH HU KE MA NG NO NZ PE PK SN TH UY VE ZM ZW".split(),
    "fr": "FR DE ES SE IE AU AO AR CA EC FI GH HU KE MA NG NO NZ PE PK SN TH UY VE ZM ZW".split(),
    "es": "ES AU AO AR CA EC FI GH HU KE MA NG NO NZ PE PK SN TH UY VE ZM ZW TR CL BO PY".split(),
    "zh": "FR DE ES IT JP IN RU BR CA EG MX PL SE TR TH VN AR KE NG PE CL CU GR PT AU FI".split(),
}
"""Countries stated in each language, chosen so that the capital's name is spelled the same in it
(in Chinese, continents and currencies are stated instead)."""

ARTICLE = ("US", "GB", "PH")
"""Countries whose English name takes an article."""

FEMININE = ("FR", "ES", "SE", "FI", "HU", "NO", "NZ", "TH", "ZM")
"""Countries whose French name is feminine and begins with a consonant."""

ODD_CURRENCY = ("CN", "VE", "ZW", "BY", "RS", "KP")
"""Countries whose currency has no plain name of one word in lower case."""
