"""tools/hf_trace.py against stand-ins for torch, transformers and safetensors: which modules it hooks,
what it gives to be written. Reading such files is tests/unit/test_trace.c's."""
import contextlib
import io
import types

from harness import *

SCRIPT = os.path.join(ROOT, "tools", "hf_trace.py")


class Tensor:
    def __init__(self, shape, values):
        self.shape, self.values, self.copied = shape, values, False

    def detach(self):
        return self

    float = contiguous = detach

    def clone(self):
        copy = Tensor(self.shape, tuple(self.values))
        copy.copied = True
        return copy


class Module:
    def __init__(self):
        self.hooks = []

    def register_forward_hook(self, hook):
        self.hooks.append(hook)
        return types.SimpleNamespace(remove=lambda: self.hooks.remove(hook))

    def fire(self, x, y):
        for hook in list(self.hooks):
            hook(self, (x,), y)


LAYER = ["input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
         "self_attn.rotary_emb", "self_attn.o_proj", "self_attn", "post_attention_layernorm",
         "mlp.gate_proj", "mlp.act_fn", "mlp.up_proj", "mlp.down_proj", "mlp"]


class Model:
    """Module number i gives rows of i, as a tuple where it is a layer; its input is of -i."""

    def __init__(self):
        names = ["", "model", "model.embed_tokens"]
        for i in range(2):
            names += [f"model.layers.{i}.{n}" for n in LAYER] + [f"model.layers.{i}"]
        self.modules = [(n, Module()) for n in names + ["model.norm", "lm_head"]]

    def named_modules(self):
        return self.modules

    def to(self, dtype):
        assert dtype == "the float64"
        return self

    def eval(self):
        return self

    def __call__(self, input_ids, use_cache):
        n = len(input_ids[0])
        for i, (name, module) in enumerate(self.modules):
            y = Tensor((1, n, 2), [i] * 2 * n)
            module.fire(Tensor((1, n, 2), [-i] * 2 * n), (y,) if name.endswith(("0", "1")) else y)


model = Model()
written = {}  # path: (arrays, metadata)


def run_script(*argv):
    """The script with stand-in libraries."""
    torch = types.ModuleType("torch")
    torch.float64, torch.tensor, torch.no_grad = "the float64", list, contextlib.nullcontext
    hf = types.ModuleType("transformers")
    hf.__version__ = "0"
    hf.AutoModelForCausalLM = types.SimpleNamespace(from_pretrained=lambda path: model)
    hf.AutoTokenizer = types.SimpleNamespace(
        from_pretrained=lambda path: lambda text: {"input_ids": [1, 5, 70000]})
    st, st_torch = types.ModuleType("safetensors"), types.ModuleType("safetensors.torch")
    st_torch.save_file = lambda arrays, path, meta: written.update({path: (arrays, meta)})
    sys.modules.update({"torch": torch, "transformers": hf, "safetensors": st,
                        "safetensors.torch": st_torch})
    with open(SCRIPT, encoding="utf-8") as f:
        code = compile(f.read(), SCRIPT, "exec")
    sys.argv = [SCRIPT, *argv]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {"__name__": "__main__"})
    return out.getvalue()


@test("every named module and three inputs are written, the others are not")
def _():
    said = run_script("folder", "-p", "Hello", "-o", "hf.st", "--dtype", "float64")
    arrays, meta = written["hf.st"]
    assert "--against hf.st" in said
    assert meta["trace.qk_layout"] == "hf" and "float64" in meta["trace.description"]
    assert meta["trace.text"] == "Hello"
    want = {"tokens", "model.embed_tokens", "model.norm", "lm_head"}
    for i in range(2):
        want |= {f"model.layers.{i}.{n}" for n in LAYER
                 if n not in ("self_attn.rotary_emb", "self_attn", "mlp.act_fn", "mlp")}
        want |= {f"model.layers.{i}", f"model.layers.{i}.self_attn.o_proj.input",
                 f"model.layers.{i}.mlp.down_proj.input",
                 f"model.layers.{i}.post_attention_layernorm.input"}
    assert set(arrays) == want, set(arrays) ^ want
    assert arrays["tokens"] == [1, 5, 70000]
    for i, (name, module) in enumerate(model.modules):
        for key, value in ((name, i), (name + ".input", -i)):
            if key not in arrays: continue
            assert arrays[key].shape == (1, 3, 2) and arrays[key].values == (value,) * 6, key
            assert arrays[key].copied, key  # modules may share memory, which the writer refuses
        module.hooks.clear()


@test("ids instead of a prompt; neither or both are refused")
def _():
    run_script("folder", "--ids", "7, 8", "-o", "ids.st", "--dtype", "float64")
    assert written["ids.st"][0]["tokens"] == [7, 8] and "trace.text" not in written["ids.st"][1]
    for bad in ([], ["-p", "x", "--ids", "1"]):
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                run_script("folder", "-o", "bad.st", *bad)
            assert False
        except SystemExit as e:
            assert e.code == 2


run_tests()
