"""What `granite_swa` cannot express is refused once, with the layers and a reason."""

from __future__ import annotations

from typing import Any

import pytest

from lbdsl.export.granite import Granite, granite_config
from tests.export_cases import base_subject
from tests.layer_changes import GONE, NO_MLP, NONE, OWN, Layer, sized, swa
from tests.specs import LEARNED

# what: (family, specs, options, code, words of the message)
REFUSED: dict[str, tuple[str, list[Layer], dict[str, Any], str, str]] = {
    "attention dropped": ("llama", [OWN, NONE, swa(8, LEARNED), OWN], {}, "LB530", "no attention in layer 1"),
    "mlp dropped": ("llama", [OWN, NO_MLP, swa(8, LEARNED), OWN], {}, "LB530", "no MLP in layer 1"),
    "nothing left": ("llama", [GONE] * 4, {}, "LB530", "no layer is left"),
    "sink tokens": ("llama", [OWN, swa(8, 4), OWN, OWN], {}, "LB503", "sink tokens (layer 1)"),
    "two windows": ("llama", [OWN, swa(8, LEARNED), swa(9), OWN], {}, "LB504", "8 in layer 1; 9 in layer 2"),
    "KV heads by layer": ("llama", [OWN, sized(1, of=swa(8)), OWN, OWN], {}, "LB505", "1 in layer 1"),
    "another family": ("qwen3", [OWN, swa(8, LEARNED), OWN, OWN], {}, "LB506", "the layers of qwen3 models"),
    "another activation": ("llama", [OWN, swa(8), OWN, OWN], {"hidden_act": "gelu"}, "LB506", "gelu"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses(what: str) -> None:
    family, specs, options, code, words = REFUSED[what]
    errors = [d for d in Granite.check(base_subject(family, specs, **options)) if d.is_error]
    assert [d.code for d in errors] == [code], errors
    assert words in errors[0].message
    assert errors[0].exit_code == 6


def test_every_field_is_written() -> None:
    config = granite_config(base_subject("smollm3", [GONE, swa(9, LEARNED), OWN, swa(9)])).unwrap()
    assert config["layer_types"] == ["sliding_attention", "full_attention", "sliding_attention"]
    assert config["layer_rope_theta"] == [2_000_000.0, 2_000_000.0, 0.0]
    assert (config["sliding_window"], config["num_hidden_layers"], config["attention_multiplier"]) == (9, 3, 0.25)
    assert not {"no_rope_layers", "use_sliding_window", "rope_theta", "lbdsl"} & set(config)
