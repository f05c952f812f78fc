"""Teacher and student with different tokenizers: what one vocabulary says of the other, and where two encodings meet.

`read_bpe` takes a tokenizer apart, `kept_cells` compares two of them once, `align` lays two encodings of the same
bytes beside each other, `Rewriter` makes the student's sequences from the teacher's.
"""

from thack.cross_tokenizer.align import Alignment, align
from thack.cross_tokenizer.bpe import Bpe, read_bpe
from thack.cross_tokenizer.cells import Cells, build_cells, load_cells
from thack.cross_tokenizer.kept import cells_file, kept_cells
from thack.cross_tokenizer.rewrite import Rewriter, RewrittenSequence, TextRewriter, rewritten_from

__all__ = [
    "Alignment",
    "Bpe",
    "Cells",
    "Rewriter",
    "RewrittenSequence",
    "TextRewriter",
    "align",
    "build_cells",
    "cells_file",
    "kept_cells",
    "load_cells",
    "read_bpe",
    "rewritten_from",
]
