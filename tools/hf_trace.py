#!/usr/bin/env python3
"""Writes what a Llama or Qwen model computes in transformers as a trace for `plumb verify --against`.

    tools/hf_trace.py MODEL_FOLDER -p "Once upon a time" -o story.safetensors
    tools/hf_trace.py MODEL_FOLDER --ids 1,529,29989 -o ids.safetensors --dtype float64

Needs torch and transformers. q and k are as transformers pairs them (halves): the file says so itself
(trace.qk_layout = hf); a reader that does not look there needs --qk-layout hf.
"""
import argparse
import array
import json
import re
import struct
import sys

MODULES = re.compile(r"model\.embed_tokens|model\.norm|lm_head|model\.layers\.\d+(\.input_layernorm"
                     r"|\.post_attention_layernorm|\.self_attn\.([qkvo]_proj|[qk]_norm)"
                     r"|\.mlp\.(gate|up|down)_proj)?")
INPUTS = (".o_proj", ".down_proj", ".post_attention_layernorm")  # what goes in is a component too


def write_safetensors(path, arrays, metadata):
    """arrays: name -> (dtype, shape, little-endian bytes)"""
    header, at = {"__metadata__": metadata}, 0
    for name, (dtype, shape, data) in arrays.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in arrays.values():
            f.write(data)


def packed(dtype, code, shape, values):
    data = array.array(code, values)
    if sys.byteorder == "big":
        data.byteswap()
    return dtype, list(shape), data.tobytes()


def capture(model, ids, run):
    """Every component's array of one pass over ids; run: the pass itself."""
    arrays, hooks = {"tokens": packed("I64", "q", [len(ids)], ids)}, []

    def keep(name, value):
        value = value[0] if isinstance(value, tuple) else value
        arrays[name] = packed("F32", "f", value.shape,
                              value.detach().float().flatten().tolist())

    for name, module in model.named_modules():
        if MODULES.fullmatch(name):
            def hook(_module, inputs, output, name=name):
                keep(name, output)
                if name.endswith(INPUTS):
                    keep(name + ".input", inputs)
            hooks.append(module.register_forward_hook(hook))
    run()
    for h in hooks:
        h.remove()
    return arrays


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("model", help="folder (or hub name) of a transformers model")
    ap.add_argument("-p", "--prompt")
    ap.add_argument("--ids", help="token ids, separated by commas, instead of a prompt")
    ap.add_argument("-o", "--output", required=True)
    ap.add_argument("--dtype", default="float32", help="what to compute in; float64 is best")
    a = ap.parse_args()
    if (a.prompt is None) == (a.ids is None):
        ap.error("give a prompt, or ids")
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(a.model).to(getattr(torch, a.dtype))
    model.eval()
    if a.ids is not None:
        ids = [int(i) for i in a.ids.replace(",", " ").split()]
    else:
        ids = list(transformers.AutoTokenizer.from_pretrained(a.model)(a.prompt)["input_ids"])
    with torch.no_grad():
        arrays = capture(model, ids, lambda: model(input_ids=torch.tensor([ids]), use_cache=False))
    write_safetensors(a.output, arrays, {
        "trace.description": f"transformers {transformers.__version__}, {a.dtype}",
        "trace.qk_layout": "hf"})
    print(f"{a.output}: {len(ids)} tokens, {len(arrays) - 1} arrays; "
          f"plumb verify -m MODEL.gguf --against {a.output} (--qk-layout hf is in the file)")


if __name__ == "__main__":
    main()
