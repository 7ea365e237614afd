"""The README's table of schemes, made from what the classes in `SCHEMES` declare: `python docs/scheme_table.py`."""

from pathlib import Path

from smesolve.experiments.scaling.acceleration import gradients_per_step
from smesolve.experiments.shared.markdown import table_of
from smesolve.solver.schemes import SCHEMES, GradientScheme

README = Path(__file__).parent.parent / "README.md"

BEGIN, END = "<!-- schemes: made by docs/scheme_table.py -->\n", "\n<!-- end of schemes -->"


def table() -> str:
    """A row for each scheme."""
    rows = []
    for name, scheme in SCHEMES.items():
        sampled = issubclass(scheme, GradientScheme)
        rows.append(
            [
                f"`{name}`",
                scheme.weak_error,
                scheme.drift_evaluations,
                scheme.corrections,
                scheme.noise_products,
                " / ".join(f"{gradients_per_step(name, order):g}" for order in (1, 2)),
                "all; nothing but gradients is needed" if sampled else "exact mean gradient and noise",
            ]
        )
    headers = ["scheme", "weak error", "gradients", "Hessian products, order 2", "noise products"]
    made = table_of([*headers, "cost of a step in gradients, order 1 / 2", "problems"], rows)
    return made.replace("\\`", "`")  # names of schemes are code, cells of reports are not


def with_table(text: str) -> str:
    """The README with the table of today's schemes."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
