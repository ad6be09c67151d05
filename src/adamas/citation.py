"""How to say in a paper which optimizer trained a model: `adamas --cite`."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Mapping

import adamas
from adamas.errors import ArgumentError
from adamas.formats import SCALED
from adamas.storage import SMALLEST

OPTIMIZERS = {
    "Adam": "Adam (Kingma & Ba, 2015)",
    "AdamW": "AdamW (Kingma & Ba, 2015; Loshchilov & Hutter, 2019)",
    "AMSGrad": "the AMSGrad variant of Adam (Kingma & Ba, 2015; Reddi et al., 2018)",
    "NAdam": "NAdam (Kingma & Ba, 2015; Dozat, 2016)",
    "RAdam": "RAdam (Kingma & Ba, 2015; Liu et al., 2020)",
    "Adamax": "Adamax (Kingma & Ba, 2015)",
    "ADOPT": "ADOPT (Taniguchi et al., 2024)",
    "StableAdamW": "StableAdamW (Kingma & Ba, 2015; Loshchilov & Hutter, 2019; Wortsman et al., 2023)",
    "C-AdamW": "cautious AdamW (Kingma & Ba, 2015; Loshchilov & Hutter, 2019; Liang et al., 2024)",
    "LAMB": "LAMB (Kingma & Ba, 2015; You et al., 2020)",
    "ScheduleFreeAdamW": "schedule-free AdamW (Kingma & Ba, 2015; Loshchilov & Hutter, 2019; Defazio et al., 2024)",
}
MOMENTS = {
    "float32": "in float32",
    "bfloat16": "in bfloat16 with stochastic rounding",
    "int8": f"in 8 bits, in blocks of {SCALED} elements with one float32 scale each, with stochastic rounding",
}
WEIGHTS = {
    "float32": "in float32",
    "bfloat16-nearest": "in bfloat16, rounded to nearest",
    "bfloat16-stochastic": "in bfloat16 with stochastic rounding",
    "bfloat16-split": "in bfloat16 with an 8-bit correction, together a 24-bit weight, with stochastic rounding",
    "float16-nearest": "in float16, rounded to nearest",
    "float16-stochastic": "in float16 with stochastic rounding",
}
REFERENCES = {
    "Kingma & Ba, 2015": "D. P. Kingma, J. Ba. Adam: A Method for Stochastic Optimization. ICLR 2015.",
    "Loshchilov & Hutter, 2019": "I. Loshchilov, F. Hutter. Decoupled Weight Decay Regularization. ICLR 2019.",
    "Reddi et al., 2018": "S. J. Reddi, S. Kale, S. Kumar. On the Convergence of Adam and Beyond. ICLR 2018.",
    "Dozat, 2016": "T. Dozat. Incorporating Nesterov Momentum into Adam. ICLR 2016 Workshop.",
    "Liu et al., 2020": "L. Liu, H. Jiang, P. He, W. Chen, X. Liu, J. Gao, J. Han. "
    "On the Variance of the Adaptive Learning Rate and Beyond. ICLR 2020.",
    "Taniguchi et al., 2024": "S. Taniguchi, K. Harada, G. Minegishi, Y. Oshima, S. C. Jeong, G. Nagahara, T. Iiyama, "
    "M. Suzuki, Y. Iwasawa, Y. Matsuo. ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate. "
    "NeurIPS 2024.",
    "Wortsman et al., 2023": "M. Wortsman, T. Dettmers, L. Zettlemoyer, A. Morcos, A. Farhadi, L. Schmidt. "
    "Stable and Low-Precision Training for Large-Scale Vision-Language Models. NeurIPS 2023.",
    "You et al., 2020": "Y. You, J. Li, S. Reddi, J. Hseu, S. Kumar, S. Bhojanapalli, X. Song, J. Demmel, K. Keutzer, "
    "C.-J. Hsieh. Large Batch Optimization for Deep Learning: Training BERT in 76 Minutes. ICLR 2020.",
    "Liang et al., 2024": "K. Liang, L. Chen, B. Liu, Q. Liu. "
    "Cautious Optimizers: Improving Training with One Line of Code. arXiv:2411.16085, 2024.",
    "Defazio et al., 2024": "A. Defazio, X. Yang, H. Mehta, K. Mishchenko, A. Khaled, A. Cutkosky. "
    "The Road Less Scheduled. NeurIPS 2024.",
}


def methods(optimizer: str = "Adam", moments: str = "float32", weights: str = "float32") -> str:
    """The paragraph of a methods section that says how a model was optimized, its references, and BibTeX for Adamas.

    Args:
        optimizer: "Adam", "AdamW", "AMSGrad", "NAdam", "RAdam", "Adamax", "ADOPT", "StableAdamW", "C-AdamW",
            "LAMB" or "ScheduleFreeAdamW".
        moments: the format of the moments: "float32", "bfloat16" or "int8".
        weights: what weights are stored in and how they are rounded: "float32"; "bfloat16-" with nearest, stochastic or
            split; "float16-" with nearest or stochastic.

    Raises:
        ArgumentError: no such optimizer, format or rounding.

    Example:
        >>> from adamas.citation import methods
        >>> print(methods("AdamW", moments="int8").splitlines()[0][:60])
        Weights were updated with AdamW (Kingma & Ba, 2015; Loshchil
    """
    used = _one_of("optimizer", optimizer, OPTIMIZERS)
    kept = _one_of("moments", moments, MOMENTS)
    stored = _one_of("weights", weights, WEIGHTS)
    sentences = [
        f"Weights were updated with {used} as implemented in Adamas {adamas.__version__}.",
        f"Between steps, weights were stored {stored}, and the optimizer's moments {kept}.",
        "Each step was computed in float32.",
    ]
    if moments != "float32":
        sentences.insert(2, f"Moments of tensors with fewer than {SMALLEST} elements were kept in float32.")
    if "stochastic" in stored + kept:
        sentences.append(
            "The random bits of stochastic rounding are a function of the seed, the tensor's name, the step and the "
            "element, so that a step does not depend on the number of threads or the processor."
        )
    references = [f"- {text}" for name, text in REFERENCES.items() if name in used]
    version = adamas.__version__
    bibtex = (
        "@software{adamas,\n  author  = {{The Adamas authors}},\n  title   = {Adamas},\n"
        f"  version = {{{version}}},\n  license = {{Apache-2.0}}\n}}"
    )
    wrapped = [textwrap.fill(line, 100, subsequent_indent="  ") for line in references]
    return "\n".join([textwrap.fill(" ".join(sentences), 100), "", *wrapped, "", bibtex])


def described(text: str) -> str:
    """`methods` of settings as the command takes them: "optimizer=AdamW,moments=int8,weights=bfloat16-split".

    Raises:
        ArgumentError: a part is no setting, or is there twice.
    """
    settings: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, found, value = part.partition("=")
        if not found or name not in ("optimizer", "moments", "weights") or name in settings:
            raise ArgumentError(
                f"--cite {text}: {part!r} is no setting, or there twice; give any of optimizer=NAME, moments=FORMAT "
                "and weights=FORMAT, separated by commas"
            )
        settings[name] = value
    return methods(**settings)


def _one_of(setting: str, value: str, allowed: Mapping[str, str]) -> str:
    if value not in allowed:
        by_letters = {name.lower(): name for name in allowed}
        near = difflib.get_close_matches(value.lower(), by_letters, n=1)
        hint = f"did you mean {by_letters[near[0]]}? " if near else ""
        raise ArgumentError(f"{setting}={value!r}: {hint}give one of {', '.join(allowed)}")
    return allowed[value]
