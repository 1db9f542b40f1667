"""Map `properties/`, which stands beside the package in a checkout, into the installed package."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["recbole_genrec", "recbole_genrec.*"]),
        "recbole_genrec.properties",
    ],
    package_dir={"recbole_genrec.properties": "properties"},
    package_data={
        "recbole_genrec": ["py.typed"],
        "recbole_genrec.properties": ["*.yaml", "*/*.yaml"],
    },
)
