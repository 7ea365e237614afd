"""What public functions ask of their arguments, checked before anything is computed.

A name means the same everywhere in the package, so one table, `MEANINGS`, says what values an argument of that name may
have; what is not in the table is checked against its type hint. `checked` puts both in front of a function or of a
class's constructor. A bad value is answered by one sentence that names the argument, says what it must be, and shows
what was given. Some microseconds a call: for what users call, not for what runs in every step.
"""

from smesolve.arguments.guard import ELSEWHERE, check_fields, checked
from smesolve.arguments.kinds import MOST_ENTRIES, Argument, Instance, Integer, Number, Parameters, SymbolOr
from smesolve.arguments.machine_memory import check_numbers_fit, free_memory, machine_memory
from smesolve.arguments.meanings import COUNT, ENSEMBLE, EXPRESSION, INDEX, KEEP_PROB, NOT_NEGATIVE, POINTS, POSITIVE
from smesolve.arguments.rounded_number import RoundedNumber, as_numbers
from smesolve.arguments.sentences import evaluated, is_own_sentence, shown

__all__ = [
    "COUNT",
    "ELSEWHERE",
    "ENSEMBLE",
    "EXPRESSION",
    "INDEX",
    "KEEP_PROB",
    "MOST_ENTRIES",
    "NOT_NEGATIVE",
    "POINTS",
    "POSITIVE",
    "Argument",
    "Instance",
    "Integer",
    "Number",
    "Parameters",
    "RoundedNumber",
    "SymbolOr",
    "as_numbers",
    "check_fields",
    "check_numbers_fit",
    "checked",
    "evaluated",
    "free_memory",
    "is_own_sentence",
    "machine_memory",
    "shown",
]
