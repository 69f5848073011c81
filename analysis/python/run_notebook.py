"""Runs a notebook from start to end and fails when a cell does: run_notebook.py NOTEBOOK."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main():
    path = Path(sys.argv[1])
    notebook = nbformat.read(path, as_version=4)
    if any(cell.get("outputs") for cell in notebook.cells):
        sys.exit(f"{path} holds outputs; clear them, so that recordings do not get into the repository")
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    if pictures == 0:
        sys.exit(f"{path} ran and drew nothing")
    print(f"{path.name}: {len(cells)} cells ran, {pictures} figures")


if __name__ == "__main__":
    main()
