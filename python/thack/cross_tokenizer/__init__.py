"""Teacher and student with different tokenizers: what one vocabulary says of the other, and where two encodings meet.

`read_bpe` takes a tokenizer apart, `build_cells` compares two of them once, `align` lays two encodings of the same
bytes beside each other.
"""

from thack.cross_tokenizer.align import Alignment, align
from thack.cross_tokenizer.bpe import Bpe, read_bpe
from thack.cross_tokenizer.cells import Cells, build_cells, load_cells

__all__ = ["Alignment", "Bpe", "Cells", "align", "build_cells", "load_cells", "read_bpe"]
