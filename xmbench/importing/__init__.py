"""What people have, as a dataset: feature files, labels, pairs, captions and folders of images become one folder of arrays.

`xmbench.datasets._imported` says what the folder holds, and reads it.
"""

from xmbench.importing.assembly import Request, import_data

__all__ = ["Request", "import_data"]
