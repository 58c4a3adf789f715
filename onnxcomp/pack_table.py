"""What packing came to, as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from onnxcomp.container.packed import bits_per_value

if TYPE_CHECKING:
    from rich.console import Console

    from onnxcomp.container.packed import Packed, PackedTensor, Unpacked

# Weights that have a row of their own, the largest first; the others share one.
ROWS = 20


def print_packed(found: Packed, console: Console, *, verbose: bool = False) -> None:
    """Print a row per weight, all of them when `verbose`, and the sum."""
    console.print(packed_table(found, len(found.tensors) if verbose else ROWS))
    ratio = found.after / found.before
    console.print(
        f"wrote {found.written}   {found.before} -> {found.after} bytes ({ratio:.4f}x)   "
        f"{found.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def packed_table(found: Packed, rows: int) -> Table:
    """Return bytes, bits per value, entropy and Huffman size of the largest weights."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("weight", overflow="fold")
    table.add_column("type", no_wrap=True)
    for title in ("values", "bytes", "packed", "bits", "entropy", "huffman"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("coding", no_wrap=True)
    largest = sorted(found.tensors, key=lambda tensor: (-tensor.before, tensor.name))
    for tensor in largest[:rows]:
        table.add_row(tensor.name, tensor.dtype, *_figures([tensor]), tensor.coding)
    if others := largest[rows:]:
        table.add_row(f"{len(others)} others (-v)", "", *_figures(others), "")
    graph = found.before - sum(tensor.before for tensor in largest)
    packed = found.after - sum(tensor.after for tensor in largest)
    table.add_row("the rest", "", "", str(graph), str(packed), "", "", "", "bytes")
    if largest:
        table.add_row("all weights", "", *_figures(largest), "", style="bold")
    return table


def _figures(tensors: list[PackedTensor]) -> list[str]:
    """Return values, bytes, packed bytes, bits a value, and entropy and Huffman code in bytes."""
    values = sum(tensor.values for tensor in tensors)
    before = sum(tensor.before for tensor in tensors)
    after = sum(tensor.after for tensor in tensors)
    entropy = sum(tensor.entropy_bits for tensor in tensors) / 8
    huffman = sum(tensor.huffman_bytes for tensor in tensors)
    bits = f"{bits_per_value(after, values):.2f}"
    return [str(values), str(before), str(after), bits, f"{entropy:.0f}", str(huffman)]


def print_unpacked(found: Unpacked, console: Console) -> None:
    """Print what was written."""
    console.print(
        f"wrote {', '.join(found.written)}   {found.before} -> {found.after} bytes   "
        f"{found.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
