"""LB4xx, models, data, files and artifacts."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

LOADING = (
    Code("LB400", "no such model",
         "The model must be a local folder, a .gguf file, or a hub id written as organisation/name.",
         example="lbdsl inspect ./no-such-folder"),
    Code("LB401", "not a model folder",
         "A model folder holds config.json beside its weights, or exactly one .gguf file.",
         example="lbdsl inspect ./empty-folder"),
    Code("LB402", "config.json cannot be read",
         "The shapes of a model come from its config.json, which must be one JSON object with sane values."),
    Code("LB403", "unsupported model family",
         "Only families whose sub-blocks are described in the table of families can be changed safely.", exit_code=6),
    Code("LB404", "unsupported configuration",
         "The family is supported, but this model asks for something that a changed model would compute differently.",
         exit_code=6),
    Code("LB405", "weights are not complete",
         "A weights file is shorter or longer than its header says, or a shard is missing: the copy or the download "
         "was cut short.", exit_code=6),
    Code("LB406", "weights are a pickle",
         "Reading a .bin or .pt file can run any code that its author put there; only safetensors and GGUF are read.",
         exit_code=6),
    Code("LB407", "malformed weights file",
         "The header of a safetensors file breaks the format, by accident or on purpose; nothing in it is trusted.",
         exit_code=6),
    Code("LB408", "unsafe shard index",
         "An index may only name files of its own folder; paths that lead elsewhere are refused.", exit_code=6),
    Code("LB409", "weights do not fit the configuration",
         "Every tensor that the configuration implies must be there, in its shape, and no other: otherwise layers "
         "would be left random.", exit_code=6),
    Code("LB410", "unusable GGUF file",
         "The GGUF file is damaged, or holds something that is lost when it is read.", exit_code=6),
    Code("LB411", "no such repository or revision on the hub",
         "The hub answers the same for a wrong name and for a private repository that you may not see.",
         example="lbdsl inspect no-such-org/no-such-model"),
    Code("LB412", "access to the repository is restricted",
         "The authors ask you to accept their terms, or to log in, before you download."),
    Code("LB413", "model is not in the local cache",
         "The hub cannot be reached, or --offline was given, and the files were not downloaded before."),
    Code("LB414", "download failed",
         "The hub answered with an error, or the connection broke; what was downloaded is kept for the next try."),
    Code("LB415", "unknown number format",
         "Models run in float32, bfloat16 or float16.", example="lbdsl inspect MODEL --dtype int4"),
    Code("LB416", "device is not available",
         "The device that was asked for is not there, or torch was built without it.",
         example="lbdsl measure x.lbr MODEL --device cuda"),
    Code("LB417", "model cannot be loaded",
         "transformers refused the checkpoint, or loaded something else than its headers promise.", exit_code=6),
    Code("LB418", "tokenizer cannot be loaded",
         "Text cannot be measured without the tokenizer that the model was trained with."),
    Code("LB419", "a file changed or the cache cannot be written",
         "A digest is only good when a file stays the same while it is read, and converted weights need room on disk."),
)

DATA = (
    Code("LB440", "unknown text source",
         reason="Text comes from `builtin:pydoc`, a .txt, .jsonl or .parquet file, or a hub data set written `org/name`.",
         example='measure { data = "builtin:wikipedia" }'),
    Code("LB441", "text cannot be read",
         reason="The file is missing, is not a regular file, or the system does not let it be read.",
         example='measure { data = "missing.txt" }'),
    Code("LB442", "text is not UTF-8",
         reason="Guessing an encoding would measure and train on garbage, so text must be UTF-8.",
         example='measure { data = "latin1.txt" }'),
    Code("LB443", "bad record in a data file",
         reason="Each record needs a string field `text`, or a chat in `messages`; a record that is skipped in silence "
                "would change what is measured.",
         example='{"txt": "a misspelt field"}'),
    Code("LB444", "no text in the source",
         reason="After removing blank documents nothing is left to measure or train on.",
         example='measure { data = "empty.txt" }'),
    Code("LB445", "hub data set cannot be loaded",
         reason="The data set, its configuration or its split does not exist, access is not granted, or there is no "
                "network and no copy in the cache.",
         example='measure { data = "org/no-such-data" }'),
    Code("LB446", "too little text",
         reason="Calibration and evaluation text is never repeated: a repeated text would make the error bars too small. "
                "Each part gets its share of the documents.",
         example="measure { tokens = 10M }"),
    Code("LB447", "text is too large",
         reason="All documents are read to split them into parts, so the size of a source is limited.",
         example='heal { data = "HuggingFaceFW/fineweb" }'),
    Code("LB448", "measurement file cannot be used",
         reason="Measurements are kept in an SQLite file; it is damaged, locked, read-only, or was written by another "
                "version.",
         example="lbdsl measure recipe.lbr model --cache-dir /a/damaged/cache"),
    Code("LB449", "action cannot be measured",
         reason="Scores are taken by running a layer under a changed specification; this action changes something else.",
         example="lowest 8 by nll(quantize(bits=4)) drop"),
)

HYBRID = (
    Code("LB420", "no hybrid runtime for this family",
         "A changed model runs in classes made for its family; without them it would not compute what the plan says.",
         exit_code=6),
)

ARTIFACT = (
    Code("LB460", "output exists", "An output is never overwritten: what is there may be the only copy.",
         "lbdsl apply quickstart.lbr MODEL -o folder-that-exists"),
    Code("LB461", "output is in use", "Two runs that write one artifact would mix their weights."),
    Code("LB462", "an unfinished run is there",
         "A run that was cut off left its state beside the output; going on with it or throwing it away is your choice."),
    Code("LB463", "cannot write", "The disk is full, or the folder may not be written; nothing half-written is left."),
    Code("LB464", "the healing loss is no number", "Training diverged: the learning rate is too high for this plan."),
    Code("LB465", "artifact is damaged", "The record or the weights are not what was saved.", exit_code=6),
    Code("LB466", "not an artifact", "An artifact of lbdsl is a folder with lbdsl.json; a plan is a .lbplan file."),
    Code("LB467", "model is an artifact already", "Compressing twice stacks damage that no plan shows as one."),
    Code("LB468", "quality gate failed", "An assert on the finished model is false; the result is set aside.",
         "assert ppl_increase < 1%", exit_code=4),
    Code("LB469", "moved aside", "What stood under the output's name was kept under another one."),
    Code("LB470", "not judged", "Without an `eval` block or an assert on the finished model nobody knows how good it is."),
    Code("LB471", "the plan is for another number format",
         "Measurements and gates of a plan hold in the dtype it was made in.", exit_code=3),
    Code("LB472", "recipe file is not here", "The plan carries the recipe's text; there is no file to compare it with."),
    Code("LB473", "another base model", "Quality is measured against the model given, not the one in the record."),
    Code("LB481", "out of memory", "The model, its copy and what is measured must fit into the device's memory."),
    Code("LB482", "too little memory to heal",
         "Plans are applied, measured and judged with the weights on disk, but training needs them in memory.",
         "lbdsl apply recipe-with-heal.lbr A-VERY-LARGE-MODEL"),
    Code("LB480", "configuration file cannot be read", "`lbdsl.toml` must be TOML with names of options."),
)

CODES = LOADING + HYBRID + DATA + ARTIFACT
