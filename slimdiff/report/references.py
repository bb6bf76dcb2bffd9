"""BibTeX of the publications that the methods text cites."""


def _entry(kind: str, key: str, **fields: str | int) -> str:
    lines = [f"  {name.rstrip('_')} = {{{value}}}" for name, value in fields.items()]
    return f"@{kind}{{{key},\n" + ",\n".join(lines) + "\n}"


def _of(kind: str, key: str, author: str, title: str, year: int, **where: str | int) -> tuple[str, str]:
    return key, _entry(kind, key, author=author, title=f"{{{title}}}", year=year, **where)


NEURIPS = "Advances in Neural Information Processing Systems"
ICLR = "International Conference on Learning Representations"

REFERENCES = dict(
    (
        _of(
            "misc",
            "pascual2026",
            "Pascual-Gonz{\\'a}lez, Mario and Jim{\\'e}nez-Partinen, Ariadna and Luque-Baena, R. M. and "
            "Nagib-Raya, F{\\'a}tima and L{\\'o}pez-Rubio, Ezequiel",
            "SLIM-Diff: Shared Latent Image-Mask Diffusion with Lp loss for Data-Scarce Epilepsy FLAIR MRI",
            2026,
            note="arXiv:2602.03372",
        ),
        _of(
            "inproceedings",
            "ho2020",
            "Ho, Jonathan and Jain, Ajay and Abbeel, Pieter",
            "Denoising Diffusion Probabilistic Models",
            2020,
            booktitle=NEURIPS,
            volume=33,
        ),
        _of(
            "inproceedings",
            "nichol2021",
            "Nichol, Alexander Quinn and Dhariwal, Prafulla",
            "Improved Denoising Diffusion Probabilistic Models",
            2021,
            booktitle="International Conference on Machine Learning",
        ),
        _of(
            "inproceedings",
            "salimans2022",
            "Salimans, Tim and Ho, Jonathan",
            "Progressive Distillation for Fast Sampling of Diffusion Models",
            2022,
            booktitle=ICLR,
        ),
        _of(
            "inproceedings",
            "chen2023",
            "Chen, Ting and Zhang, Ruixiang and Hinton, Geoffrey",
            "Analog Bits: Generating Discrete Data using Diffusion Models with Self-Conditioning",
            2023,
            booktitle=ICLR,
        ),
        _of(
            "misc",
            "wang2023",
            "Wang, Binxu and Vastola, John J.",
            "The Hidden Linear Structure in Score-Based Models and its Application",
            2023,
            note="arXiv:2311.10892",
        ),
        _of(
            "inproceedings",
            "hang2023",
            "Hang, Tiankai and Gu, Shuyang and Li, Chen and Bao, Jianmin and Chen, Dong and Hu, Han and Geng, Xin "
            "and Guo, Baining",
            "Efficient Diffusion Training via Min-SNR Weighting Strategy",
            2023,
            booktitle="IEEE/CVF International Conference on Computer Vision",
        ),
        _of(
            "misc",
            "jordan2024",
            "Jordan, Keller and Jin, Yuchen and Boza, Vlado and You, Jiacheng and Cesista, Franz and Newhouse, Laker "
            "and Bernstein, Jeremy",
            "Muon: An Optimizer for Hidden Layers in Neural Networks",
            2024,
            url="https://kellerjordan.github.io/posts/muon/",
        ),
        _of(
            "inproceedings",
            "loshchilov2019",
            "Loshchilov, Ilya and Hutter, Frank",
            "Decoupled Weight Decay Regularization",
            2019,
            booktitle=ICLR,
        ),
        _of(
            "misc",
            "lu2022",
            "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun",
            "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
            2022,
            note="arXiv:2211.01095",
        ),
        _of(
            "inproceedings",
            "zhao2023",
            "Zhao, Wenliang and Bai, Lujia and Rao, Yongming and Zhou, Jie and Lu, Jiwen",
            "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
            2023,
            booktitle=NEURIPS,
            volume=36,
        ),
        _of(
            "inproceedings",
            "song2021",
            "Song, Jiaming and Meng, Chenlin and Ermon, Stefano",
            "Denoising Diffusion Implicit Models",
            2021,
            booktitle=ICLR,
        ),
        _of(
            "inproceedings",
            "binkowski2018",
            "Bi{\\'n}kowski, Miko{\\l}aj and Sutherland, Danica J. and Arbel, Michael and Gretton, Arthur",
            "Demystifying MMD GANs",
            2018,
            booktitle=ICLR,
        ),
        _of(
            "inproceedings",
            "heusel2017",
            "Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp",
            "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
            2017,
            booktitle=NEURIPS,
            volume=30,
        ),
        _of(
            "inproceedings",
            "kynkaanniemi2019",
            'Kynk{\\"a}{\\"a}nniemi, Tuomas and Karras, Tero and Laine, Samuli and Lehtinen, Jaakko and Aila, Timo',
            "Improved Precision and Recall Metric for Assessing Generative Models",
            2019,
            booktitle=NEURIPS,
            volume=32,
        ),
        _of(
            "inproceedings",
            "zhang2018",
            "Zhang, Richard and Isola, Phillip and Efros, Alexei A. and Shechtman, Eli and Wang, Oliver",
            "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
            2018,
            booktitle="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        ),
        _of(
            "inproceedings",
            "ronneberger2015",
            "Ronneberger, Olaf and Fischer, Philipp and Brox, Thomas",
            "U-Net: Convolutional Networks for Biomedical Image Segmentation",
            2015,
            booktitle="Medical Image Computing and Computer-Assisted Intervention",
        ),
        _of(
            "article",
            "fonov2009",
            "Fonov, V. S. and Evans, A. C. and McKinstry, R. C. and Almli, C. R. and Collins, D. L.",
            "Unbiased nonlinear average age-appropriate brain templates from birth to adulthood",
            2009,
            journal="NeuroImage",
            volume=47,
            pages="S102",
        ),
        _of(
            "article",
            "nyul2000",
            "Ny{\\'u}l, L{\\'a}szl{\\'o} G. and Udupa, Jayaram K. and Zhang, Xuan",
            "New Variants of a Method of MRI Scale Standardization",
            2000,
            journal="IEEE Transactions on Medical Imaging",
            volume=19,
            number=2,
            pages="143--150",
        ),
        _of(
            "article",
            "tustison2010",
            "Tustison, Nicholas J. and Avants, Brian B. and Cook, Philip A. and Zheng, Yuanjie and Egan, Alexander and "
            "Yushkevich, Paul A. and Gee, James C.",
            "N4ITK: Improved N3 Bias Correction",
            2010,
            journal="IEEE Transactions on Medical Imaging",
            volume=29,
            number=6,
            pages="1310--1320",
        ),
        _of(
            "article",
            "fisch2024",
            "Fisch, Lukas and others",
            "deepbet: Fast brain extraction of T1-weighted MRI using convolutional neural networks",
            2024,
            journal="Computers in Biology and Medicine",
            volume=179,
        ),
    )
)
"""Key to BibTeX entry."""
