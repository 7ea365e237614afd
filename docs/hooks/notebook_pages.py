"""Tutorials: notebooks, kept without outputs, are run when the site is built, and shown with their outputs."""

from __future__ import annotations

from pathlib import PurePosixPath

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

TIMEOUT = 300
"""Seconds that one cell may take."""

QUIET = ["--IPKernelApp.log_level=ERROR"]
"""Arguments of the kernel, which warns of connections that are not encrypted; those of a build stay on the machine."""

TABLE = '<table border="1" class="dataframe">'
"""How pandas begins a table; the theme styles tables without a class of their own, and lets wide ones scroll."""

DOWNLOAD = "[Download this notebook]({name})"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and its figures.

    Raises:
        CellExecutionError: a cell raised an error.
    """
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        path = PurePosixPath(notebook.src_uri)
        text, figures = page_of(notebook.content_string, path.stem)
        files.append(File.generated(config, str(path.with_suffix(".md")), content=f"{text}\n"))
        for name, data in figures.items():
            files.append(File.generated(config, str(path.parent / name), content=data))
    return files


def page_of(source: str, name: str) -> tuple[str, dict[str, bytes]]:
    """Run a notebook and return its page in Markdown, and its figures by file name.

    Args:
        source: the notebook, as JSON.
        name: by which the page and its figures are called.
    """
    notebook = nbformat.reads(source, as_version=4)
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", extra_arguments=QUIET).execute()
    for cell in notebook.cells:  # progress bars
        cell["outputs"] = [output for output in cell.get("outputs", ()) if output.get("name") != "stderr"]
    resources = {"unique_key": name, "output_files_dir": ""}
    text, made = MarkdownExporter().from_notebook_node(notebook, resources=resources)
    title, _, rest = text.replace(TABLE, "<table>").partition("\n")
    return "\n\n".join([title, DOWNLOAD.format(name=f"{name}.ipynb"), rest]), made["outputs"]
