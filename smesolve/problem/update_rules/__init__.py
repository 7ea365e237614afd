"""Update rules of torch's optimisers, by class. Add a subclass of `UpdateRule` to `UPDATE_RULES` for another one."""

import torch

from smesolve.problem.update_rules.adam import Adam, AdamW, NAdam
from smesolve.problem.update_rules.rmsprop import RMSprop
from smesolve.problem.update_rules.sgd import SGD
from smesolve.problem.update_rules.update_rule import UpdateRule

UPDATE_RULES: dict[type[torch.optim.Optimizer], type[UpdateRule]] = {
    torch.optim.SGD: SGD,
    torch.optim.Adam: Adam,
    torch.optim.AdamW: AdamW,
    torch.optim.NAdam: NAdam,
    torch.optim.RMSprop: RMSprop,
}
