"""Imports: existing region features, converted into a store by streaming; pickles are never executed.

| format | what | reader |
|---|---|---|
| `butd-tsv`, `lxmert-tsv` | bottom-up-attention / LXMERT `.tsv` | `tsv.py` |
| `vinvl-tsv` | VinVL `.tsv` + `.lineidx`, labels beside it | `vinvl.py` |
| `uniter-lmdb` | UNITER LMDB of msgpack or npz | `uniter.py` |
| `volta-lmdb` | volta / 12-in-1 / MMF LMDB of pickles | `volta.py` |
| `mmf-npy` | a folder of `.npy` with `_info.npy`, or 12-in-1 `.npy` | `mmf.py` |
"""

from __future__ import annotations

from cmal.regions.imports.convert import FORMATS, ImportSummary, import_features

__all__ = ["FORMATS", "ImportSummary", "import_features"]
