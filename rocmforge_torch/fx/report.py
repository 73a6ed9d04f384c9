"""What an optimisation did, pass by pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from rocmforge_torch.fx.memory_plan import MemoryPlan


@dataclass(frozen=True)
class PassReport:
    """One run of one pass.

    Attributes:
        name: the pass.
        nodes_before, nodes_after: nodes of the graph and of graphs inside it.
        bytes_saved: of parameters, buffers and constants that the module no longer holds.
        seconds: how long the pass took.
    """

    name: str
    nodes_before: int
    nodes_after: int
    bytes_saved: int
    seconds: float


@dataclass
class Report:
    """Prints as a table, with the memory plan, where there is one, below."""

    passes: list[PassReport] = field(default_factory=list)
    plan: MemoryPlan | None = None

    def __str__(self) -> str:
        rows = [("pass", "nodes before", "after", "bytes saved", "seconds")]
        for p in self.passes:
            nodes = f"{p.nodes_before:,}", f"{p.nodes_after:,}"
            rows.append((p.name, *nodes, f"{p.bytes_saved:,}", f"{p.seconds:.3f}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for name, *numbers in rows:
            cells = [n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *cells]))
        if self.plan is not None:
            lines.append(str(self.plan))
        return "\n".join(lines)
