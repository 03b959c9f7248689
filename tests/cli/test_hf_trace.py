"""tools/hf_trace.py against stand-ins for torch and transformers: which modules it hooks, what it
writes. Reading its files is tests/unit/test_trace.c's."""
import contextlib
import io
import types

from harness import *

SCRIPT = os.path.join(ROOT, "tools", "hf_trace.py")


class Tensor:
    def __init__(self, shape, values):
        self.shape, self.values = shape, values

    def detach(self):
        return self

    float = flatten = detach

    def tolist(self):
        return list(self.values)


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
        pass

    def __call__(self, input_ids, use_cache):
        n = len(input_ids[0])
        for i, (name, module) in enumerate(self.modules):
            y = Tensor((1, n, 2), [i] * 2 * n)
            module.fire(Tensor((1, n, 2), [-i] * 2 * n), (y,) if name.endswith(("0", "1")) else y)


model = Model()


def run_script(*argv):
    """The script's main() with stand-in libraries."""
    torch = types.ModuleType("torch")
    torch.float64, torch.tensor, torch.no_grad = "the float64", list, contextlib.nullcontext
    hf = types.ModuleType("transformers")
    hf.__version__ = "0"
    hf.AutoModelForCausalLM = types.SimpleNamespace(from_pretrained=lambda path: model)
    hf.AutoTokenizer = types.SimpleNamespace(
        from_pretrained=lambda path: lambda text: {"input_ids": [1, 5, 70000]})
    sys.modules.update(torch=torch, transformers=hf)
    with open(SCRIPT, encoding="utf-8") as f:
        code = compile(f.read(), SCRIPT, "exec")
    sys.argv = [SCRIPT, *argv]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {"__name__": "__main__"})
    return out.getvalue()


def read_safetensors(path):
    with open(path, "rb") as f:
        data = f.read()
    n, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + n])
    meta = header.pop("__metadata__")
    arrays, end = {}, 0
    for name, t in header.items():
        a, b = t["data_offsets"]
        assert a == end, name
        end = b
        code = {"F32": "f", "I64": "q"}[t["dtype"]]
        raw = data[8 + n + a:8 + n + b]
        count = 1
        for d in t["shape"]:
            count *= d
        arrays[name] = (t["shape"], struct.unpack(f"<{count}{code}", raw))
    assert len(data) == 8 + n + end and n % 8 == 0
    return meta, arrays


@test("every named module and three inputs are written, the others are not")
def _():
    path = tmp("hf.safetensors")
    said = run_script("folder", "-p", "Hello", "-o", path, "--dtype", "float64")
    meta, arrays = read_safetensors(path)
    assert "--qk-layout hf" in said
    assert meta["trace.qk_layout"] == "hf" and "float64" in meta["trace.description"]
    want = {"tokens", "model.embed_tokens", "model.norm", "lm_head"}
    for i in range(2):
        want |= {f"model.layers.{i}.{n}" for n in LAYER
                 if n not in ("self_attn.rotary_emb", "self_attn", "mlp.act_fn", "mlp")}
        want |= {f"model.layers.{i}", f"model.layers.{i}.self_attn.o_proj.input",
                 f"model.layers.{i}.mlp.down_proj.input",
                 f"model.layers.{i}.post_attention_layernorm.input"}
    assert set(arrays) == want, set(arrays) ^ want
    assert arrays["tokens"] == ([3], (1, 5, 70000))
    for i, (name, module) in enumerate(model.modules):
        assert not module.hooks, name
        if name in arrays:
            assert arrays[name] == ([1, 3, 2], (float(i),) * 6), name
        if name + ".input" in arrays:
            assert arrays[name + ".input"] == ([1, 3, 2], (float(-i),) * 6), name


@test("ids instead of a prompt; neither or both are refused")
def _():
    path = tmp("ids.safetensors")
    run_script("folder", "--ids", "7, 8", "-o", path, "--dtype", "float64")
    assert read_safetensors(path)[1]["tokens"] == ([2], (7, 8))
    for bad in ([], ["-p", "x", "--ids", "1"]):
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                run_script("folder", "-o", path, *bad)
            assert False
        except SystemExit as e:
            assert e.code == 2


run_tests()
