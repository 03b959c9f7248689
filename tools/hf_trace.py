#!/usr/bin/env python3
"""Writes what a Llama or Qwen model computes in transformers as a trace for `plumb verify --against`.

    tools/hf_trace.py MODEL_FOLDER -p "Once upon a time" -o story.safetensors
    tools/hf_trace.py MODEL_FOLDER --ids 1,529,29989 -o ids.safetensors --dtype float64

q and k are as transformers pairs them (halves); the file says so (trace.qk_layout = hf).
"""
import argparse
import re
import torch
import transformers
from safetensors.torch import save_file

MODULES = re.compile(r"model\.embed_tokens|model\.norm|lm_head|model\.layers\.\d+(\.input_layernorm"
                     r"|\.post_attention_layernorm|\.self_attn\.([qkvo]_proj|[qk]_norm)"
                     r"|\.mlp\.(gate|up|down)_proj)?")
INPUTS = (".o_proj", ".down_proj", ".post_attention_layernorm")  # what goes in is a component too

ap = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
ap.add_argument("model", help="folder (or hub name) of a transformers model")
ap.add_argument("-p", "--prompt")
ap.add_argument("--ids", help="token ids, separated by commas, instead of a prompt")
ap.add_argument("-o", "--output", required=True)
ap.add_argument("--dtype", default="float32", help="what to compute in; float64 is best")
a = ap.parse_args()
if (a.prompt is None) == (a.ids is None):
    ap.error("give a prompt, or ids")
model = transformers.AutoModelForCausalLM.from_pretrained(a.model).to(getattr(torch, a.dtype)).eval()
ids = ([int(i) for i in a.ids.replace(",", " ").split()] if a.ids is not None else
       list(transformers.AutoTokenizer.from_pretrained(a.model)(a.prompt)["input_ids"]))
arrays = {"tokens": torch.tensor(ids)}


def hook(module, inputs, output, name):
    def keep(key, value):
        value = value[0] if isinstance(value, tuple) else value
        arrays[key] = value.detach().float().contiguous().clone()  # clone: modules may share one
    keep(name, output)
    if name.endswith(INPUTS):
        keep(name + ".input", inputs)


for name, module in model.named_modules():
    if MODULES.fullmatch(name):
        module.register_forward_hook(lambda m, i, o, name=name: hook(m, i, o, name))
with torch.no_grad():
    model(input_ids=torch.tensor([ids]), use_cache=False)
meta = {"trace.description": f"transformers {transformers.__version__}, {a.dtype}", "trace.qk_layout": "hf"}
if a.prompt is not None:
    meta["trace.text"] = a.prompt
save_file(arrays, a.output, meta)
print(f"{a.output}: {len(ids)} tokens, {len(arrays) - 1} arrays; plumb verify -m MODEL.gguf --against {a.output}")
