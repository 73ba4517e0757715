"""The actors that hold a slot."""

from collections import Counter

from callboard.actors.process.cell import Cell


class Busy(dict[str, Cell]):
    """The cells that hold a slot, by stream; and how many of them are of a role, and work for a run."""

    def __init__(self) -> None:
        super().__init__()
        self.of_role: Counter[str] = Counter()
        self.of_run: Counter[str] = Counter()

    def add(self, cell: Cell) -> None:
        """A cell takes a slot, on account of the run that it works for."""
        cell.run = cell.work.message.run if cell.work is not None else cell.run
        self[cell.stream] = cell
        self.of_role[cell.name.role] += 1
        if cell.run is not None:
            self.of_run[cell.run] += 1

    def remove(self, cell: Cell) -> None:
        """A cell gives its slot back."""
        if self.get(cell.stream) is cell:
            del self[cell.stream]
        self.of_role[cell.name.role] -= 1
        if cell.run is not None:
            self.of_run[cell.run] -= 1
            if not self.of_run[cell.run]:
                del self.of_run[cell.run]
