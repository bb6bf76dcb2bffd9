"""The methods of a study in prose, with its own numbers, for a paper: `tables/methods.md` and its page."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from slimdiff.config import Study
from slimdiff.data.folds import read_folds
from slimdiff.data.participants import first_scans, read_included
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.registry import AXES, describe
from slimdiff.files import MISSING
from slimdiff.preflight.network_cost import network_cost
from slimdiff.redaction import shown_text
from slimdiff.report.references import REFERENCES
from slimdiff.report.results import all_metrics

EDIT = "Written by slimdiff from the files of the study. Check every sentence, and shorten it for your paper."


@dataclass
class Methods:
    """Headings with their paragraphs; a reference is `[@key]`, a key of REFERENCES."""

    sections: list[tuple[str, list[str]]] = field(default_factory=list)

    @property
    def cited(self) -> list[str]:
        """Keys of the references, in the order of the text."""
        texts = " ".join(text for _, texts in self.sections for text in texts)
        keys = re.findall(r"@(\w+)", " ".join(re.findall(r"\[@[^\]]*\]", texts)))
        return list(dict.fromkeys(keys))

    @property
    def bibtex(self) -> str:
        return "\n\n".join(REFERENCES[key] for key in self.cited)

    def markdown(self, title: str, notice: str) -> str:
        """The text as Markdown, with the BibTeX of its references."""
        parts = [f"# {shown_text(title)}", *([shown_text(notice)] if notice else []), f"*{EDIT}*"]
        for heading, texts in self.sections:
            parts += [f"## {heading}", *(shown_text(text) for text in texts)]
        return "\n\n".join([*parts, "## References", f"```bibtex\n{self.bibtex}\n```"]) + "\n"

    def body(self) -> str:
        """The text as the body of an HTML page."""
        parts = [f'<p class="quiet">{EDIT}</p>']
        for heading, texts in self.sections:
            parts.append(f"<h2>{html.escape(heading)}</h2>")
            parts += [f'<p class="prose">{html.escape(shown_text(text))}</p>' for text in texts]
        return "\n".join([*parts, "<h2>References</h2>", f"<pre>{html.escape(self.bibtex)}</pre>"])


def methods_of(study: Study, variants: Sequence[str], folds: int, software: dict) -> Methods:
    """What was done in a finished study.

    Args:
        study: the study.
        variants, folds: its trained models.
        software: `provenance.software`.
    """
    store = SliceStore.open(study.paths.store)
    return Methods(
        [
            ("Data", _data(study, store, folds)),
            ("Preprocessing", _preprocessing(study, store)),
            ("Model", _model(study, variants)),
            ("Training", _training(study, variants)),
            ("Samples", _samples(study, variants)),
            ("Evaluation", _evaluation(study, variants, folds)),
            ("Software", _software(software)),
        ]
    )


def many(count: int, word: str) -> str:
    """`1 subject`, `1,200 subjects`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def series(words: Sequence[str]) -> str:
    """`a, b and c`."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _data(study: Study, store: SliceStore, folds: int) -> list[str]:
    people = read_included(study.paths.participants, study.paths.volume_json)
    included = [person for person in people if person.included]
    patients = sum(person.is_patient for person in included)
    modality = study.data.modality_name
    first = (
        f"We used {modality} images of {many(len(included), 'participant')}: {patients} with a lesion mask and "
        f"{len(included) - patients} without."
    )
    sites = {person.site for person in included} - {MISSING}
    if len(sites) > 1:
        first += f" They come from {len(sites)} sites."
    persons = len(set(first_scans(included).values()))
    if persons < len(included):
        first += f" They are scans of {persons} persons; all scans of a person are in one part of every fold."
    excluded = [person.excluded for person in people if not person.included]
    if excluded:
        reasons = {reason: excluded.count(reason) for reason in dict.fromkeys(excluded)}
        words = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
        verb = "was" if len(excluded) == 1 else "were"
        first += f" {many(len(excluded), 'further participant')} {verb} excluded: {words}."
    config = study.folds
    if config.use_split:
        how = "The test set is that of the dataset's own split; validation subjects rotate over the folds."
    else:
        keys = series([key.replace("_", " ") for key in config.stratify_by])
        how = f"Folds are by subject{f', balanced by {keys} as far as possible' if keys else ''}."
    rows = []
    for fold in range(folds):
        parts = read_folds(study.paths.folds, fold)
        counts = [
            f"{many(len(parts[name]), 'participant')} ({many(len(store.rows_of(parts[name])), 'slice')}) {words}"
            for name, words in (("train", "for training"), ("val", "for validation"), ("test", "held out"))
            if parts[name]
        ]
        rows.append(f"fold {fold}: {series(counts)}")
    return [first, f"{how} Test subjects are in no training and no prior. The folds have: {'; '.join(rows)}."]


def _preprocessing(study: Study, store: SliceStore) -> list[str]:
    config, steps = study.preprocess, []
    if config.bias_field.n4:
        steps.append("corrected for the bias field by N4 [@tustison2010]")
    if config.brain.method == "deepbet":
        steps.append("limited to the brain by deepbet [@fisch2024]")
    elif config.brain.method == "source":
        steps.append("limited to the brain masks of the dataset")
    transforms = {"rigid": "a rigid", "affine": "an affine"}
    if config.registration.transform != "none":
        steps.append(
            f"registered to the ICBM152 template [@fonov2009] by {transforms[config.registration.transform]} "
            "transform that maximises mutual information"
        )
    grid = " × ".join(map(str, config.grid[: 2 if config.native else 3]))
    where = "resampled in plane only" if config.native else "resampled"
    steps.append(
        f"reoriented to RAS, {where} to {config.voxel.replace(' x ', ' × ')} (images linearly, masks by nearest "
        f"neighbour) and cropped or padded to {grid} voxels{' in plane' if config.native else ''}"
    )
    low, high = config.percentiles
    over = {"foreground": "foreground", "volume": "whole volume"}[config.percentiles_over]
    scaled = f"The {low:g} and {high:g} percentiles of the {over} became −1 and 1"
    if config.percentiles_over == "foreground":
        scaled += ", and everything outside it −1"
    if config.harmonise == "histogram":
        of = "the training subjects" if study.folds.use_split else "all participants"
        scaled += f". Intensities were then mapped to common landmarks of {of} [@nyul2000]"
    facts, slices = store.facts, study.slices
    low, high = facts["z_range"]
    unit = {
        "slice": "slices",
        "mm": "mm above the lowest slice with brain",
        "relative": "of the height of the brain",
    }
    kept = (
        f"Axial slices from {low:g} to {high:g} ({unit[store.height]}) were kept if at least "
        f"{100 * slices.min_tissue:g} % of their pixels were tissue, and divided into {store.n_bins} z-bins of equal "
        f"height. Slices with a lesion below {slices.min_lesion_mm2:g} mm² were left out. This gave "
        f"{many(len(store.z_bin), 'slice')} of {store.size[0]} × {store.size[1]} px, "
        f"{int((store.label == 1).sum()):,} of them with a lesion."
    )
    return [f"Images were {'; '.join(steps)}. {scaled}.", kept]


COUPLINGS = {
    "shared": "one U-Net for both channels",
    "decoupled": "a U-Net whose middle has a path for each channel",
    "independent": "a U-Net for each channel",
    "bottleneck": "an encoder and a decoder for each channel around a shared middle",
}
PREDICTIONS = {"x0": "the clean pair", "epsilon": "the noise", "v": "v [@salimans2022]"}


def _model(study: Study, variants: Sequence[str]) -> list[str]:
    own = study.variant(variants[0])
    model, diffusion = own.model, own.diffusion
    channels = ", ".join(map(str, model.settings()["channels"]))
    parameters = network_cost(model, study.preprocess.grid[0] * study.preprocess.grid[1]).parameters
    network = (
        "Image and lesion mask of a slice were learnt together as the two channels of a denoising diffusion model "
        f"[@ho2020], conditioned on z-bin and class (lesion or not), after SLIM-Diff [@pascual2026]. The network is "
        f"{COUPLINGS[model.coupling]} with {channels} channels, {many(model.res_blocks, 'residual block')} a level and "
        f"{parameters / 1e6:.3g} million parameters."
    )
    if model.self_conditioning:
        network += " It also receives its previous estimate (self-conditioning) [@chen2023]."
    components = model.settings()["gaussian_components"]
    if components:
        network += (
            f" Two more inputs are the estimate of a Gaussian model of the training slices of each z-bin with "
            f"{components} principal components [@wang2023]"
        )
        if diffusion.gaussian_above is not None:
            network += f"; above a noise level of σ = {diffusion.gaussian_above:g} that model takes the network's place"
        network += "."
    loss = diffusion.loss
    objective = (
        f"The network predicts {PREDICTIONS[diffusion.prediction]}; noise follows a {diffusion.schedule} schedule"
        f"{' [@nichol2021]' if diffusion.schedule == 'cosine' else ''} of {diffusion.timesteps} steps. The loss is "
        f"mean |error|^p with p = {loss.p_image:g} for the image and {loss.p_mask:g} for the mask"
    )
    if loss.min_snr_gamma is not None:
        objective += f", weighted by min-SNR with γ = {loss.min_snr_gamma:g} [@hang2023]"
        if loss.min_snr_floor and diffusion.loss_space == "x0":
            objective += f" and a floor of {loss.min_snr_floor:g}"
    for name, weight in (("image", loss.lesion_weight_image), ("mask", loss.lesion_weight_mask)):
        if weight != 1:
            objective += f"; lesion pixels of the {name} weigh {weight:g} times as much as others"
    width, height = study.preprocess.grid[:2]
    if diffusion.image_wavelets(height, width):
        objective += (
            "; the loss of the image is taken on Haar wavelets, whose details weigh more than the coarse rest"
        )
    further = [
        name.replace("_", " ") for name in ("focal_frequency", "perceptual") if getattr(loss, name).weight
    ]
    if further:
        objective += f"; further terms: {series(further)}"
    return [network, objective + ".", *_variants(study, variants)]


def _variants(study: Study, variants: Sequence[str]) -> list[str]:
    if len(variants) < 2:
        return []
    words = []
    for name in variants:
        keys = [f"{key}: {value}" for key, value in _flat(study.variants[name]).items()]
        words.append(f"{name} ({', '.join(keys) or 'the study as it is'})")
    return [f"{len(variants)} variants were trained: {'; '.join(words)}. This text describes {variants[0]}."]


def _flat(values: dict, above: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def _cards(study: Study, variant: str) -> list:
    """The model cards of a variant, one a fold."""
    from slimdiff.model.checkpoint import read_card

    runs = [run for run in study.runs() if run[0] == variant]
    return [read_card(study.paths.model(*run) / "model.safetensors") for run in runs]


def _training(study: Study, variants: Sequence[str]) -> list[str]:
    config = study.variant(variants[0]).training
    cards = _cards(study, variants[0])
    steps = sorted({card.step for card in cards})
    optimiser = {
        "muon": "Muon [@jordan2024] for the matrices of the trunk and AdamW [@loshchilov2019] for the rest",
        "adamw": "AdamW [@loshchilov2019]",
    }[config.optimiser]
    warm_up = f" after a warm-up of {config.warmup_steps} steps" if config.warmup_steps else ""
    decay = "linearly to 0" if config.rate_decay == "linear" else "as a cosine"
    text = (
        f"Each fold was trained for {' or '.join(f'{count:,}' for count in steps)} steps with batches of "
        f"{config.batch_size} slices, {100 * config.lesion_share:g} % of them with a lesion, by {optimiser}, with a "
        f"learning rate of {config.learning_rate:g} that falls {decay}"
        f"{warm_up}, in {cards[0].precision}. "
        f"Weights are averages with a decay of {config.ema_decay:g}."
    )
    if config.augmentation.probability:
        text += (
            f" Slices were augmented with a probability of {config.augmentation.probability:g}; the network is "
            "conditioned on the transformation, so that samples do not show it."
        )
    if cards[0].init:
        text += f" The training started from the weights of another model ({cards[0].init['study']})."
    return [text]


SAMPLERS = {
    "dpmpp_2m": "DPM-Solver++(2M) [@lu2022]",
    "dpmpp_2m_sde": "the stochastic DPM-Solver++(2M) [@lu2022]",
    "unipc": "UniPC [@zhao2023]",
    "ddim": "DDIM [@song2021]",
    "ddpm": "ancestral sampling [@ho2020]",
    "ddim_ref": "DDIM [@song2021] as in the published code of SLIM-Diff",
}


def _samples(study: Study, variants: Sequence[str]) -> list[str]:
    from slimdiff.generation.samples import read_samples

    config = study.variant(variants[0]).generation
    drawn = [
        read_samples(study.paths.samples(*run), study.slices.n_bins, on_disk=True)
        for run in study.runs()
        if run[0] == variants[0]
    ]
    counts = sorted({len(one.id) for one in drawn})
    lesions = sorted({int((one.label == 1).sum()) for one in drawn})
    text = (
        f"{' or '.join(f'{count:,}' for count in counts)} pairs a fold, "
        f"{' or '.join(f'{count:,}' for count in lesions)} of them of class 1, were drawn by "
        f"{SAMPLERS[config.sampler]} with {config.evaluations} network evaluations each."
    )
    if config.guidance != 1:
        text += f" Guidance: {config.guidance:g}."
    if config.calibrate_masks and _cards(study, variants[0])[0].mask_calibration:
        text += (
            " Masks of class 1 were calibrated on the training slices, so that lesions have the right size."
        )
    if config.where == "seen" and not config.counts:
        text += " Lesions were drawn only in z-bins in which at least two training subjects have one."
    if config.background == "outside":
        text += " Faint grey around the brain was set to background."
    elif config.background == "prior":
        text += " Pixels outside the brain's occupancy in the training slices were set to background."
    return [f"{text} A mask pixel counts as lesion above {study.evaluation.tau:g} on a scale from −1 to 1."]


CITED = {
    "kid": "@binkowski2018",
    "fid": "@heusel2017",
    "precision": "@kynkaanniemi2019",
    "lpips": "@zhang2018",
    "mmd_mf": "@pascual2026",
}
LPIPS_NETS = {"alex": "AlexNet", "vgg": "VGG16"}
EXTRACTORS = {
    "alexnet": "AlexNet",
    "vgg16": "VGG16",
    "inception": "Inception-v3",
    "efficientnet": "EfficientNet-Lite0",
    "dinov2": "DINOv2 ViT-S/14",
}


def _evaluation(study: Study, variants: Sequence[str], folds: int) -> list[str]:
    rows = all_metrics(study.paths, [variants[0]], folds, study.utility.enabled)
    everywhere = rows[rows["z_bin"].isna()]
    names = list(dict.fromkeys(name for name in everywhere["metric"] if describe(name).headline))
    by_axis = []
    for axis, words in AXES.items():
        own = [
            describe(name).label + (f" [{CITED[name]}]" if name in CITED else "")
            for name in names
            if describe(name).axis == axis
        ]
        if own:
            by_axis.append(f"{words}: {'; '.join(own)}.")
    config = study.evaluation
    networks = series([EXTRACTORS[name] for name in config.extractors])
    compared = (
        "The samples of each fold were compared with the slices of its held-out subjects, in the same mix of z-bins "
        "and classes. The floor of a metric is the same metric with training slices instead of samples. Intervals "
        f"of 95 % are from {config.bootstrap:,} bootstrap resamples of held-out subjects with all their slices; those "
        "of shares and medians of the samples alone are over samples. "
        f"Features are those of {networks}; LPIPS uses {LPIPS_NETS[config.lpips_net]} [@zhang2018]."
    )
    samples = everywhere[everywhere["metric"] == "kid"].drop_duplicates("fold")
    used = "; ".join(f"fold {row.fold}: {row.n} samples" for row in samples.itertuples())
    chosen = f" Compared were {used}." if used else ""
    text = [f"{compared}{chosen} Definitions are in docs/metric_definitions.md of slimdiff.", *by_axis]
    if study.utility.enabled:
        own = study.utility
        shares = series([f"{100 * share:g} %" for share in own.shares])
        text.append(
            f"Usefulness: U-Nets [@ronneberger2015] with {', '.join(map(str, own.channels))} channels were trained for "
            f"{own.steps:,} steps with batches of {own.batch_size} slices on real slices of {shares} of the training "
            "subjects, on the same with samples, and on samples alone, and tested on the held-out subjects (Dice)."
        )
    return text


def _software(software: dict) -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in software["packages"].items() if version)
    commit = f", commit {software['git']['commit'][:12]}" if software["git"] else ""
    return [f"slimdiff {software['slimdiff']}{commit}; Python {software['python']}; {packages}."]
