"""Write the pruning schemas that come with the package. For maintainers.

    python scripts/schemas.py [NAME ...]

Without names: all that schemas/ holds. Each is traced anew, on the meta device, and written to ``schemas/``.
"""

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from zoo_slim.registry import registry
from zoo_slim.schema import write_schema
from zoo_slim.tracing import trace

FOLDER = Path(__file__).resolve().parent.parent / "schemas"


def main() -> None:
    """Read the command line, trace, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names or [file.stem.replace("__", "/") for file in sorted(FOLDER.glob("*.json"))]
    for name in tqdm(names):
        architecture = registry().find(name)
        with torch.device("meta"):
            model = architecture.build()
        schema = trace(model, architecture.example_input(2), architecture=name)
        write_schema(schema, FOLDER / f"{name.replace('/', '__')}.json")


if __name__ == "__main__":
    main()
