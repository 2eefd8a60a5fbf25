"""What the cards of imported datasets say that follows from their files: the version, and the command that fits."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from xmbench.datasets._imported import EXTRACT


def version_of(
    modalities: Sequence[str], sizes: Mapping[str, int], class_names: Sequence[str], files: Mapping[str, Any]
) -> str:
    """12 hexadecimal digits that tell the contents of datasets apart."""
    content = [list(modalities), dict(sizes), list(class_names), {name: file["sha256"] for name, file in files.items()}]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def next_command(name: str, kinds: Sequence[set[str]], labelled: bool, several: bool) -> str:
    """A command that fits what there is.

    Args:
        name: of the dataset.
        kinds: "vectors", "sequences" and "tokens" of each modality.
        labelled: whether items have classes.
        several: whether an item may have several.
    """
    if not all(kinds):
        command = EXTRACT.format(name).removeprefix("next: ")
        return f"{command}; until then nothing can run: the images are listed, and have no features"
    vectors = all("vectors" in kind for kind in kinds)
    if vectors and labelled:
        methods = "labelwise,mcca" if several else "mrl,ce,mcca"
    elif vectors:
        methods = "infonce,pls" if len(kinds) == 2 else "mcca"
    elif len(kinds) == 2 and "sequences" in kinds[0] and "tokens" in kinds[1]:
        methods = "vse,scan"
    else:
        return f"import vectors of every modality too: few methods read the features that {name} has"
    return f"xmbench run --methods {methods} --dataset {name}"
